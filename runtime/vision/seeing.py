"""An engine for one prompt with images: the tower computes them, the engine what follows."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from runtime.archs import Arch
from runtime.archs.qwen2vl import VisionArch
from runtime.engine import OpsEngine
from runtime.errors import UnsupportedError
from runtime.kv_cache import Cache
from runtime.positions import Positions
from runtime.tensor import Tensor
from runtime.vision.encode import encode
from runtime.vision.image import Patches
from runtime.vision.place import AxisPositions, Embedded, axes
from runtime.vision.tower import Tower


class SeenImages:
    """Images of a prompt, and their embeddings once they are asked for."""

    def __init__(
        self, tower: Tower, tensors: Mapping[str, Tensor], images: Sequence[Patches], token: int
    ) -> None:
        """`token` is the id that stands for each embedding of an image; `tensors` are not read
        where the engine has a tower of its own."""
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


def own_tower(engine: Any) -> Any:
    """What an engine reads images with where it has a tower of its own, an ONNX folder's."""
    vision = getattr(engine, "vision", None)
    return vision if vision is not None and vision.sees else None


class SeeingEngine:
    """An engine that reads a prompt with images, and goes on after it.

    One with a tower of its own reads them with that.
    """

    def __init__(self, engine: Any, seen: SeenImages) -> None:
        """Raises UnsupportedError for an engine that takes no embeddings, or another model."""
        takes = isinstance(engine, OpsEngine) or own_tower(engine) is not None
        if not takes or not isinstance(engine.arch, VisionArch):
            raise UnsupportedError(
                "images are read by our own engines, in a Qwen2-VL or Qwen2.5-VL, and from an ONNX "
                "folder with vision.onnx; open such a model, with the backend native, torch or "
                "numpy if it is no folder."
            )
        self.engine, self.seen = engine, seen
        self.arch: Arch = engine.arch
        self.tokenizer = engine.tokenizer
        self.ahead = 0
        """How far the text after the images stands behind its number."""

    def new_cache(self, batch: int, capacity: int) -> Any:
        if own_tower(self.engine):
            return self.engine.new_cache(batch, capacity)
        # the native engine's own cache is for passes that it does as a whole
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
        tower = own_tower(self.engine)
        values = tower.image_features(seen.images) if tower else seen.values
        images = Embedded(np.flatnonzero(ids == seen.token), values)
        return AxisPositions(places, arch.sections, images)
