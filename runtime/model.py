"""A model ready to run: sizes, stored tensors, tokenizer. Containers make it, engines run it."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.archs import Arch
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """Everything an engine needs; tensors may be lazy (a Mapping that reads on access)."""

    arch: Arch
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer | None = None
