"""Peak memory of a run, on random checkpoints with the shapes of real models.

    python bench/memory.py [--only 0.5B 0.5B-300MiB 1.5B-2 1.5B-4 57B-A14B-1 72B-1 405B-1]
                           [--keep FOLDER]

Qwen2.5-0.5B's true shape, as a preset and as an automatic target of 300 MiB, and 1.5B's with two
and with four layers: memory must not grow with layers, because one layer is in memory at a time.
Of Qwen2-57B-A14B, 64 experts a layer, one layer: of those one expert is in memory at a time.
One layer of Qwen2.5-72B and of Llama-3.1-405B with embedding and head run under --max-ram 16GiB;
they take hours on a core and 7 and 15 GB of disk for the checkpoint, and run when --only names
them. 72B-1-quarter has a quarter of 72B's widths, under 1.1 GiB.
Each run is a process of its own, as a user starts it, and the system says how many bytes of it were
resident at most, pages of mapped files included.
Writes results/memory.json, results/memory_experts.json of models with experts, and
results/memory_limit.json of runs with a limit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import common
from quantize.checkpoint import bundled
from quantize.plan import Assignment, Plan
from quantize.run.cost import BASE_BYTES
from quantize.run.disk_usage import run_cost
from quantize.run.forecast import seconds_of
from quantize.run.job import Job
from quantize.run.limited import limited
from runtime.gguf_file import open_gguf
from tests.random_checkpoint import random_checkpoint

QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
SMALL = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14}
LARGE = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12}
EXPERTS = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20480,
    "norm_topk_prob": False,
    "tie_word_embeddings": False,
}
"""Qwen2-57B-A14B."""
ONE_LAYER = {"num_hidden_layers": 1, "tie_word_embeddings": False}
QWEN_72B = ONE_LAYER | {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
LLAMA_405B: dict[str, Any] = ONE_LAYER | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "max_position_embeddings": 131072,
    "hidden_act": "silu",
}
QUARTER = {"hidden_size": 2048, "intermediate_size": 7392, "num_attention_heads": 16}
MODELS: dict[str, dict[str, Any]] = {
    "0.5B": QWEN | SMALL | {"num_hidden_layers": 24},
    "1.5B-2": QWEN | LARGE | {"num_hidden_layers": 2},
    "1.5B-4": QWEN | LARGE | {"num_hidden_layers": 4},
    "57B-A14B-1": QWEN | EXPERTS | {"num_hidden_layers": 1},
    "72B-1-quarter": QWEN | QWEN_72B | QUARTER | {"num_key_value_heads": 2},
    "72B-1": QWEN | QWEN_72B,
    "405B-1": LLAMA_405B,
}
"""config.json of each random model; "1.5B-2" has two of the 28 layers."""
FLAGS: dict[str, Any] = {
    "to": ["gguf:Q4_K_M"],
    "rows": 8,
    "length": 512,
    "check": False,
    "effort": "low",
}
LIMITED = FLAGS | {"rows": 2, "max_ram": "16GiB"}
SIZED = {"to": ["gguf:auto"], "target_size": "300MiB", "effort": "medium"}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, FLAGS) for name in MODELS} | {
    "0.5B-300MiB": ("0.5B", FLAGS | SIZED),
    "57B-A14B-1": ("57B-A14B-1", FLAGS | {"effort": "medium"}),
    "72B-1-quarter": ("72B-1-quarter", LIMITED | {"max_ram": "1.1GiB"}),
    "72B-1": ("72B-1", LIMITED),
    "405B-1": ("405B-1", LIMITED),
}
"""Name of a row -> its model, and the flags of the plan."""
HOURS = ("72B-1", "405B-1")
"""Rows that are made only when they are asked for."""


def quantize(model: Path, given: dict[str, Any], output: Path) -> tuple[int, float]:
    """Run the command line; peak resident bytes and seconds."""
    arguments = ["run", str(model), "--to", *given["to"], "--no-check", "-o", str(output)]
    arguments += ["--calib-rows", str(given["rows"]), "--calib-length", str(given["length"])]
    arguments += ["--effort", given["effort"]]
    if "max_ram" in given:
        arguments += ["--max-ram", given["max_ram"]]
    if "target_size" in given:
        arguments += ["--target-size", given["target_size"]]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "quantize.cli", *arguments], cwd=common.ROOT)
    # wait4 tells of this one child; on Linux ru_maxrss is in KiB
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"quantizing {model} failed with exit code {process.returncode}")
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def row(name: str, folder: Path) -> dict[str, Any]:
    """Make a random model when it is not there yet, quantize it, and compare with the forecast."""
    shape, given = RUNS[name]
    model = folder / shape
    if not (model / "config.json").exists():
        # a process of its own: what it took must not be counted here
        code = f"from bench.memory import make; make({shape!r}, {str(model)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=common.ROOT, check=True)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        peak, seconds = quantize(model, given, Path(output))
        artifact = next(Path(output).glob("*.gguf"))
        size, written = artifact.stat().st_size, open_gguf(artifact).tensors
        types = {name: tensor.qtype for name, tensor in written.items() if tensor.is_matrix}
    job = Job.resolve(Plan.from_flags(None, {**given, "model": str(model)}))
    cost = run_cost(limited(job.assigned([Assignment(job.targets[0], types)])), [size])
    expected = BASE_BYTES + cost.memory
    return {
        "model": name,
        "target": given["to"][0],
        "effort": given["effort"],
        **({"max_ram": given["max_ram"]} if "max_ram" in given else {}),
        "layers": job.checkpoint.arch.layers,
        "checkpoint_bytes": sum(f.stat().st_size for f in model.glob("*.safetensors")),
        "artifact_bytes": size,
        "peak_bytes": peak,
        "forecast_bytes": expected,
        "forecast_ratio": round(expected / peak, 3),
        "seconds": round(seconds, 1),
        "forecast_seconds": round(seconds_of(cost), 1),
    }


def make(name: str, folder: str) -> None:
    """Write one of the random models, a shard at a time."""
    random_checkpoint(Path(folder), MODELS[name], bundled())


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    usual = [name for name in RUNS if name not in HOURS]
    parser.add_argument("--only", nargs="+", choices=RUNS, default=usual)
    parser.add_argument("--keep", type=Path, help="folder for the random models, kept afterwards")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row(name, folder) for name in flags.only]
    print(common.table(rows))
    for table in ("memory", "memory_experts", "memory_limit"):
        if of := [row for row in rows if table_of(row["model"]) == table]:
            given = RUNS[of[0]["model"]][1]
            common.write(table, of, calibration_tokens=given["rows"] * given["length"])


def table_of(name: str) -> str:
    """The file of results that a row is written to."""
    shape, given = RUNS[name]
    if "max_ram" in given:
        return "memory_limit"
    return "memory_experts" if "num_experts" in MODELS[shape] else "memory"


if __name__ == "__main__":
    main()
