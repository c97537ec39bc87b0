"""Keys and values of the tokens so far, for engines that compute runtime/forward.py."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.archs import Arch, Attention

if TYPE_CHECKING:
    from runtime.forward import Ops

Array = Any


@dataclass
class Cache:
    """Keys and values of the tokens so far, per layer (B, capacity, K, C).

    A layer with a window has those of the last window - 1 tokens alone, which is all that the next
    token sees beside its own.
    """

    keys: list[Array]
    values: list[Array]
    capacity: int
    length: int = 0

    @staticmethod
    def empty(ops: "Ops", arch: Arch, batch: int, capacity: int) -> "Cache":
        """Room for `capacity` tokens."""
        specs = [arch.layer(index).attention for index in range(arch.layers)]
        shapes = [
            (batch, min(capacity, (spec.window or capacity + 1) - 1), spec.kv_heads, spec.head_dim)
            for spec in specs
        ]
        sides = [[ops.zeros(shape) for shape in shapes] for _ in range(2)]
        return Cache(sides[0], sides[1], capacity)

    def keep(
        self, ops: "Ops", spec: Attention, layer: int, k: Array, v: Array
    ) -> tuple[int, Array, Array]:
        """Store a layer's new keys and values (B, T, K, C).

        Returns where they start among those that new tokens see, and these, (B, S, K, C) each.
        """
        if spec.window is not None:
            kept = min(self.length, spec.window - 1)
            keys = _keep_last(ops, self.keys[layer], kept, k)
            return kept, keys, _keep_last(ops, self.values[layer], kept, v)
        start, stop = self.length, self.length + k.shape[1]
        self.keys[layer][:, start:stop] = k
        self.values[layer][:, start:stop] = v
        return start, self.keys[layer][:, :stop], self.values[layer][:, :stop]


def _keep_last(ops: "Ops", room: Array, kept: int, new: Array) -> Array:
    """What lies in the first `kept` places of a window's room (B, window - 1, K, C) and `new`
    (B, T, K, C), one after the other; the room then has the last of them."""
    batch, tokens, heads, width = new.shape
    seen = ops.zeros((batch, kept + tokens, heads, width))
    seen[:, :kept], seen[:, kept:] = room[:, :kept], new
    left = min(kept + tokens, room.shape[1])
    room[:, :left] = seen[:, kept + tokens - left :]
    return seen
