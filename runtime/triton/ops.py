"""Ops of the torch backend on a card: weights stay packed, as the native engine keeps them."""

from dataclasses import dataclass

import numpy as np
import torch

from runtime.backends.torch import TorchOps
from runtime.errors import InputError
from runtime.tensor import Tensor
from runtime.triton.decoders import DECODERS, Decoder
from runtime.triton.kernels import decoded, product

MOST_WEIGHTS = 2**31 - 1
"""The kernels count weights and codes with 32 bits."""


@dataclass(frozen=True)
class TritonWeight:
    """A weight (rows, cols) as the kernels read it: the planes of its layout's decoder."""

    decoder: Decoder
    planes: tuple[torch.Tensor, ...]
    shape: tuple[int, int]


class TritonOps(TorchOps):
    """TorchOps whose weights stay packed where their layout has a decoder."""

    def __init__(self, device: str, most_weights: int = MOST_WEIGHTS) -> None:
        super().__init__(device)
        self.most_weights = most_weights

    def load(self, tensor: Tensor) -> torch.Tensor | TritonWeight:  # type: ignore[override]
        decoder = DECODERS.get(tensor.qtype.name)
        large = np.prod(tensor.shape) > self.most_weights
        if decoder is None or not tensor.is_matrix or large:
            return super().load(tensor)
        rows, cols = tensor.shape
        return TritonWeight(decoder, cut(decoder, tensor.data, self.device), (rows, cols))

    def embed(self, weight: torch.Tensor | TritonWeight, ids: np.ndarray) -> torch.Tensor:
        """As Ops says. Raises EdgequantError for an id without a row."""
        if isinstance(weight, torch.Tensor):
            return super().embed(weight, ids)
        rows, cols = weight.shape
        if ids.size and not 0 <= ids.min() <= ids.max() < rows:
            # a kernel would read past the weight
            raise InputError(
                f"a token number is outside of 0..{rows - 1}, the rows of the embedding; "
                "encode the text with the tokenizer of this model."
            )
        flat = torch.from_numpy(np.asarray(ids, np.int64).reshape(-1)).to(self.device)
        return decoded(weight.decoder, weight.planes, flat, cols).reshape(*ids.shape, cols)

    def matmul(
        self, x: torch.Tensor, weight: torch.Tensor | TritonWeight, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if isinstance(weight, torch.Tensor):
            return super().matmul(x, weight, bias)
        rows, cols = weight.shape
        flat = x.reshape(-1, cols).contiguous()
        out = product(weight.decoder, weight.planes, flat, rows).reshape(*x.shape[:-1], rows)
        return out if bias is None else out + bias


def cut(decoder: Decoder, data: np.ndarray, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Packed rows, uint8 (rows, row_bytes) -> the planes, each flat and aligned, on a device."""
    blocks = torch.from_numpy(np.array(data)).to(device)
    blocks = blocks.reshape(-1, sum(plane.width for plane in decoder.planes))
    pieces = blocks.split_with_sizes([plane.width for plane in decoder.planes], dim=1)
    dtypes = [getattr(torch, plane.dtype) for plane in decoder.planes]
    return tuple(
        piece.contiguous().reshape(-1).view(dtype)
        for piece, dtype in zip(pieces, dtypes, strict=True)
    )
