"""`edgequant.load`: run any model, ours or of another tool."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from edgequant._settings import SamplingSettings, StrPath, in_python, paths_of, refuse_unknown
from runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from runtime.engine import Engine
    from runtime.tokenizer import Tokenizer


@in_python()
def load(
    path: StrPath,
    backend: str | None = None,
    *,
    adapter: StrPath | Sequence[StrPath] = (),
    **options: Any,
) -> "LoadedModel":
    """Open a GGUF file, an ONNX folder or a checkpoint folder, ready to run.

    backend: "native", "numpy", "torch", "onnxruntime" or "llamacpp"; None = onnxruntime for an ONNX
    folder, native for the rest. adapter: LoRA folders or hub ids, merged into a checkpoint.
    options: of the backend, such as threads=2 (native, onnxruntime, llamacpp), kv="f32" (native,
    llamacpp) or device="cuda" (torch).

    Raises InputError for a path or backend that does not exist, UnsupportedError for a model or an
    installation that cannot be run, CorruptFileError for a damaged file, and SpaceError for a model
    that does not fit in memory.
    """
    from quantize.loading import open_any

    merged = [str(folder) for folder in paths_of(adapter)]
    return LoadedModel(
        open_any(Path(path), backend, purpose="generation", adapters=merged, **options)
    )


class LoadedModel:
    """A model with its tokenizer; `load` makes it."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """`encode` (text -> list of ids), `decode` (ids -> text), `eos` (ids that end a text);
        None when the file has none."""
        return self._engine.tokenizer

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self._engine.arch.context

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows: the last axis of logits, unless it scores texts."""
        return self._engine.arch.vocab

    @in_python()
    def logits(self, ids: "ArrayLike", last: bool = False) -> "np.ndarray":
        """Scores of the next token after each one: ids (T,) or (B, T) -> float32 (..., T, V).

        With `last` only the scores after the last token are computed: (..., 1, V). Raises
        InputError for ids that are not tokens of the model, and for more than its context.
        """
        import numpy as np

        try:
            given = np.asarray(ids)
        except ValueError as error:
            raise InputError("the rows of ids differ in length; give one at a time.") from error
        if given.ndim not in (1, 2) or given.size == 0 or given.dtype.kind not in "iu":
            raise InputError(
                f"ids have the shape {given.shape} and the type {given.dtype}; give whole numbers "
                "as (tokens) or (rows, tokens), at least one."
            )
        if given.min() < 0 or given.max() >= self.vocab_size:
            raise InputError(
                f"ids must be from 0 to {self.vocab_size - 1}, not {given.min()} to {given.max()}; "
                "use the model's own tokenizer."
            )
        if given.shape[-1] > self.context:
            raise InputError(
                f"{given.shape[-1]} tokens exceed the model's context of {self.context}; "
                "give fewer at a time."
            )
        out = self._engine.logits(np.atleast_2d(given).astype(np.int64), last=last)
        return out if given.ndim == 2 else out[0]

    @in_python()
    def score(self, text: str | Sequence[Mapping[str, str]]) -> "np.ndarray":
        """What a reward model or classifier makes of a text, or of messages as its chat template
        writes them: float32 (places, labels), with one place, or one for each marker of a step.

        The place is the text's last token, also where that is the padding token, before which
        transformers reads. Raises UnsupportedError for a model that predicts tokens, and InputError
        for an empty text, one without a marker, and one that is longer than the context.
        """
        from quantize.loading import render
        from runtime.scores import scores, text_ids

        if not isinstance(text, str):
            _check_messages(text)
            text = render(self._engine, [dict(message) for message in text], generate=False)
        return scores(self._engine, text_ids(self.tokenizer, text))

    @in_python()
    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        count: int = 128,
        **sampling: Unpack[SamplingSettings],
    ) -> str:
        """The text that follows a prompt, as a whole: arguments and errors as in `stream`."""
        return "".join(self.stream(prompt, count, **sampling))

    @in_python()
    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        count: int = 128,
        **sampling: Unpack[SamplingSettings],
    ) -> Iterator[str]:
        """The text that follows a prompt, piece by piece as tokens are made.

        prompt: text, or messages [{"role": "user", "content": "Hi"}, ...] for the model's chat
        template. count: most new tokens; the model's own end of text comes first. sampling: how
        tokens are chosen; greedily when nothing is given.

        Raises InputError for an empty prompt, one that does not fit the context with `count`, a
        number out of range, or a model without the tokenizer or chat template that is needed.
        """
        from quantize.loading import render
        from runtime.generate import generate_text
        from runtime.sample import Sampler

        refuse_unknown(sampling, SamplingSettings)
        if not isinstance(prompt, str):
            _check_messages(prompt)
            prompt = render(self._engine, [dict(message) for message in prompt])
        choice: dict[str, Any] = dict(sampling)
        stop = choice.pop("stop", ())
        ends = tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else (stop,)
        return generate_text(self._engine, prompt, count, Sampler(**choice), ends)


def _check_messages(prompt: Any) -> None:
    """Raise InputError for what is neither text nor messages."""
    usable = isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray)
    if not usable or not prompt or not all(isinstance(each, Mapping) for each in prompt):
        raise InputError(
            'a prompt is text, or messages like [{"role": "user", "content": "Hi"}], not '
            f"{prompt!r:.60}."
        )
