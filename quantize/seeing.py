"""A prompt with images that a user names: each becomes embeddings, and room among the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export import CONTAINERS
from export.gguf_general import PROVENANCE
from quantize.checkpoint import open_checkpoint
from quantize.vision import open_vision
from runtime.checkpoint import model_name
from runtime.config_file import read_config
from runtime.containers import recognise
from runtime.engine import Engine, reads_files
from runtime.errors import InputError, UnsupportedError
from runtime.sources import CONFIG
from runtime.tokenizer import Tokenizer
from runtime.vision.ids import IDS, image_ids
from runtime.vision.image import patches_of, read_image, read_preparation
from runtime.vision.seeing import SeeingEngine, SeenImages
from runtime.vision.tower import tower_of
from runtime.vision.vision import Vision


@dataclass(frozen=True)
class ImagePrompt:
    """Images, and the tokens that stand around and for one."""

    seen: SeenImages
    start: str
    token: str
    end: str
    note: str | None = None
    """Why it is not known whether the tower is the model's own."""

    def placed(self, text: str) -> str:
        """A text with a place for each image: those that it has, or all before it.

        Raises InputError for another number of places.
        """
        if self.token not in text:
            return f"{self.start}{self.token}{self.end}" * len(self.seen.images) + text
        self._check_places(text)
        return text

    def _check_places(self, text: str) -> None:
        """Raise InputError unless each image has a place."""
        images, places = len(self.seen.images), text.count(self.token)
        if places != images:
            raise InputError(
                f"the prompt has {places} times {self.token}, and {images} images were given; give "
                "one for each."
            )

    def with_room(self, text: str) -> str:
        """A text in which each place is as long as its image.

        Raises InputError for another number of places: a system message may have some as well.
        """
        self._check_places(text)
        first, *rest = text.split(self.token)
        counts = [image.tokens(self.seen.tower.merge) for image in self.seen.images]
        parts = (self.token * n + part for n, part in zip(counts, rest, strict=True))
        return first + "".join(parts)

    def engine(self, engine: Engine) -> SeeingEngine:
        """The engine for one prompt. Raises EdgequantError for one that reads no images."""
        if engine.arch.hidden != self.seen.tower.outputs:
            raise InputError(
                f"the vision tower makes embeddings of {self.seen.tower.outputs} channels, and the "
                f"model has {engine.arch.hidden}; give --tower its checkpoint."
            )
        return SeeingEngine(engine, self.seen)


def check_image_flags(
    images: Sequence[Path], file: Path, tower: str | None, backend: str | None
) -> None:
    """Raise EdgequantError for a tower without images, or images for a backend that takes none."""
    if tower is not None and not images:
        raise InputError("--tower is for images; give --image as well, or leave it out.")
    backend = backend or recognise(file).engine
    if not images or not reads_files(backend):
        return
    if backend != "onnxruntime":
        raise UnsupportedError(
            f"the backend {backend} is given no images here; give a checkpoint or a GGUF file with "
            "--backend native, torch or numpy."
        )
    if tower is not None:
        raise InputError(
            f"{file} is run in onnxruntime, with the vision tower in its own folder alone; leave "
            "--tower out."
        )


def image_prompt(
    images: Sequence[Path],
    file: Path,
    tower: str | None,
    tokenizer: Tokenizer | None,
    own: bool = False,
) -> ImagePrompt:
    """Open image files, and the tower of a checkpoint: `tower`, or `file` itself.

    `own`: the engine reads them with the tower of an ONNX folder, which `file` is.
    Raises EdgequantError for an image that does not open, a model without a tower, or a tokenizer
    without the tokens.
    """
    vision = folder_vision(file) if own else checkpoint_vision(tower, file)
    found, tensors, preparation, ids = vision
    assert ids
    texts = [tokenizer.backend.id_to_token(token) if tokenizer else None for token in ids]
    if any(text is None for text in texts):
        raise InputError(
            f"{file} has no tokens {list(ids)} for images; use the model's own tokenizer."
        )
    note = None if tower is None else tower_note(file, vision, model_name(Path(tower)))
    patches = [patches_of(read_image(image), found, preparation) for image in images]
    start, token, end = map(str, texts)
    return ImagePrompt(SeenImages(found, tensors, patches, ids[1]), start, token, end, note)


def checkpoint_vision(tower: str | None, file: Path) -> Vision:
    """The tower of a checkpoint. Raises EdgequantError for one that reads no images."""
    if tower is not None and Path(tower).suffix == ".gguf":
        raise InputError(
            f"{tower} is a file for llama.cpp's --mmproj; give --tower the checkpoint that it was "
            "made from."
        )
    if tower is None and recognise(file).sign != CONFIG:
        raise InputError(
            f"{file} has no vision tower for this backend; give --tower the checkpoint that it was "
            "made from."
        )
    checkpoint = open_checkpoint(tower or file)
    vision = open_vision(checkpoint)
    if vision is None or vision.ids is None:
        raise _blind(checkpoint.folder)
    return vision


def folder_vision(folder: Path) -> Vision:
    """What an ONNX folder says of its tower, whose weights onnxruntime reads.

    Raises EdgequantError for one whose config.json says nothing.
    """
    config = read_config(folder)
    tower = tower_of(config) if config else None
    ids = image_ids(config, int(config["vocab_size"])) if tower else None
    if tower is None or ids is None:
        raise _blind(folder)
    return Vision(tower, {}, read_preparation(folder, tower), ids)


def _blind(folder: Path) -> InputError:
    return InputError(
        f"{folder} reads no images: its config.json has no vision_config or not all of "
        f"{', '.join(IDS)}; give the checkpoint of a Qwen2-VL or Qwen2.5-VL."
    )


def tower_note(file: Path, vision: Vision, name: str) -> str | None:
    """What is said where a file does not tell whose tower it was trained with.

    Raises InputError where it does, and the tower is another one.
    """
    reader = recognise(file)
    if reader.name == "checkpoint":
        own = open_vision(open_checkpoint(file))
        said = own.sha256() if own else None
    else:
        container = CONTAINERS.get(reader.name)
        told = container.provenance(file) if container else {}
        said = told.get(f"{PROVENANCE}vision_sha256", told.get("vision_sha256"))
    if said is None:
        return (
            f"{file} does not say which vision tower it was trained with: what it writes about an "
            f"image is right only if that of {name} is its own"
        )
    if said != vision.sha256():
        raise InputError(
            f"{file} was trained with another vision tower than {name} has; give --tower the "
            "checkpoint that it was made from."
        )
    return None
