"""Make golden.json: what the packers of other projects make of codes of tests/quantized_made.py.

    make interop-peers
    PYTHONPATH=. python tests/runtime/quantized/make_golden.py PACKER...    (what that runs)

`gptq` and `awq` run where auto-gptq 0.7.1 and autoawq 0.2.9 are, whose layers are imported alone,
under packages that hold nothing else; `bitsandbytes` where 0.50.0 is, and `compressed` with
compressed-tensors 0.17.0, then with 0.20.1: they pack in two ways.
"""

import base64
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from tests.quantized_made import Codes, Tensors, random_codes

PATH = Path(__file__).with_name("golden.json")
SHAPE = (64, 128)
GROUP = 32


def digests(arrays: Tensors) -> dict[str, str]:
    """sha256 of the bytes of each array."""
    return {
        name: sha256(a.contiguous().numpy().tobytes()).hexdigest() for name, a in arrays.items()
    }


def alone(start: str, *within: str) -> None:
    """Put a package in place, and some within it, that hold what is imported and run nothing."""
    spec = importlib.util.find_spec(start)
    assert spec and spec.submodule_search_locations
    for name in (start, *(f"{start}.{inner}" for inner in within)):
        package = types.ModuleType(name)
        package.__spec__ = importlib.machinery.ModuleSpec(name, None)
        package.__path__ = [str(Path(spec.submodule_search_locations[0], *name.split(".")[1:]))]
        sys.modules[name] = package


def linear(made: Codes) -> torch.nn.Linear:
    """A linear of these values."""
    found = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False)
    found.weight.data = torch.tensor(made.values())
    return found


def gptq() -> dict[str, Any]:
    alone("auto_gptq", "nn_modules", "nn_modules.qlinear")
    layer = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear
    found = {}
    for bits in (2, 3, 4, 8):
        made = random_codes(SHAPE, bits, GROUP, symmetric=True, shuffled=True)
        packed = layer(bits, GROUP, SHAPE[1], SHAPE[0], bias=False, weight_dtype=torch.float16)
        order = torch.tensor(made.groups, dtype=torch.int32)
        scales, zeros = torch.tensor(made.scales), torch.tensor(made.zeros).float()
        packed.pack(linear(made), scales, zeros, order)
        parts = {part: getattr(packed, part) for part in ("qweight", "qzeros", "g_idx")}
        found[f"gptq {bits}"] = digests(parts | {"scales": packed.scales.half()})
    return found


def awq() -> dict[str, Any]:
    alone("awq", "modules", "modules.linear", "utils")
    utils = types.ModuleType("awq.utils.utils")
    vars(utils)["get_best_device"] = lambda: "cpu"
    sys.modules["awq.utils.utils"] = utils
    made = random_codes(SHAPE, 4, GROUP, symmetric=False)
    scales, zeros = torch.tensor(made.scales), torch.tensor(made.zeros).float()
    gemm = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    gemv = importlib.import_module("awq.modules.linear.gemv").WQLinear_GEMV
    across = {"scales": scales.T.contiguous(), "zeros": zeros.T.contiguous()}
    layers = {
        "awq gemm": gemm.from_linear(linear(made), 4, GROUP, **across),
        "awq gemv": gemv.from_linear(linear(made), 4, GROUP, scales=scales, zeros=zeros),
    }
    parts = ("qweight", "qzeros", "scales")
    return {
        name: digests({part: getattr(layer, part) for part in parts})
        for name, layer in layers.items()
    }


def compressed() -> dict[str, Any]:
    helpers = importlib.import_module("compressed_tensors.compressors.pack_quantized.helpers")
    version = importlib.metadata.version("compressed-tensors")
    dense = tuple(map(int, version.split(".")[:2])) >= (0, 18)
    found = {}
    for bits in range(2, 9):
        made = random_codes(SHAPE, bits, GROUP, symmetric=False)
        signed = [torch.tensor(a - (1 << bits - 1), dtype=torch.int8) for a in made[:2]]
        packed = {
            "weight_packed": helpers.pack_to_int32(signed[0], bits),
            "weight_zero_point": helpers.pack_to_int32(signed[1], bits, packed_dim=0),
        }
        found[f"compressed {'dense' if dense else 'padded'} {bits}"] = digests(packed)
    return found


def bitsandbytes() -> dict[str, Any]:
    functional = importlib.import_module("bitsandbytes.functional")
    weight = torch.randn((24, 48), generator=torch.Generator().manual_seed(0))
    found = {}
    for kind in ("nf4", "fp4"):
        packed, state = functional.quantize_4bit(
            weight, quant_type=kind, compress_statistics=True, blocksize=64
        )
        arrays = {"weight": packed}
        arrays |= {f"weight.{name}": a for name, a in state.as_dict(packed=True).items()}
        values = functional.dequantize_4bit(packed, state)
        # a zero may have a sign there
        found[f"bitsandbytes {kind}"] = {"values": digests({"": values + 0.0})[""]} | {
            name: [str(a.dtype), list(a.shape), base64.b64encode(a.numpy().tobytes()).decode()]
            for name, a in arrays.items()
        }
    return found


def main() -> None:
    made: dict[str, Callable[[], dict[str, Any]]] = {
        f.__name__: f for f in (gptq, awq, compressed, bitsandbytes)
    }
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name in sys.argv[1:]:
        known |= made[name]()
    PATH.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
