"""Every reader of files: a sound file, how it is damaged, and what a command does to open it."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgequant
from export import CONTAINERS
from export.gguf_vocab import vocabulary
from quantize import inspection, loading, verification
from quantize.calibration import imatrix
from quantize.checkpoint import bundled, open_checkpoint
from quantize.plan import Plan
from quantize.progress import silent
from quantize.report.baseline import read_baseline
from quantize.report.judge import check_files
from quantize.report.report import read_report
from runtime.generate import generate_text
from runtime.sample import Sampler
from tests.conftest import CONFIGS, SIZES
from tests.gguf_made import bytes_alphabet, tiny_gguf
from tests.random_checkpoint import random_checkpoint
from tests.small_models import rounded
from tests.trust import damage

Damage = Callable[[random.Random, Path], tuple[str, bytes]]


@dataclass(frozen=True)
class Subject:
    """One file that is read."""

    make: Callable[[Path], Path]
    """Makes what a user names in an empty folder; returns it."""
    file: str
    """The file that is damaged, from that folder."""
    damage: Damage
    open: Callable[[Path], Any]
    """What a command does with it."""


def by_json(draw: random.Random, path: Path) -> tuple[str, bytes]:
    return damage.json_bytes(draw, path.read_bytes())


def by_bytes(draw: random.Random, path: Path) -> tuple[str, bytes]:
    return damage.some_bytes(draw, path.read_bytes())


def by_text(draw: random.Random, path: Path) -> tuple[str, bytes]:
    """Text with words of templates put in, or damaged bytes."""
    if draw.random() < 0.5:
        return by_bytes(draw, path)
    text = path.read_text()
    at = draw.randrange(len(text) + 1)
    word = draw.choice(("{{", "}}", "{%", "%}", "{% endfor %}", "{{ 1/0 }}", "{{ messages.x.y }}"))
    return f"{word} at {at}", (text[:at] + word + text[at:]).encode()


def by_shard_header(draw: random.Random, path: Path) -> tuple[str, bytes]:
    """The JSON header of a safetensors file, or bytes of it."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    if draw.random() < 0.2:
        return damage.some_bytes(draw, data, end)
    what, header = damage.json_bytes(draw, data[8:end])
    return what, len(header).to_bytes(8, "little") + header + data[end:]


def by_toml(draw: random.Random, path: Path) -> tuple[str, bytes]:
    """A plan whose values are of another kind, or damaged bytes."""
    if draw.random() < 0.2:
        return by_bytes(draw, path)
    lines = path.read_text().splitlines()
    at = draw.randrange(len(lines))
    value = draw.choice(
        ('""', '"x"', "0", "-1", "1e400", "nan", "-inf", "9" * 30, "true", "[]", '["x"]', "[1]")
        + ("[[[]]]", "{}", "{a = 1}", "1979-05-27", '"\\u001b[31m"', '"a\\u0000"', "[" * 500)
    )
    lines[at] = f"{lines[at].partition(' =')[0]} = {value}"
    return lines[at][:60], "\n".join(lines).encode()


def by_graph(draw: random.Random, path: Path) -> tuple[str, bytes]:
    """A graph with another number, name, size or place."""
    import onnx

    if draw.random() < 0.3:
        return by_bytes(draw, path)
    model = onnx.load(path, load_external_data=False)
    number = draw.choice((0, -1, 3, 2**31, 2**62, -(2**63)))
    word = draw.choice(("", "x", "../x", "/dev/null", "9" * 30, "-1", "\x1b[31m"))
    which = draw.randrange(5)
    if which == 0:
        node = draw.choice([node for node in model.graph.node if node.attribute])
        draw.choice(node.attribute).i = number
    elif which == 1:
        node = draw.choice([node for node in model.graph.node if node.input])
        node.input[draw.randrange(len(node.input))] = word
    else:
        kept = [proto for proto in model.graph.initializer if proto.external_data]
        proto = draw.choice(kept)
        if which == 2 and proto.dims:
            proto.dims[draw.randrange(len(proto.dims))] = number
        elif which == 3:
            proto.data_type = draw.choice((0, 1, 2, 3, 10, 99))
        else:
            draw.choice(proto.external_data).value = word
    return f"graph change {which}", model.SerializeToString()


# what a user names -----------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "Hi"}]


def checkpoint(folder: Path) -> Path:
    """A random Qwen2 in shards."""
    random_checkpoint(folder / "model", SIZES | CONFIGS["qwen2-tied"], bundled())
    model = folder / "model"
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "chat_template.jinja").write_text(settings["chat_template"])
    return model


def phi(folder: Path) -> Path:
    """A random Phi-3, which has rope factors."""
    random_checkpoint(folder / "model", SIZES | CONFIGS["phi3"], bundled())
    return folder / "model"


def mixture(folder: Path) -> Path:
    """A random mixture of experts."""
    from tests.moe_models import QWEN3

    random_checkpoint(folder / "model", SIZES | QWEN3, bundled())
    return folder / "model"


