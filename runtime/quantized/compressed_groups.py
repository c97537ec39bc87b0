"""`config_groups` of compressed-tensors: how the weights of each module are quantized."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from runtime.errors import CorruptFileError, UnsupportedError
from runtime.json_types import Size

HARMLESS = (
    *("global_compression_ratio", "quantization_status", "ignore", "version", "kv_cache_scheme"),
    *("moe_sparsity_config", "format"),
)


class Weights(msgspec.Struct):
    """How the weights of a group are quantized."""

    num_bits: int = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: str | None = None
    group_size: int | None = None
    block_structure: tuple[Size, Size] | None = None
    actorder: str | bool | None = None

    @property
    def scattered(self) -> bool:
        """Whether columns that share a scale lie apart."""
        return self.actorder is True or self.actorder in ("group", "dynamic")

    @property
    def way(self) -> str:
        """`strategy`, or what follows from the group's size."""
        groups = {None: "tensor", -1: "channel"}.get(self.group_size, "group")
        return {"tensor_group": "group"}.get(self.strategy or "", self.strategy) or groups


class Group(msgspec.Struct):
    """Modules that are quantized alike."""

    targets: list[str] = []
    weights: Weights | None = None
    input_activations: dict[str, Any] | None = None
    output_activations: dict[str, Any] | None = None
    format: str | None = None


class Sparsity(msgspec.Struct):
    """`sparsity_config`."""

    format: str | None = None


class Compressed(msgspec.Struct):
    """quantization_config of compressed-tensors."""

    config_groups: dict[str, Group | list[str]] = {}
    sparsity_config: Sparsity | None = None
    format: str | None = None


def refuse(found: Compressed) -> None:
    """Raise UnsupportedError for weights that are sparse, or a group that is a name alone."""
    sparse = found.sparsity_config.format if found.sparsity_config else None
    if sparse not in (None, "dense"):
        raise UnsupportedError(
            f"compressed-tensors of the sparse format {sparse} is not read; give the "
            "full-precision checkpoint."
        )
    for name, group in found.config_groups.items():
        if not isinstance(group, Group):
            raise UnsupportedError(
                f"config_groups has {name} without settings of its weights, which a group needs to "
                "be read; write them out in config.json, as llm-compressor does."
            )


def group_of(groups: Mapping[str, Group | list[str]], module: str) -> Group:
    """The group of a module: whose targets name it, else match its name, else its class.

    Raises CorruptFileError where there is none, UnsupportedError where two are as near.
    """
    kind = "Embedding" if module.endswith("embed_tokens") else "Linear"
    found: list[tuple[int, Group]] = []
    for group in groups.values():
        assert isinstance(group, Group)
        ranks = [rank for target in group.targets if (rank := _rank(target, module, kind))]
        if ranks:
            found.append((min(ranks), group))
    best = min((rank for rank, _ in found), default=0)
    nearest = [group for rank, group in found if rank == best]
    if not nearest:
        raise CorruptFileError(
            f"{module} is quantized, but no group of config_groups has it as a target; take the "
            "config.json that came with the weights."
        )
    if any(group.weights != nearest[0].weights for group in nearest):
        raise UnsupportedError(
            f"{module} is a target of several groups of config_groups that differ; leave it to "
            "one of them."
        )
    return nearest[0]


def _rank(target: str, module: str, kind: str) -> int:
    """1, 2 or 3 for a target that is the module's name, a pattern of it, or its class; else 0."""
    if target == module:
        return 1
    try:
        if target.startswith("re:") and re.match(target.removeprefix("re:"), module):
            return 2
    except re.error as error:
        raise CorruptFileError(
            f"config_groups has the target {target!r}, which is no pattern ({error}); correct it."
        ) from error
    return 3 if target == kind else 0
