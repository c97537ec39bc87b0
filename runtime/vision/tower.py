"""The vision tower of Qwen2-VL and Qwen2.5-VL as data: its sizes and its tensors.

patches (N, channels * temporal * patch * patch)
patch_embed      a linear to `width`
blocks           attention with rope of two axes, in windows in some blocks, and an MLP
merger           merge * merge neighbours become one embedding of `outputs` channels
"""

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from runtime.archs import family_of
from runtime.archs.layer import Shape
from runtime.errors import UnsupportedError
from runtime.json_files import checked
from runtime.json_types import Size

EPS = 1e-6
"""Of every norm of the tower."""
THETA = 10000.0
"""Base of the frequencies of its rope."""


class VisionConfig(Struct):
    """`vision_config` of config.json; Qwen2-VL calls the width `embed_dim`."""

    depth: Size = 32
    embed_dim: Size = 1280
    hidden_size: Size = 3584
    out_hidden_size: Size = 3584
    intermediate_size: Size = 3420
    mlp_ratio: Size = 4
    num_heads: Size = 16
    in_channels: Size = 3
    patch_size: Size = 14
    spatial_merge_size: Size = 2
    temporal_patch_size: Size = 2
    window_size: Size = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    hidden_act: str | None = None


@dataclass(frozen=True)
class Tower:
    """The sizes of one tower."""

    depth: int
    width: int
    heads: int
    ffn: int
    outputs: int
    """Channels of the language model."""
    patch: int
    """Pixels of a patch's side."""
    merge: int
    """Patches on each side of a square that becomes one token."""
    temporal: int
    """Pictures that a patch goes through: a single image is taken that often."""
    channels: int
    modern: bool
    """Qwen2.5-VL: norms by root mean square, gated MLPs and windows."""
    window: int = 0
    """Pixels of a window's side; 0 = every block sees the whole image."""
    full: tuple[int, ...] = ()
    """Blocks that see the whole image although there are windows."""

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers of a patch."""
        return self.channels * self.temporal * self.patch**2

    def shapes(self) -> dict[str, Shape]:
        """Every tensor by its name in a checkpoint, after "visual."."""
        image = (self.channels, self.temporal, self.patch, self.patch)
        out: dict[str, Shape] = {"patch_embed.proj.weight": (self.width, *image)}
        for index in range(self.depth):
            for name, (rows, cols) in self._linears().items():
                out[f"blocks.{index}.{name}.weight"] = (rows, cols)
                out[f"blocks.{index}.{name}.bias"] = (rows,)
            for name in ("norm1", "norm2"):
                out |= self._norm(f"blocks.{index}.{name}")
        out |= self._norm("merger.ln_q")
        merged = self.width * self.merge**2
        for name, rows in (("merger.mlp.0", merged), ("merger.mlp.2", self.outputs)):
            out |= {f"{name}.weight": (rows, merged), f"{name}.bias": (rows,)}
        return out

    def _linears(self) -> dict[str, tuple[int, int]]:
        """Of a block: name -> (outputs, inputs)."""
        wide, narrow = (self.ffn, self.width), (self.width, self.ffn)
        mlp = {"mlp.fc1": wide, "mlp.fc2": narrow}
        if self.modern:
            mlp = {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": narrow}
        return {"attn.qkv": (3 * self.width, self.width), "attn.proj": (self.width,) * 2} | mlp

    def _norm(self, name: str) -> dict[str, Shape]:
        parts = ("weight",) if self.modern else ("weight", "bias")
        return {f"{name}.{part}": (self.width,) for part in parts}


def tower_of(config: dict[str, Any]) -> Tower | None:
    """The tower of a model by its config.json; None without one that is run here.

    Raises EdgequantError for sizes or an activation that are not these families'.
    """
    stored = config.get("vision_config")
    if not stored or not family_of(config).sees:
        return None
    found = checked(stored, VisionConfig, "vision_config of config.json")
    modern = str(config.get("model_type")).startswith("qwen2_5_vl")
    width = found.hidden_size if modern else found.embed_dim
    tower = Tower(
        depth=found.depth,
        width=width,
        heads=found.num_heads,
        ffn=found.intermediate_size if modern else found.mlp_ratio * width,
        outputs=found.out_hidden_size if modern else found.hidden_size,
        patch=found.patch_size,
        merge=found.spatial_merge_size,
        temporal=found.temporal_patch_size,
        channels=found.in_channels,
        modern=modern,
        window=found.window_size if modern else 0,
        full=found.fullatt_block_indexes if modern else (),
    )
    _check(tower, found.hidden_act)
    return tower


def _check(tower: Tower, activation: str | None) -> None:
    """Raise UnsupportedError for what the code of these towers does not compute."""
    usual = "silu" if tower.modern else "quick_gelu"
    unit = tower.patch * tower.merge
    wrong = None
    if activation not in (None, usual):
        wrong = f"hidden_act {activation!r}, and only {usual!r} is supported"
    elif tower.width % tower.heads or tower.head_dim % 4:
        wrong = f"{tower.heads} heads in {tower.width} channels, which rope cannot turn"
    elif tower.channels != 3:
        wrong = f"in_channels {tower.channels}, and images have three"
    elif tower.window and tower.window % unit:
        wrong = f"window_size {tower.window}, which is no multiple of {unit} pixels"
    if wrong:
        raise UnsupportedError(
            f"vision_config of config.json has {wrong}; take the file that came with the weights."
        )
