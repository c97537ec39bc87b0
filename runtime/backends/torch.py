"""Ops on torch, CPU or CUDA: calibration runs on it, and reports where a GPU is at hand."""

from importlib.util import find_spec

import numpy as np
import torch
from torch.nn import functional

from runtime.archs import Activation, Attention
from runtime.engine import OpsEngine
from runtime.errors import UnsupportedError
from runtime.model import Model
from runtime.tensor import Tensor

ROWS_AT_ONCE = 4096
"""Rows of a weight decoded at a time."""
MOST_TABLES = 16
"""Rope tables kept on the device."""


class TorchOps:
    """Dense float32 weights on one device; tensors that are already loaded may be handed in."""

    def __init__(self, device: str = "cpu", rows_at_once: int = ROWS_AT_ONCE) -> None:
        self.device, self.rows_at_once = torch.device(device), rows_at_once
        self._tables: dict[int, tuple[np.ndarray, torch.Tensor]] = {}

    def load(self, tensor: Tensor) -> torch.Tensor:
        if not tensor.is_matrix:
            return torch.from_numpy(np.array(tensor.decode())).to(self.device)
        out = torch.empty(tensor.rows, tensor.cols, device=self.device)
        # decoding takes several times the room of its result: a large head goes in pieces
        for start in range(0, tensor.rows, self.rows_at_once):
            rows = tensor.decode(start, start + self.rows_at_once)
            out[start : start + len(rows)] = torch.from_numpy(np.array(rows))
        return out.reshape(tensor.shape)

    def embed(self, weight: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
        return weight[torch.from_numpy(np.asarray(ids, np.int64)).to(self.device)]

    def rmsnorm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def matmul(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return functional.linear(x, weight, bias)

    def rope(self, x: torch.Tensor, cos: np.ndarray, sin: np.ndarray) -> torch.Tensor:
        half = cos.shape[-1]
        first, second = x[..., :half], x[..., half : 2 * half]
        cosines, sines = self._on_device(cos), self._on_device(sin)
        turned = [first * cosines - second * sines, second * cosines + first * sines]
        rest = [x[..., 2 * half :]] if 2 * half < x.shape[-1] else []
        return torch.cat(turned + rest, dim=-1)

    def _on_device(self, table: np.ndarray) -> torch.Tensor:
        """A rope table (T, R / 2) as (T, 1, R / 2); it travels to the device once a forward.

        Rows that stand at places of their own have a table each, (B, T, R / 2).

        Layers are given the same few arrays: those of the last forwards are kept, by identity.
        """
        if id(table) not in self._tables:
            if len(self._tables) >= MOST_TABLES:
                self._tables.clear()
            self._tables[id(table)] = (table, torch.from_numpy(table).to(self.device).unsqueeze(-2))
        return self._tables[id(table)][1]

    def attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int, spec: Attention
    ) -> torch.Tensor:
        batch, tokens, heads, width = q.shape
        total, groups = k.shape[1], heads // k.shape[2]
        queries = q.transpose(1, 2)
        keys, values = (x.transpose(1, 2).repeat_interleave(groups, dim=1) for x in (k, v))
        positions = torch.arange(total, device=self.device)
        own = torch.arange(start, start + tokens, device=self.device)[:, None]
        seen = positions <= own
        if spec.window is not None:
            seen &= positions > own - spec.window
        if spec.soft_cap is None:
            out = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=seen, scale=spec.scale
            )
        else:
            scores = queries @ keys.transpose(-1, -2) * spec.scores_scale
            scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
            out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
        return out.transpose(1, 2).reshape(batch, tokens, heads * width)

    def gated(self, activation: Activation, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        if activation == "gelu":
            return functional.gelu(gate, approximate="tanh") * up
        return functional.silu(gate) * up

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def sigmoid(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def route(
        self, scores: torch.Tensor, top_k: int, normalized: bool
    ) -> tuple[torch.Tensor, np.ndarray]:
        best, chosen = scores.softmax(-1).topk(top_k, dim=-1)
        shares = best / best.sum(-1, keepdim=True) if normalized else best
        return shares, chosen.cpu().numpy()

    def expert(self, weight: torch.Tensor, index: int) -> torch.Tensor:
        return weight[index]

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape, device=self.device)

    def numpy(self, x: torch.Tensor) -> np.ndarray:
        return x.detach().cpu().numpy()


class TorchEngine(OpsEngine):
    """OpsEngine without autograd."""

    @torch.inference_mode()
    def logits_at(self, positions, ids, cache=None, last=False):  # type: ignore[no-untyped-def]
        return super().logits_at(positions, ids, cache, last)


def check_device(name: str) -> None:
    """Raise UnsupportedError when torch cannot compute on a device."""
    try:
        torch.zeros(1, device=torch.device(name)).tolist()
    except (RuntimeError, AssertionError, TypeError) as error:  # "meta" has no values
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UnsupportedError(
            f"device {name!r} cannot be used ({reason}); use --device cpu."
        ) from error


def open(model: Model, device: str = "cpu") -> OpsEngine:
    """Run a model on torch, decoded to float32; on a card its weights stay packed: see `ops_on`.

    Raises UnsupportedError when torch cannot compute on the device.
    """
    check_device(device)
    return TorchEngine(model, ops_on(device))


def ops_on(device: str) -> TorchOps:
    """The ops that run a model on a device: on CUDA, where Triton is installed, its kernels."""
    if torch.device(device).type == "cuda" and find_spec("triton"):
        # imported here: Triton is needed on a card only, and does not exist for every system
        from runtime.triton.ops import TritonOps

        return TritonOps(device)
    return TorchOps(device)
