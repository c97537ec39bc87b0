"""Ops on torch, CPU or CUDA: calibration runs on it, and reports where a GPU is at hand."""

from importlib.util import find_spec

import numpy as np
import torch
from torch.nn import functional

from runtime.engine import OpsEngine
from runtime.model import Model
from runtime.tensor import Tensor

ROWS_AT_ONCE = 4096
"""Rows of a weight decoded at a time."""


class TorchOps:
    """Dense float32 weights on one device; tensors that are already loaded may be handed in."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._tables: tuple[tuple[np.ndarray, torch.Tensor], ...] = ()

    def load(self, tensor: Tensor) -> torch.Tensor:
        if len(tensor.shape) == 1:
            return torch.from_numpy(np.array(tensor.decode())).to(self.device)
        out = torch.empty(tensor.shape, device=self.device)
        # decoding takes several times the room of its result: a large head goes in pieces
        for start in range(0, tensor.shape[0], ROWS_AT_ONCE):
            rows = tensor.decode(start, start + ROWS_AT_ONCE)
            out[start : start + len(rows)] = torch.from_numpy(np.array(rows))
        return out

    def embed(self, weight: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
        return weight[torch.from_numpy(np.asarray(ids, np.int64)).to(self.device)]

    def rmsnorm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def matmul(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return functional.linear(x, weight, bias)

    def rope(self, x: torch.Tensor, cos: np.ndarray, sin: np.ndarray) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        # every layer is given the same two arrays: they travel to the device once a forward
        if not (self._tables and self._tables[0][0] is cos and self._tables[1][0] is sin):
            self._tables = tuple(
                (table, torch.from_numpy(table).to(self.device)[:, None]) for table in (cos, sin)
            )
        cosines, sines = (on_device for _, on_device in self._tables)
        return torch.cat(
            [first * cosines - second * sines, second * cosines + first * sines], dim=-1
        )

    def attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int
    ) -> torch.Tensor:
        batch, tokens, heads, width = q.shape
        total, groups = k.shape[1], heads // k.shape[2]
        queries = q.transpose(1, 2)
        keys, values = (x.transpose(1, 2).repeat_interleave(groups, dim=1) for x in (k, v))
        positions = torch.arange(total, device=self.device)
        seen = positions <= torch.arange(start, start + tokens, device=self.device)[:, None]
        out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        return out.transpose(1, 2).reshape(batch, tokens, heads * width)

    def silu_mul(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return functional.silu(gate) * up

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape, device=self.device)

    def numpy(self, x: torch.Tensor) -> np.ndarray:
        return x.detach().cpu().numpy()


class TorchEngine(OpsEngine):
    """OpsEngine without autograd."""

    @torch.inference_mode()
    def logits(self, ids, cache=None, last=False):  # type: ignore[no-untyped-def]
        return super().logits(ids, cache, last)


def open(model: Model, device: str = "cpu") -> OpsEngine:
    """Run a model on torch, decoded to float32; on a card its weights stay packed: see `ops_on`."""
    return TorchEngine(model, ops_on(device))


def ops_on(device: str) -> TorchOps:
    """The ops that run a model on a device: on CUDA, where Triton is installed, its kernels."""
    if torch.device(device).type == "cuda" and find_spec("triton"):
        # imported here: Triton is needed on a card only, and does not exist for every system
        from runtime.triton.ops import TritonOps

        return TritonOps(device)
    return TorchOps(device)
