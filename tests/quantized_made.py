"""Weights as other tools store them, packed number by number from the documents of their formats.

The slow twins of runtime/quantized: what is written here in plain loops must be read there as
these very values.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from runtime import safetensors_file
from runtime.quantized import Readable, read_quantized

Tensors = dict[str, torch.Tensor]


class Codes(NamedTuple):
    """A weight (out, in) in integers: (codes - zeros) * scales, by the group of each column."""

    codes: np.ndarray
    """(out, in)."""
    zeros: np.ndarray
    """(out, groups)."""
    scales: np.ndarray
    """float32 (out, groups), each a float16."""
    groups: list[int]
    """Of each column."""

    def values(self) -> np.ndarray:
        """float32 (out, in)."""
        steps = self.codes - self.zeros[:, self.groups]
        return steps.astype(np.float32) * self.scales[:, self.groups]


def random_codes(
    shape: tuple[int, int],
    bits: int,
    group: int,
    symmetric: bool = True,
    seed: int = 0,
    shuffled: bool = False,
) -> Codes:
    """Codes, zero points and scales of no weights at all, every value of them possible."""
    rng = np.random.default_rng(seed)
    out, cols = shape
    size = cols if group == -1 else group
    count = -(-cols // size)
    zeros = rng.integers(0, 1 << bits, (out, count))
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    scales = rng.uniform(0.001, 0.02, (out, count)).astype(np.float16).astype(np.float32)
    groups = [col // size for col in range(cols)]
    if shuffled:
        groups = [int(group) for group in rng.permutation(groups)]
    return Codes(rng.integers(0, 1 << bits, shape), zeros, scales, groups)


def stream(numbers: list[int], bits: int) -> list[int]:
    """Numbers one behind the other, the lowest bit first, as signed words of 32 bits."""
    words = []
    for start in range(0, len(numbers), 32):  # as many fill whole words
        run = numbers[start : start + 32]
        whole = sum(int(number) << (at * bits) for at, number in enumerate(run))
        words += [whole >> (32 * at) & 0xFFFFFFFF for at in range(-(-len(run) * bits // 32))]
    return [word - (1 << 32) if word >> 31 else word for word in words]


def gptq(made: Codes, bits: int, version: int = 1, g_idx: bool = True) -> Tensors:
    """qweight, qzeros, scales and g_idx of auto-gptq."""
    qweight = [stream(list(row), bits) for row in made.codes]
    less = 1 if version == 1 else 0
    zeros = [[(int(z) - less) % (1 << bits) for z in column] for column in made.zeros.T]
    found = {
        "qweight": torch.tensor(qweight, dtype=torch.int32).T.contiguous(),
        "qzeros": torch.tensor([stream(row, bits) for row in zeros], dtype=torch.int32),
        "scales": torch.tensor(made.scales.T.copy()).half(),
    }
    if g_idx:
        found["g_idx"] = torch.tensor(made.groups, dtype=torch.int32)
    return found


LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def is_linear(name: str) -> bool:
    """Whether a tensor of a checkpoint is what these tools quantize."""
    return name.endswith(tuple(f"{linear}.weight" for linear in LINEARS))


def quantized_checkpoint(
    folder: Path,
    source: Path,
    settings: dict[str, Any],
    make: Callable[[str, torch.Tensor], tuple[Tensors, np.ndarray]],
) -> tuple[Path, Path]:
    """A checkpoint with quantized linears, and beside it one with their values in float32.

    `make`: module and weight -> what is stored of it, and the values. All else is float16.
    """
    quantized, floats = {}, {}
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                if not is_linear(name):
                    quantized[name] = floats[name] = tensor.half()
                    continue
                module = name.removesuffix(".weight")
                arrays, values = make(module, tensor)
                quantized |= {f"{module}.{part}": array for part, array in arrays.items()}
                floats[name] = torch.tensor(values)
    paths = folder / "quantized", folder / "floats"
    for path, tensors in zip(paths, (quantized, floats), strict=True):
        path.mkdir(parents=True)
        for file in source.glob("*.json"):
            if not file.name.endswith("index.json"):
                shutil.copy(file, path)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    text = json.dumps(config | {"quantization_config": settings}, indent=1)
    (paths[0] / "config.json").write_text(text)
    return paths


def read_as(folder: Path, settings: dict[str, Any], arrays: Tensors) -> Readable:
    """Arrays in a file, read with these settings."""
    folder.mkdir(exist_ok=True)
    save_file(
        {name: array.contiguous() for name, array in arrays.items()}, folder / "a.safetensors"
    )
    found = read_quantized(settings, safetensors_file.read(folder / "a.safetensors"))
    assert found is not None
    return found


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def awq_gemm(made: Codes) -> Tensors:
    """qweight, qzeros and scales of AutoAWQ's version gemm."""

    def packed(numbers: np.ndarray) -> torch.Tensor:
        words = [
            [
                stream([row[8 * word + at] for at in AWQ_ORDER], 4)[0]
                for word in range(len(row) // 8)
            ]
            for row in numbers
        ]
        return torch.tensor(words, dtype=torch.int32)

    scales = torch.tensor(made.scales.T.copy()).half()
    return {"qweight": packed(made.codes.T), "qzeros": packed(made.zeros.T), "scales": scales}


def awq_gemv(made: Codes, words: int) -> Tensors:
    """The same of version gemv, zero points padded to so many words and scales to 8 times that."""
    groups = made.zeros.shape[1]
    pad = [(0, 0), (0, 8 * words - groups)]
    zeros = np.pad(made.zeros, pad)
    return {
        "qweight": torch.tensor([stream(list(row), 4) for row in made.codes], dtype=torch.int32),
        "qzeros": torch.tensor([stream(list(row), 4) for row in zeros], dtype=torch.int32),
        "scales": torch.tensor(np.pad(made.scales, pad)).half(),
    }


def pack_quantized(
    made: Codes, bits: int, symmetric: bool = True, dense: bool = True, g_idx: bool = False
) -> Tensors:
    """What compressed-tensors stores in its format pack-quantized; before 0.18 not densely."""

    def packed(rows: list[list[int]]) -> torch.Tensor:
        words = []
        for row in rows:
            run = len(row) if dense else 32 // bits
            runs = [row[at : at + run] for at in range(0, len(row), run)]
            words.append([word for numbers in runs for word in stream(numbers, bits)])
        return torch.tensor(words, dtype=torch.int32)

    found = {
        "weight_packed": packed(made.codes.tolist()),
        "weight_scale": torch.tensor(made.scales.copy()).half(),
        "weight_shape": torch.tensor(made.codes.shape),
    }
    if not symmetric:
        found["weight_zero_point"] = packed(made.zeros.T.tolist()).T.contiguous()
    if g_idx:
        found["weight_g_idx"] = torch.tensor(made.groups, dtype=torch.int32)
    return found


def int_quantized(made: Codes, symmetric: bool = True) -> Tensors:
    """What compressed-tensors stores in its format int-quantized: int8."""
    found = {
        "weight": torch.tensor(made.codes - 128, dtype=torch.int8),
        "weight_scale": torch.tensor(made.scales.copy()).half(),
    }
    if not symmetric:
        found["weight_zero_point"] = torch.tensor(made.zeros - 128, dtype=torch.int8)
    return found


def scaled_floats(
    shape: tuple[int, int], block: tuple[int, int], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """E4M3 numbers of every kind but NaN, float32 scales of blocks, and the values of both."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, shape).astype(np.uint8)
    codes[codes & 127 == 127] = 0
    weight = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    counts = [-(-size // part) for size, part in zip(shape, block, strict=True)]
    scale = rng.uniform(1e-4, 1e-3, counts).astype(np.float32)
    each, values = weight.float().numpy(), np.empty(shape, np.float32)
    for row in range(shape[0]):
        for col in range(shape[1]):
            values[row, col] = each[row, col] * scale[row // block[0], col // block[1]]
    return weight, torch.from_numpy(scale), values
