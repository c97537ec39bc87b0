"""Run an ONNX folder in onnxruntime on the CPU: ours, or any that onnxruntime-genai would load.

genai_config.json names the model file, its inputs and its outputs.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import Arch, family_of
from runtime.config_file import read_config
from runtime.errors import CorruptFileError, InputError, UnsupportedError
from runtime.json_files import read_json
from runtime.links import check_inside, check_links
from runtime.onnx_session import computes_operands, open_session, run
from runtime.positions import Positions
from runtime.rope import Rope
from runtime.tokenizer import Tokenizer
from runtime.vision.onnx_folder import FolderVision

READS_FILES = True


@dataclass
class OnnxCache:
    """Keys and values so far, by input name: (B, K, tokens, C). They grow with every call."""

    capacity: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    length: int = 0


class OnnxEngine:
    """One session. Rows of a batch have equal lengths: the file counts positions itself."""

    def __init__(
        self,
        arch: Arch,
        tokenizer: Tokenizer | None,
        session: Any,
        settings: dict[str, Any],
        vision: FolderVision | None = None,
    ) -> None:
        """`settings` is the "model" of genai_config.json; `vision` makes what a decoder of
        embeddings reads."""
        context = min(arch.context, int(settings["context_length"]))
        self.arch, self.tokenizer, self.session = replace(arch, context=context), tokenizer, session
        names = settings["decoder"]
        self.vision, self.mask = vision, names["inputs"]["attention_mask"]
        self.ids = names["inputs"]["inputs_embeds" if vision else "input_ids"]
        self.positions = names["inputs"].get("position_ids", "position_ids")
        self.result = names["outputs"]["logits"]
        self.input_types = {value.name: value.type for value in session.get_inputs()}
        self.presents: dict[str, str] = {}  # name of a past input -> the output that replaces it
        for side in () if arch.score_head else ("key", "value"):
            past = names["inputs"][f"past_{side}_names"]
            present = names["outputs"][f"present_{side}_names"]
            for layer in range(arch.layers):
                self.presents[past % layer] = present % layer
        self._check_names()

    def _check_names(self) -> None:
        """Raise CorruptFileError where the graph's inputs or outputs have other names."""
        known = {value.name for value in self.session.get_outputs()} | set(self.input_types)
        named = {self.ids, self.mask, self.result, *self.presents, *self.presents.values()}
        for name in sorted(named - known):
            raise CorruptFileError(
                f"genai_config.json names {name!r}, which is no input or output of the model; "
                "copy both files from the same folder."
            )
        for name in sorted(set(self.input_types) - named - {self.positions}):
            raise UnsupportedError(
                f"the model has an input {name!r} that genai_config.json does not name; only text "
                "models with one decoder are run."
            )

    def new_cache(self, batch: int, capacity: int) -> OnnxCache:
        """An empty cache; arrays grow, `capacity` only bounds them."""
        shape = (batch, self.arch.kv_heads, 0, self.arch.head_dim)
        arrays = {
            name: np.zeros(shape, np.float16 if "float16" in self.input_types[name] else np.float32)
            for name in self.presents
        }
        return OnnxCache(capacity, arrays)

    def logits(
        self, ids: np.ndarray, cache: OnnxCache | None = None, last: bool = False
    ) -> np.ndarray:
        """As `logits_at` of text."""
        return self.logits_at(None, ids, cache, last)

    def logits_at(
        self,
        positions: Positions | None,
        ids: np.ndarray,
        cache: OnnxCache | None = None,
        last: bool = False,
    ) -> np.ndarray:
        """ids (B, T) -> float32 (B, T, V); with `last` (B, 1, V). A cache is advanced by T.

        Raises EdgequantError when the cache or the model's context is full.
        """
        if cache is not None and self.arch.score_head:
            raise UnsupportedError(
                "an ONNX folder of a model that scores texts has no cache; give a text as a whole."
            )
        batch, tokens = ids.shape
        past = cache if cache is not None else self.new_cache(batch, tokens)
        total = past.length + tokens
        limit = min(past.capacity, self.arch.context)
        if total > limit:
            raise InputError(
                f"{total} tokens do not fit in {limit}; shorten the text or ask for a larger cache."
            )
        if past.length and batch > 1 and tokens > 1:
            # GroupQueryAttention adds several tokens to a cache only for a batch of one
            steps = [self.logits(ids[:, at : at + 1], cache) for at in range(tokens)]
            return steps[-1] if last else np.concatenate(steps, axis=1)
        feed = {self.mask: np.ones((batch, total), np.int64)}
        feed |= self._read(ids, positions or Positions(past.length, total))
        kept = list(self.presents.values()) if cache is not None else []
        out, *presents = run(self.session, [self.result, *kept], feed | past.arrays)
        if cache is not None:
            cache.arrays = dict(zip(self.presents, presents, strict=True))
            cache.length = total
        return np.asarray(out[:, -1:] if last else out, np.float32)

    def _read(self, ids: np.ndarray, positions: Positions) -> dict[str, np.ndarray]:
        """What the decoder reads of tokens (B, T) at these positions."""
        if self.vision is not None:
            return self.vision.read(ids, positions)
        feed = {self.ids: np.asarray(ids, np.int64)}
        if self.positions in self.input_types:
            places = np.arange(positions.start, positions.stop)
            feed[self.positions] = np.tile(places, (len(ids), 1))
        return feed


