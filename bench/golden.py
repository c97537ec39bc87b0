"""What the program writes, as sums: proof that a change of the code changes no byte of it.

    python bench/golden.py record BEFORE.json      # before a change
    python bench/golden.py record AFTER.json       # after it, on the same machine
    python bench/golden.py compare BEFORE.json AFTER.json

Runs the command line on the bundled model and on random ones (Qwen2 with a tied head and without,
Llama), with every method and effort: targets that share a walk over the layers, single ones behind
their own rounded layers, automatic ones, and with an importance matrix. Of each artifact it keeps
the sha256 of every file and of the weights alone, and of some runs the numbers of report.json. Sums
of floating point differ between processors, so only records of one machine can be compared;
`compare` exits with 1 and names what differs.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "models" / "tiny-qwen2.5"

SIZES: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "eos_token_id": 4093,
    "torch_dtype": "bfloat16",
}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": 5e5}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2-tied": SIZES | QWEN2 | {"tie_word_embeddings": True},
    "qwen2-untied": SIZES | QWEN2 | {"tie_word_embeddings": False},
    "llama": SIZES | LLAMA | {"tie_word_embeddings": False},
}
"""config.json of each random model."""

TEXT = ["--calib-rows", "16", "--calib-length", "64", "--eval-rows", "6", "--eval-length", "64"]
SHARED = ["--to", "gguf:Q4_K_M", "--to", "gguf:Q4_0", "--to", "onnx:int4", "--to", "gguf:Q2_K"]
METHODS = ("gptq", "awq", "awq-gptq")
RUNS: dict[str, list[str]] = {
    "rtn": ["--method", "rtn", *SHARED],
    **{
        f"{m}-{e}": ["--method", m, "--effort", e, *SHARED]
        for m in METHODS
        for e in ("low", "medium")
    },
    # tuning takes most of the time: of one target
    **{f"{m}-high": ["--method", m, "--effort", "high", "--to", "gguf:Q2_K"] for m in METHODS},
    "alone-low": ["--effort", "low", "--to", "gguf:Q4_K_M"],
    "alone-medium": ["--effort", "medium", "--to", "gguf:Q4_K_M"],
    "alone-onnx": ["--effort", "medium", "--to", "onnx:int4"],
    "auto-medium": ["--effort", "medium", "--to", "gguf:auto", "--target-bpw", "5"],
}
"""Name of a run -> flags of `quantize run`, besides the model's."""
CHECKED = ("rtn", "gptq-low", "alone-medium")
"""Runs whose artifacts are judged as well: their reports' numbers are kept."""

UNSTABLE = ("speed", "version", "machine")
"""Keys of report.json that no two runs share."""


def make_models(folder: Path) -> dict[str, Path]:
    """The bundled model, and the random ones, written by transformers' own layout of names."""
    found = {"bundled": BUNDLED}
    for seed, (name, config) in enumerate(MODELS.items()):
        found[name] = folder / name
        in_a_fork(partial(random_model, found[name], config, seed), name)
    return found


def random_model(folder: Path, config: dict[str, Any], seed: int) -> None:
    """A checkpoint of random bfloat16 weights with the bundled tokenizer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    rows = {"q_proj": hidden, "k_proj": kv, "v_proj": kv}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for layer in range(config["num_hidden_layers"]):
        blk = f"model.layers.{layer}"
        for name, count in rows.items():
            shapes[f"{blk}.self_attn.{name}.weight"] = (count, hidden)
            if config["model_type"] == "qwen2":
                shapes[f"{blk}.self_attn.{name}.bias"] = (count,)
        shapes[f"{blk}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{blk}.mlp.gate_proj.weight"] = shapes[f"{blk}.mlp.up_proj.weight"] = (ffn, hidden)
        shapes[f"{blk}.mlp.down_proj.weight"] = (hidden, ffn)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{blk}.{norm}.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    weights = {
        name: (torch.randn(shape, generator=generator) * 0.05 + ("norm" in name)).bfloat16()
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((BUNDLED / name).read_bytes())


def in_a_fork(work: Callable[[], None], what: str) -> None:
    """Do something in a fork: torch is imported once, and its threads never cross a fork."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            work()
        except SystemExit as left:
            os._exit(int(left.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(2)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        sys.exit(f"{what} ended with {status}")


def quantize(*arguments: str) -> None:
    """Run the command line."""
    from quantize import cli

    sys.argv = ["quantize", *arguments]
    in_a_fork(cli.main, " ".join(arguments))


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file that a run left but the reports, and of the tensors of each GGUF."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.parent == folder and path.name in ("report.json", "report.html", "README.md"):
            continue
        name = str(path.relative_to(folder))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix == ".gguf":
            found[f"{name} weights"] = gguf_weights(path)
    return found


def gguf_weights(path: Path) -> str:
    """sha256 over the name, the type and the bytes of every tensor."""
    from gguf import GGUFReader

    digest = hashlib.sha256()
    for tensor in GGUFReader(path).tensors:
        digest.update(f"{tensor.name} {tensor.tensor_type}".encode())
        digest.update(tensor.data.tobytes())
    return digest.hexdigest()


def numbers(value: Any) -> Any:
    """A report without what changes from run to run."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items() if key not in UNSTABLE}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def record(path: Path, only: list[str] | None) -> None:
    """Run everything and write the sums."""
    sys.path.insert(0, str(ROOT))
    importlib.import_module("torch")  # before it has started any thread
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for model, checkpoint in make_models(folder).items():
            if only and model not in only:
                continue
            imatrix = folder / f"{model}.gguf"
            quantize("imatrix", str(checkpoint), *TEXT[:4], "-o", str(imatrix))
            found[f"{model} imatrix file"] = {
                "file": hashlib.sha256(imatrix.read_bytes()).hexdigest()
            }
            for name, flags in (RUNS | {"imatrix": ["--imatrix", str(imatrix), *SHARED]}).items():
                text = TEXT[4:] if name == "imatrix" else TEXT
                output = folder / "out" / model / name
                judged = [] if name in CHECKED else ["--no-check"]
                quantize("run", str(checkpoint), *flags, *text, *judged, "-o", str(output))
                run = found[f"{model} {name}"] = sums(output)
                print(f"{model} {name}: {len(run)} sums", flush=True)
                if not judged:
                    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
                    run["report"] = numbers(report)
                path.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    print(f"{path}: {len(found)} runs")


def compare(before: Path, after: Path) -> None:
    """Say what two records do not share; exit with 1 when there is anything."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    lines = list(differences(old, new, ""))
    for line in lines:
        print(line)
    count = sum(len(run) for run in old.values())
    print(f"{len(old)} runs, {count} sums and reports: {len(lines) or 'no'} differences")
    sys.exit(1 if lines else 0)


def differences(old: Any, new: Any, where: str) -> list[str]:
    """A line for every place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f" {key}", old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())]
        return [line for at, *pair in pairs for line in differences(*pair, where + at)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            line for at, pair in enumerate(pairs) for line in differences(*pair, f"{where}[{at}]")
        ]
    return [] if old == new else [f"{where.strip()}: {str(old)[:60]} -> {str(new)[:60]}"]


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("path", type=Path)
    recording.add_argument("--only", nargs="+", choices=["bundled", *MODELS])
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    flags = parser.parse_args()
    if flags.command == "record":
        record(flags.path, flags.only)
    else:
        compare(flags.before, flags.after)


if __name__ == "__main__":
    main()