def no_template_file(folder: Path) -> Path:
    """The same with its template in tokenizer_config.json."""
    model = checkpoint(folder)
    (model / "chat_template.jinja").unlink()
    return model


def marked(folder: Path) -> Path:
    """The same with special_tokens_map.json and added_tokens.json."""
    model = no_template_file(folder)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    special = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|im_end|>", "special": True}}
    (model / "special_tokens_map.json").write_text(json.dumps(special))
    tokens = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
    table = {token["content"]: token["id"] for token in tokens}
    (model / "added_tokens.json").write_text(json.dumps(table))
    return model


def packed(container: str) -> Callable[[Path], Path]:
    """A folder of packed linears."""

    def make(folder: Path) -> Path:
        settings: dict[str, Any] = {"method": "rtn", "rewrites": "none", "check": False}
        done = edgequant.quantize(None, to=f"{container}:int4", output=folder, **settings)
        return done.artifacts[0].path

    return make


def onnx(folder: Path) -> Path:
    """A folder of onnxruntime."""
    source, out = open_checkpoint(bundled()), folder / "onnx"
    CONTAINERS["onnx"].write(out, source.arch, rounded(source, "INT4_32"), source.folder, {})
    return out


def gguf(folder: Path) -> Path:
    """A GGUF of one layer with a byte-level vocabulary."""
    tokens = [*bytes_alphabet(), "ab", "<s>", "</s>"]
    keys: dict[str, Any] = {
        "general.alignment": 32,
        "general.license": "mit",
        "general.sampling.temp": 0.7,
        "general.sampling.top_k": 20,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 2.0,
        "llama.rope.scaling.original_context_length": 32,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
        "edgequant.eos_token_ids": [258],
    }
    return tiny_gguf(folder / "a.gguf", tokens, keys, types=[1] * 257 + [3, 3])


def spm_gguf(folder: Path) -> Path:
    """A GGUF with a vocabulary of sentencepiece."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁a", "a", "▁", "b"]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": True,
    }
    types = [2, 3, 3, *[6] * 256, 1, 1, 1, 1]
    return tiny_gguf(folder / "a.gguf", tokens, keys, types=types)


def own_gguf(folder: Path) -> Path:
    """A GGUF as a run writes it, with provenance and hashes."""
    settings: dict[str, Any] = {"method": "rtn", "rewrites": "none", "check": False}
    return edgequant.quantize(None, "gguf:Q4_0", folder, **settings).artifacts[0].path


def imatrix_gguf(folder: Path) -> Path:
    arch = open_checkpoint(bundled()).arch
    shapes = {n: s for n, s in arch.shapes().items() if n.startswith("blk.") and len(s) == 2}
    means = {name: np.ones(shape[1], np.float32) for name, shape in shapes.items()}
    made = imatrix.Imatrix(means, dict.fromkeys(means, 5), ("text",), 2, 512)
    imatrix.write(folder / "a.gguf", made)
    return folder / "a.gguf"


def imatrix_dat(folder: Path) -> Path:
    arch = open_checkpoint(bundled()).arch
    shapes = {n: s for n, s in arch.shapes().items() if n.startswith("blk.") and len(s) == 2}

    def number(value: int) -> bytes:
        return value.to_bytes(4, "little")

    out = number(len(shapes))
    for name, shape in shapes.items():
        out += number(len(name)) + name.encode() + number(2) + number(shape[1])
        out += np.ones(shape[1], "<f4").tobytes()
    (folder / "a.dat").write_bytes(out + number(2) + number(4) + b"text")
    return folder / "a.dat"


def plan(folder: Path) -> Path:
    text = (
        'to = ["gguf:auto"]\nmodel = "models"\noutput = "dist"\nmethod = "gptq"\n'
        'effort = "low"\nrewrites = ["none"]\nrules = ["attn_v=Q6_K"]\ntarget_size = "3MB"\n'
        'calibration = "builtin"\nrows = 4\nlength = 64\nseed = 1\ndamp = 0.01\n'
        "allow_fallback = true\nmax_ram = 16\noverwrite = true\neval_rows = 2\nmax_kl = 0.5\n"
        'min_top1 = 0.1\nmax_ppl_ratio = 2\nbaseline = "report.json"\ncheck = true\n'
        'adapter = []\ndevice = "cpu"\n'
    )
    (folder / "plan.toml").write_text(text)
    return folder / "plan.toml"


def baseline(folder: Path) -> Path:
    """The report on the bundled model in INT4."""
    report = check_files([onnx(folder)], None, None, "native", {"eval_rows": 2}, silent)
    (folder / "report.json").write_text(json.dumps(report.to_json()))
    return folder / "report.json"


def adapter(folder: Path) -> Path:
    """A LoRA folder for a random Qwen2 beside it."""
    import torch
    from safetensors.torch import save_file

    checkpoint(folder)
    out = folder / "lora"
    out.mkdir()
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "x",
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "bias": "none",
        "modules_to_save": None,
        "fan_in_fan_out": False,
    }
    (out / "adapter_config.json").write_text(json.dumps(settings))
    start = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {
            f"{start}.lora_A.weight": torch.ones(2, SIZES["hidden_size"]),
            f"{start}.lora_B.weight": torch.ones(SIZES["hidden_size"], 2),
        },
        out / "adapter_model.safetensors",
    )
    return out


# what a command does ---------------------------------------------------------------------------


def as_source(path: Path) -> None:
    """What `run`, `plan` and `convert` begin with, and what a writer asks of the tokenizer."""
    found = open_checkpoint(path)
    if path.is_dir():
        vocabulary(found.files, found.arch.vocab)
    inspection.render_description(inspection.describe(path))
    for name in list(found.tensors)[:3]:
        found.tensors[name].decode()
    chat(found.tokenizer)


def chat(tokenizer: Any) -> None:
    """A template's text, refused in a sentence by the command line (loading.render)."""
    from types import SimpleNamespace

    if tokenizer is not None and tokenizer.chat_template:
        text = loading.render(SimpleNamespace(tokenizer=tokenizer), MESSAGES)  # type: ignore[arg-type]
        tokenizer.decode(tokenizer.encode(text[:2000]))


