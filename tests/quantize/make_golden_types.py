"""Record the type that llama.cpp gives each tensor: the oracle of export/gguf_presets.py.

Not a test and not run by one. It needs `pip install llama-cpp-python gguf numpy`:

    python tests/quantize/make_golden_types.py > tests/quantize/golden_types.json

Random models of several shapes are written as GGUF files and quantized by llama.cpp to every
preset, with a flat importance matrix for the linears, as `llama-quantize --imatrix` does. Only the
types are kept.
"""

import ctypes
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

FTYPES = {
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "Q8_0": 7,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "F16": 1,
    "BF16": 32,
    "F32": 0,
}
"""llama.cpp's numbers of the presets (enum llama_ftype)."""

KEYS = ("family", "layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "tied")
CASES: tuple[tuple[Any, ...], ...] = (
    ("qwen2", 2, 256, 512, 8, 2, 32, True),  # smallest
    ("qwen2", 24, 224, 512, 7, 1, 32, True),  # 0.5B: a hidden width that 256 does not divide
    ("qwen2", 28, 256, 512, 8, 2, 32, True),  # 1.5B
    ("qwen2", 28, 256, 512, 8, 1, 32, False),  # 7B
    ("qwen2", 36, 256, 512, 8, 1, 32, True),  # 3B
    ("qwen2", 48, 256, 512, 8, 1, 32, False),  # 14B
    ("qwen2", 80, 256, 384, 8, 1, 32, False),  # 72B: an ffn width that 256 does not divide
    ("qwen2", 24, 96, 160, 6, 3, 16, False),  # only 32 divides
    ("qwen2", 2, 80, 144, 5, 1, 16, False),  # nothing divides
    ("llama", 16, 256, 512, 8, 2, 32, True),  # 1B
    ("llama", 32, 256, 512, 8, 8, 32, False),  # Llama 2 7B: every head its own keys
    ("llama", 32, 256, 512, 8, 4, 32, False),  # two query heads a key head
    ("llama", 80, 256, 512, 8, 1, 32, False),  # 70B
)
VOCAB = 320


def shapes(case: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Name -> (rows, cols) of every 2-D weight."""
    q, kv = case["heads"] * case["head_dim"], case["kv_heads"] * case["head_dim"]
    hidden, ffn = case["hidden"], case["ffn"]
    out = {"token_embd.weight": (VOCAB, hidden)}
    for layer in range(case["layers"]):
        linears = {
            "attn_q": (q, hidden),
            "attn_k": (kv, hidden),
            "attn_v": (kv, hidden),
            "attn_output": (hidden, q),
            "ffn_gate": (ffn, hidden),
            "ffn_up": (ffn, hidden),
            "ffn_down": (hidden, ffn),
        }
        out |= {f"blk.{layer}.{name}.weight": shape for name, shape in linears.items()}
    return out if case["tied"] else out | {"output.weight": (VOCAB, hidden)}


def write_model(path: Path, case: dict[str, Any]) -> None:
    """A random float32 model of the case's sizes."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, case["family"])
    writer.add_block_count(case["layers"])
    writer.add_context_length(128)
    writer.add_embedding_length(case["hidden"])
    writer.add_feed_forward_length(case["ffn"])
    writer.add_head_count(case["heads"])
    writer.add_head_count_kv(case["kv_heads"])
    writer.add_key_length(case["head_dim"])
    writer.add_value_length(case["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    for name, shape in shapes(case).items():
        writer.add_tensor(name, random.normal(size=shape).astype(np.float32))
    for layer in range(case["layers"]):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(case["hidden"], np.float32))
    writer.add_tensor("output_norm.weight", np.ones(case["hidden"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def importance(case: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A flat importance matrix for the linears, and the arrays that it points at."""
    linears = {name: cols for name, (_, cols) in shapes(case).items() if name.startswith("blk.")}
    table = (llama_cpp.llama_model_imatrix_data * (len(linears) + 1))()
    keep = []
    for row, (name, cols) in zip(table, linears.items(), strict=False):
        values, label = np.ones(cols, np.float32), name.encode()
        keep += [values, label]
        row.name, row.size = label, cols
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return table, keep


def types(base: Path, case: dict[str, Any], preset: str) -> dict[str, str]:
    """Name -> type of every 2-D weight after llama.cpp quantized the file."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[preset], 2
    table, keep = importance(case)
    params.imatrix = table
    out = base.with_name("out.gguf")
    code = llama_cpp.llama_model_quantize(
        str(base).encode(), str(out).encode(), ctypes.byref(params)
    )
    if code:
        sys.exit(f"llama.cpp refused {preset} for {case}: code {code}")
    del keep
    tensors = gguf.GGUFReader(out).tensors
    return {t.name: t.tensor_type.name for t in tensors if len(t.shape) == 2}


def compact(found: dict[str, str]) -> dict[str, str]:
    """Linear -> its types by layer, as "2 Q6_K, 1 Q4_K": runs of equal ones."""
    columns: dict[str, list[str]] = {}
    for name, kind in found.items():
        columns.setdefault(name.split(".")[-2], []).append(kind)
    out = {}
    for part, kinds in columns.items():
        starts = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
        runs = zip(starts, [*starts[1:], len(kinds)], strict=True)
        out[part] = ", ".join(f"{stop - start} {kinds[start]}" for start, stop in runs)
    return out


@llama_cpp.llama_log_callback
def quiet(level: int, text: bytes, data: Any) -> None:
    """Drop llama.cpp's log lines."""


def main() -> None:
    """Print the table as JSON, a line for each model and preset."""
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    cases = []
    for values in CASES:
        case = dict(zip(KEYS, values, strict=True))
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base.gguf"
            write_model(base, case)
            presets = {preset: compact(types(base, case, preset)) for preset in FTYPES}
        cases.append({"model": case, "presets": presets})
    lines = []
    for entry in cases:
        rows = [f"   {json.dumps(p)}: {json.dumps(t)}" for p, t in entry["presets"].items()]
        body = ",\n".join(rows)
        lines.append(f' {{"model": {json.dumps(entry["model"])},\n  "presets": {{\n{body}}}}}')
    print("[\n" + ",\n".join(lines) + "\n]")


if __name__ == "__main__":
    main()