def open(
    folder: Path | str,
    threads: int | None = None,
    accuracy_level: int | None = None,
    optimize: bool = True,
) -> OnnxEngine:
    """Run the model of a folder.

    `accuracy_level` overrides what the file says: 4 = activations rounded to int8, 0 = float32.
    Without `optimize` onnxruntime leaves the decoder's graph as it is written.
    Raises EdgequantError when onnxruntime is not installed or cannot load the file.
    """
    if accuracy_level not in (None, 0, 1, 2, 3, 4):
        raise InputError(f"accuracy_level must be from 0 to 4, not {accuracy_level!r}.")
    folder = Path(folder)
    check_links(folder)
    settings = _settings(folder)
    tokenizer = _tokenizer(folder, settings.get("eos_token_id"))
    try:
        graph = folder / settings["decoder"]["filename"]
        session = open_session(graph, threads, accuracy_level, optimize)
        vision = FolderVision.open(folder, settings, threads, accuracy_level)
        return OnnxEngine(_arch(folder, settings), tokenizer, session, settings, vision)
    except KeyError as missing:
        raise UnsupportedError(
            f"{folder / 'genai_config.json'} has no {missing.args[0]!r}; only text models with one "
            "decoder, and Qwen's that read images, are run."
        ) from None


def needs_folding(folder: Path) -> bool:
    """Whether products of the decoder of a folder that opens depend on the graph optimizer."""
    return computes_operands(folder / _settings(folder)["decoder"]["filename"])


def _settings(folder: Path) -> dict[str, Any]:
    """The "model" of genai_config.json, or what it would say of a model that scores texts."""
    genai = read_json(folder / "genai_config.json")
    settings = genai["model"] if "model" in genai else _scoring(folder)
    if settings is None:
        raise InputError(f"{folder} has no genai_config.json; give a folder that has one.")
    for part in ("decoder", "embedding", "vision"):
        if name := (settings.get(part) or {}).get("filename"):
            check_inside(folder, "genai_config.json", name)
    return settings


def _scoring(folder: Path) -> dict[str, Any] | None:
    """What genai_config.json would say of a model that scores texts; None for another one."""
    config = read_json(folder / "config.json")
    arch = family_of(config).arch(config) if config else None
    if arch is None or arch.score_head is None:
        return None
    names = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    decoder = {"filename": "model.onnx", "inputs": names, "outputs": {"logits": "logits"}}
    return {"context_length": arch.context, "decoder": decoder}


def _tokenizer(folder: Path, eos: int | list[int] | None) -> Tokenizer | None:
    """The folder's tokenizer, if any; texts end where onnxruntime-genai ends them."""
    if not (folder / "tokenizer.json").exists():
        return None
    found = Tokenizer.from_folder(folder)
    if eos is None:
        return found
    return replace(found, eos=tuple(eos) if isinstance(eos, list) else (eos,))


def _arch(folder: Path, settings: dict[str, Any]) -> Arch:
    """From config.json; else what genai_config.json says, which is enough to run it."""
    config = read_config(folder)
    if config:
        return family_of(config).arch(config)
    decoder = settings["decoder"]
    return Arch(
        family=settings["type"],
        vocab=settings["vocab_size"],
        hidden=decoder["hidden_size"],
        ffn=0,
        layers=decoder["num_hidden_layers"],
        heads=decoder["num_attention_heads"],
        kv_heads=decoder["num_key_value_heads"],
        head_dim=decoder["head_size"],
        eps=0.0,
        context=settings["context_length"],
        tied=False,
        rope=Rope(),
    )