def as_artifact(path: Path) -> None:
    """`show`, `generate --chat` and, of a folder of ours, `verify`."""
    inspection.render_description(inspection.describe(path))
    engine = loading.open_any(path)
    if engine.tokenizer is not None:
        for _ in generate_text(engine, "a b", 2, Sampler(0.0, 0, 1.0, 0), ()):
            pass
        chat(engine.tokenizer)
    else:
        engine.logits(np.arange(3).reshape(1, 3))
    if path.is_dir():
        verification.verify(path)


def as_our_gguf(path: Path) -> None:
    """`verify`, `show`, and `plan` with the file as the original."""
    verification.verify(path)
    as_source(path)


def as_shown(path: Path) -> None:
    """`show` and `generate --backend numpy`: no library sees the graph."""
    inspection.render_description(inspection.describe(path))
    loading.open_any(path, "numpy").logits(np.arange(3).reshape(1, 3))


def as_imatrix(path: Path) -> None:
    imatrix.for_model(path, open_checkpoint(bundled()).arch)


def as_plan(path: Path) -> None:
    Plan.from_flags(path, {})


def as_baseline(path: Path) -> None:
    """What --baseline reads, the model and the text being those of the report itself."""
    report = read_report(path)
    read_baseline(path, report.original, report.evaluation, [{r.label} for r in report.results])


def as_adapter(path: Path) -> None:
    found = open_checkpoint(path.parent / "model", [path])
    found.tensors["blk.0.attn_q.weight"].decode()


SUBJECTS: dict[str, Subject] = {
    "config": Subject(checkpoint, "config.json", by_json, as_source),
    "config of phi3": Subject(phi, "config.json", by_json, as_source),
    "config of a mixture": Subject(mixture, "config.json", by_json, as_source),
    "generation_config": Subject(checkpoint, "generation_config.json", by_json, as_source),
    "tokenizer": Subject(checkpoint, "tokenizer.json", by_json, as_source),
    "tokenizer_config": Subject(no_template_file, "tokenizer_config.json", by_json, as_source),
    "special_tokens_map": Subject(marked, "special_tokens_map.json", by_json, as_source),
    "added_tokens": Subject(marked, "added_tokens.json", by_json, as_source),
    "chat template": Subject(checkpoint, "chat_template.jinja", by_text, as_source),
    "shard header": Subject(checkpoint, "model-0.safetensors", by_shard_header, as_source),
    "shard index": Subject(checkpoint, "model.safetensors.index.json", by_json, as_source),
    "gguf": Subject(gguf, "", damage.gguf_bytes, as_artifact),
    "gguf of sentencepiece": Subject(spm_gguf, "", damage.gguf_bytes, as_artifact),
    "gguf of ours": Subject(own_gguf, "", damage.gguf_bytes, as_our_gguf),
    "onnx graph": Subject(onnx, "model.onnx", by_graph, as_shown),
    "genai_config": Subject(onnx, "genai_config.json", by_json, as_artifact),
    "onnx config": Subject(onnx, "config.json", by_json, as_artifact),
    "gptq quantize_config": Subject(packed("gptq"), "quantize_config.json", by_json, as_artifact),
    "gptq config": Subject(packed("gptq"), "config.json", by_json, as_artifact),
    "awq config": Subject(packed("awq"), "config.json", by_json, as_artifact),
    "imatrix": Subject(imatrix_gguf, "", damage.gguf_bytes, as_imatrix),
    "imatrix dat": Subject(imatrix_dat, "", by_bytes, as_imatrix),
    "baseline": Subject(baseline, "", by_json, as_baseline),
    "plan": Subject(plan, "", by_toml, as_plan),
    "adapter_config": Subject(adapter, "adapter_config.json", by_json, as_adapter),
    "adapter header": Subject(adapter, "adapter_model.safetensors", by_shard_header, as_adapter),
}
"""By what is damaged."""
