"""The graphs of an ONNX folder beside its decoder, in onnxruntime: what a model reads images with.

As onnxruntime-genai names them: `embedding` of genai_config.json makes embeddings of tokens and of
what stands in place of some, `vision` makes those of an image.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtime.onnx_session import open_session, run
from runtime.positions import Positions
from runtime.vision.image import Patches
from runtime.vision.place import AxisPositions


class FolderVision:
    """Sessions of one folder; the tower's is opened when it is needed."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], threads: int | None, level: int | None
    ) -> None:
        """`settings` is the "model" of genai_config.json, `level` its embedding's accuracy_level.

        Raises KeyError for what the settings lack, EdgequantError as `open_session` does.
        """
        decoder, embedding = settings["decoder"], settings["embedding"]
        self.width = int(decoder["hidden_size"])
        self.read_names = [decoder["inputs"][name] for name in ("inputs_embeds", "position_ids")]
        self.ids, self.features = (
            embedding["inputs"][name] for name in ("input_ids", "image_features")
        )
        self.embeds = embedding["outputs"]["inputs_embeds"]
        self.embedding = open_session(folder / embedding["filename"], threads, level)
        self.threads, vision = threads, settings.get("vision")
        self.sees = bool(vision)
        """Whether there is a tower."""
        if vision:
            self.file = folder / vision["filename"]
            self.tower_names = [vision["inputs"][n] for n in ("pixel_values", "image_grid_thw")]
            self.tower_result = vision["outputs"]["image_features"]

    @staticmethod
    def open(
        folder: Path, settings: dict[str, Any], threads: int | None, level: int | None
    ) -> "FolderVision | None":
        """None where the decoder reads tokens. Raises as the constructor does."""
        there = settings.get("embedding")
        return FolderVision(folder, settings, threads, level) if there else None

    @cached_property
    def tower(self) -> Any:
        """The session of the vision tower."""
        return open_session(self.file, self.threads, None)

    def image_features(self, images: Sequence[Patches]) -> np.ndarray:
        """Embeddings of images one after the other: (tokens, D) float32."""
        found = []
        for image in images:
            grid = np.array([[1, image.rows, image.cols]])
            feed = dict(zip(self.tower_names, (image.values, grid), strict=True))
            found += run(self.tower, [self.tower_result], feed)
        return np.concatenate(found)

    def read(self, ids: np.ndarray, positions: Positions) -> dict[str, np.ndarray]:
        """What the decoder reads of tokens (B, T): their embeddings and places on three axes."""
        features: np.ndarray = np.zeros((0, self.width), np.float32)
        places = np.tile(np.arange(positions.start, positions.stop), (3, len(ids), 1))
        if isinstance(positions, AxisPositions):
            features, places = positions.images.values, positions.places[:, None]
        feed = {self.ids: np.asarray(ids, np.int64), self.features: features}
        (embeds,) = run(self.embedding, [self.embeds], feed)
        return dict(zip(self.read_names, (embeds, np.asarray(places, np.int64)), strict=True))
