"""The sliding windows of a config.json: how many keys a query sees, and in which layers."""

from collections.abc import Callable
from typing import Any

from runtime.errors import CorruptFileError, UnsupportedError

SLIDING = "sliding_attention"
FULL = "full_attention"
KEYS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
"""What Qwen's config.json says of windows."""


def windows(
    config: dict[str, Any], layers: int, window: int | None, usual: Callable[[int], bool]
) -> dict[str, Any]:
    """The fields `window` and `windowed` of Arch.

    `usual`: whether a layer has the window where config.json has no layer_types. Raises
    EdgequantError for kinds of layers that nobody computes here, another number of them, or layers
    with a window of no size.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [
            SLIDING if window is not None and usual(index) else FULL for index in range(layers)
        ]
    elif len(kinds) != layers:
        raise CorruptFileError(
            f"config.json has layer_types for {len(kinds)} layers and num_hidden_layers {layers}; "
            "take the config.json that came with the weights."
        )
    for kind in kinds:
        if kind not in (SLIDING, FULL):
            raise UnsupportedError(
                f"config.json has {kind!r} among its layer_types; supported: {FULL} and {SLIDING}."
            )
    windowed = tuple(index for index, kind in enumerate(kinds) if kind == SLIDING)
    if windowed and (window is None or window < 1):
        raise CorruptFileError(
            f"config.json gives {len(windowed)} layers a sliding window, and its size is "
            f"{window}; take the config.json that came with the weights."
        )
    return {"window": window, "windowed": windowed} if windowed else {}


def used(config: dict[str, Any]) -> int | None:
    """The window of families that have use_sliding_window, where it is true."""
    if not config.get("use_sliding_window"):
        return None
    return size(config, 4096)


def boundary(config: dict[str, Any], usual: int) -> int:
    """`max_window_layers`, which must be a number, as in transformers.

    Raises CorruptFileError for null.
    """
    found: int | None = config.get("max_window_layers", usual)
    if found is None:
        raise CorruptFileError(
            "config.json sets use_sliding_window, and max_window_layers to null, so that nothing "
            "tells which layers have the window; take the config.json that came with the weights."
        )
    return found


def size(config: dict[str, Any], usual: int | None) -> int | None:
    """`sliding_window`; null is no window, and `usual` what transformers takes without the key."""
    found: int | None = config.get("sliding_window", usual)
    return found


def refuse(config: dict[str, Any], layers: int) -> None:
    """Raise UnsupportedError for windows of a family that has none in transformers."""
    if config.get("use_sliding_window"):
        raise UnsupportedError(
            f"config.json sets use_sliding_window, and transformers has no window in a "
            f"{config.get('model_type')}; set it to false."
        )
    windows(config | {"sliding_window": None}, layers, None, lambda index: False)
