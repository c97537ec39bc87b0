"""Run a checkpoint in transformers itself, the reference that our own reading of it is held to."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from runtime.archs import Arch
from runtime.checkpoint import read_checkpoint
from runtime.errors import CorruptFileError, EdgequantError, InputError, UnsupportedError
from runtime.tokenizer import Tokenizer, surroundings

READS_FILES = True


class TransformersCache:
    """What transformers keeps of the tokens so far, and how many it may become."""

    def __init__(self, capacity: int) -> None:
        from transformers import DynamicCache

        self.kept, self.capacity = DynamicCache(), capacity


class TransformersEngine:
    """An auto class's model in float32, with the tokenizer that `AutoTokenizer` makes."""

    def __init__(self, arch: Arch, model: Any, tokenizer: Tokenizer) -> None:
        self.arch, self.model, self.tokenizer = arch, model, tokenizer

    def new_cache(self, batch: int, capacity: int) -> TransformersCache:
        """An empty cache for `capacity` tokens of each row."""
        return TransformersCache(capacity)

    def logits(
        self, ids: np.ndarray, cache: TransformersCache | None = None, last: bool = False
    ) -> np.ndarray:
        """ids (B, T) -> float32 (B, T, V); with `last` (B, 1, V). A cache is advanced by T.

        Raises InputError when the cache is full.
        """
        import torch

        kept = None
        if cache is not None:
            total = cache.kept.get_seq_length() + ids.shape[1]
            if total > cache.capacity:
                raise InputError(
                    f"{total} tokens do not fit in {cache.capacity}; "
                    "shorten the text or ask for a larger cache."
                )
            kept = cache.kept
        inputs = torch.from_numpy(np.ascontiguousarray(ids, np.int64)).to(self.model.device)
        with torch.no_grad():
            out = self.model(
                inputs,
                past_key_values=kept,
                use_cache=kept is not None,
                logits_to_keep=1 if last else 0,
            )
        return np.asarray(out.logits.float().cpu())


class TransformersScores(TransformersEngine):
    """`AutoModelForSequenceClassification`: the scores of every token, not of the last alone."""

    def new_cache(self, batch: int, capacity: int) -> TransformersCache:
        raise UnsupportedError("a model that scores texts is given none in pieces; leave it whole.")

    def logits(
        self, ids: np.ndarray, cache: TransformersCache | None = None, last: bool = False
    ) -> np.ndarray:
        """ids (B, T) -> float32 (B, T, labels); with `last` (B, 1, labels)."""
        import torch

        inputs = torch.from_numpy(np.ascontiguousarray(ids, np.int64)).to(self.model.device)
        with torch.no_grad():
            states = self.model.base_model(inputs, use_cache=False).last_hidden_state
            scores = self.model.score(states[:, -1:] if last else states)
        return np.asarray(scores.float().cpu())


def open(
    path: Path | str, device: str = "cpu", adapters: Sequence[Path] = ()
) -> TransformersEngine:
    """Load a checkpoint folder into transformers, in float32: four bytes a weight.

    `adapters`: folders of LoRA adapters. PEFT runs the last one, those before it are merged.

    Raises UnsupportedError when transformers is not installed or does not take the folder, and
    CorruptFileError when it finds no tensor for a part of the model.
    """
    folder = Path(path)
    checkpoint = read_checkpoint(folder, adapters)  # what we do not read is told as usual
    try:
        import transformers
    except ImportError:
        raise UnsupportedError(
            "judging against transformers needs it: pip install 'edgequant[interop]'."
        ) from None
    import torch

    head = checkpoint.arch.score_head
    if head and len(head.linears) > 1:
        raise UnsupportedError(
            f"transformers has no class for the head of {folder}, only code that comes with the "
            "model; judge without it as reference."
        )
    library: Any = transformers  # its annotations do not tell what comes back
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    try:
        auto = "AutoModelForSequenceClassification" if head else checkpoint.family.hf_auto
        model, info = getattr(library, auto).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
        if checkpoint.arch.vocab != model.config.get_text_config().vocab_size:
            model.resize_token_embeddings(checkpoint.arch.vocab, mean_resizing=False)
        model = _with_adapters(model, adapters)
        found = library.AutoTokenizer.from_pretrained(checkpoint.files, local_files_only=True)
    except EdgequantError:
        raise
    except Exception as error:  # whatever its many readers raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedError(
            f"transformers {version('transformers')} does not open {folder}: {reason[0]}; judge "
            "without it as reference."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise CorruptFileError(
            f"transformers finds no tensor for {missing[0]} in {folder} and would fill it with "
            "random values; rename the tensors of the checkpoint, or judge without it as reference."
        )
    engine = TransformersScores if head else TransformersEngine
    return engine(
        checkpoint.arch, model.eval().to(device), _tokenizer(found, model, checkpoint.files)
    )


def _with_adapters(model: Any, adapters: Sequence[Path]) -> Any:
    """The model with the last adapter running, those before it merged: see runtime/merging.py.

    Raises UnsupportedError for an adapter that PEFT cannot run, or would run without some tensors:
    transformers 5 keeps experts and routers in modules of its own, which PEFT does not always know.
    """
    for place, adapter in enumerate(adapters, 1):
        peft: Any = import_module("peft")
        try:
            model = peft.PeftModel.from_pretrained(model, adapter)
            # from_pretrained says nothing of what it leaves out
            unused = sorted(model.load_adapter(adapter, "default").unexpected_keys)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedError(
                f"peft {peft.__version__} does not run the adapter {adapter} in transformers "
                f"({reason[0].rstrip('.')}); judge without it as reference."
            ) from error
        if unused:
            raise UnsupportedError(
                f"peft {peft.__version__} finds no place for {unused[0]} of the adapter {adapter} "
                "in transformers and would leave it out; judge without it as reference."
            )
        # without peft around it: its layers hold the factors
        model = model.merge_and_unload() if place < len(adapters) else model.get_base_model()
    return model


def _tokenizer(found: Any, model: Any, folder: Path) -> Tokenizer:
    """What transformers made of the tokenizer's files. Raises UnsupportedError for a slow one."""
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedError(
            f"transformers reads this tokenizer as a {type(found).__name__}, which has no "
            "tokenizer.json; judge without it as reference."
        )
    ends = getattr(model, "generation_config", model.config).eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    templates = found.chat_template
    if isinstance(templates, dict):
        templates = templates.get("default")
    prefix, suffix = surroundings(
        lambda text, special: list(found(text, add_special_tokens=special).input_ids), folder
    )
    return Tokenizer(
        backend,
        eos=tuple(ends),
        bos=found.bos_token_id,
        prefix=prefix,
        suffix=suffix,
        chat_template=templates,
    )
