"""Compiles the kernels for a card that need not be there, the way that a launch does.

    python -m tests.interop.compiled 80 Q4_K Q6_K

prints of each layout and kernel its name and the bytes of shared memory. Only the launch itself is
left out. It is a program of its own because Triton decides on import whether it interprets.
"""

import sys
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from runtime.triton.ops import TritonOps

launch = JITFunction.run


class NamesACard:
    """What compiling asks of a driver: which card it is for."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def compile_only(kernel: Any, *args: Any, warmup: bool, **options: Any) -> None:
    """A launch that ends before the card: arguments are bound and the kernel is compiled."""
    compiled = launch(kernel, *args, warmup=True, **options)
    print(kind, compiled.metadata.name, compiled.metadata.shared)


if __name__ == "__main__":
    driver.set_active(NamesACard(int(sys.argv[1])))
    JITFunction.run = compile_only
    ops = TritonOps("cpu")
    for kind in sys.argv[2:]:
        qtype = QUANT_TYPES[kind]
        cols = 7 * qtype.size
        loaded = ops.load(
            Tensor("w", (300, cols), qtype, np.zeros((300, qtype.row_bytes(cols)), np.uint8))
        )
        ops.embed(loaded, np.zeros((1, 2), np.int32))
        for tokens in (1, 100):
            ops.matmul(torch.zeros(tokens, cols), loaded, None)
