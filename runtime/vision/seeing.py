"""An engine for one prompt with images: the tower computes them, the engine what follows."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from runtime.archs import Arch
from runtime.archs.qwen2vl import VisionArch
from runtime.engine import OpsEngine
from runtime.errors import UnsupportedError
from runtime.kv_cache import Cache
from runtime.positions import Positions
from runtime.stored import StoredTensors
from runtime.vision.encode import encode
from runtime.vision.image import Patches
from runtime.vision.place import AxisPositions, Embedded, axes
from runtime.vision.tower import Tower


class SeenImages:
    """Images of a prompt, and their embeddings once they are asked for."""

    def __init__(
        self, tower: Tower, tensors: StoredTensors, images: Sequence[Patches], token: int
    ) -> None:
        """`token` is the id that stands for each embedding of an image."""
        self.tower, self.tensors, self.images, self.token = tower, tensors, images, token

    @cached_property
    def values(self) -> np.ndarray:
        """(tokens of all images, D) float32."""
        return encode(self.tower, self.tensors, self.images)


def see_together(prompts: Sequence[SeenImages]) -> None:
    """Compute the images of several prompts for one tower, which is then read once."""
    if not prompts:
        return
    images = [image for prompt in prompts for image in prompt.images]
    values = encode(prompts[0].tower, prompts[0].tensors, images)
    merge = prompts[0].tower.merge
    counts = [sum(image.tokens(merge) for image in prompt.images) for prompt in prompts]
    for prompt, part in zip(prompts, np.split(values, np.cumsum(counts)[:-1]), strict=True):
        prompt.values = part


class SeeingEngine:
    """An engine of ours that reads a prompt with images, and goes on after it."""

    def __init__(self, engine: Any, seen: SeenImages) -> None:
        """Raises UnsupportedError for an engine that takes no embeddings, or another model."""
        if not isinstance(engine, OpsEngine) or not isinstance(engine.arch, VisionArch):
            raise UnsupportedError(
                "images are read by our own engines, in a Qwen2-VL or Qwen2.5-VL; open such a "
                "model with the backend native, torch or numpy."
            )
        self.engine, self.seen = engine, seen
        self.arch: Arch = engine.arch
        self.tokenizer = engine.tokenizer
        self.ahead = 0
        """How far the text after the images stands behind its number."""

    def new_cache(self, batch: int, capacity: int) -> Any:
        return Cache.empty(self.engine.ops, self.arch, batch, capacity)

    def logits(self, ids: np.ndarray, cache: Any = None, last: bool = False) -> np.ndarray:
        """ids (1, T) -> float32 (1, T, V); what comes first has room for the images."""
        start = cache.length if cache is not None else 0
        first = start + self.ahead
        where = Positions(first, first + ids.shape[1]) if start else self._prompt(ids[0])
        return self.engine.logits_at(where, ids, cache, last)

    def _prompt(self, ids: np.ndarray) -> AxisPositions:
        seen, arch = self.seen, self.engine.arch
        assert isinstance(arch, VisionArch)
        places = axes(ids, seen.images, seen.tower.merge, seen.token)
        self.ahead = int(places.max()) + 1 - len(ids)
        images = Embedded(np.flatnonzero(ids == seen.token), seen.values)
        return AxisPositions(places, arch.sections, images)
