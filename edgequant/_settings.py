"""The settings of the public functions: the fields of `Plan`, with what may be written for them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from runtime.errors import EdgequantError, GateError

if TYPE_CHECKING:
    from quantize.plan import Plan

StrPath: TypeAlias = str | os.PathLike[str]
Progress: TypeAlias = Callable[[str, int, int, str], None]
"""Called with the stage, steps done, steps in all, and a status note."""


class TextSettings(TypedDict, total=False):
    """What artifacts are measured on."""

    eval_data: str
    """A file as for `calibration`, or a spec. Default: the held-out part of "builtin"."""
    eval_rows: int
    """Windows; 0 = all there are, at most 64. Default: 0."""
    eval_length: int | None
    """Tokens a window. Default: 512, or the model's whole context where that is shorter."""
    adapter: StrPath | Sequence[StrPath]
    """LoRA folders or hub ids that are merged into the original, in this order. Default: none."""
    device: str
    """Where the original, calibration and rounding run: "cpu" or "cuda". Default: "cpu"."""


class EngineSettings(TypedDict, total=False):
    """Which engines measure."""

    reference: str | None
    """Runs the original: "transformers", "torch", "native" or "numpy". Default: one of ours."""
    kv: str | None
    """Keys and values of the native engine, "f32" or "f16". Default: "f32"."""


class GateSettings(TextSettings, total=False):
    """Limits that an artifact must keep; None = no limit, the default of each."""

    max_kl: float | None
    """Highest mean KL divergence, nats a token."""
    min_top1: float | None
    """Least top-1 agreement, 0 to 1."""
    max_ppl_ratio: float | None
    """Highest perplexity over the original's."""
    max_image_kl: float | None
    """Highest mean KL divergence of text after images. Default: that of `max_kl`."""
    max_kl_p99: float | None
    """Highest KL divergence of 99 % of the tokens."""
    max_kl_p999: float | None
    """Highest KL divergence of 99.9 % of the tokens."""
    max_flipped: float | None
    """Highest share of tokens whose likeliest next token is another one: 1 - top-1 agreement."""
    max_kl_increase: float | str | None
    """Highest increase of the mean KL divergence over the baseline's: 0.1, or "10%"."""
    min_rank: float | None
    """Of reward models: least rank correlation of the scores with the original's, -1 to 1."""
    baseline: StrPath | None
    """An earlier report.json that must not get worse."""


class CheckSettings(GateSettings, EngineSettings, total=False):
    """How `check` measures, and the gates."""


class CompareSettings(TextSettings, EngineSettings, total=False):
    """How `compare` measures."""


class PlanSettings(GateSettings, total=False):
    """What decides the bytes of an artifact, and how the run behaves."""

    method: str
    """"gptq", "awq", "awq-gptq" or "rtn". Default: "gptq"; "rtn" with an imatrix."""
    effort: str
    """"low", "medium" or "high". Default: "medium"."""
    rewrites: Sequence[str] | None
    """Function-preserving changes, [] for none. Default: those of the effort."""
    rules: Sequence[str]
    """"REGEX=TYPE" for the tensors whose names match; the last match wins. Default: none."""
    target_size: int | str | None
    """Most bytes of an automatic target: a number, or text such as "350MB"."""
    target_bpw: float | None
    """Average bits per weight at most, for an automatic target."""
    calibration: str
    """"builtin[:domains]", a .txt, .json, .jsonl or .parquet file, "hub:..." or "self"."""
    calib_images: StrPath
    """Images with captions for a model that reads them: "builtin", "none", or a folder in which
    each has its caption in a .txt file of the same name. Default: "builtin"."""
    imatrix: StrPath | None
    """An importance matrix of llama.cpp, instead of calibration text."""
    rows: int
    """Calibration windows. Default: 64."""
    length: int | None
    """Tokens a calibration window. Default: as `eval_length`."""
    seed: int
    """Of the choice of text. Default: 0."""
    damp: float
    """GPTQ's damping, a share of the mean diagonal. Default: 0.01."""
    allow_fallback: bool
    """Whether to round to nearest where a Hessian is singular. Default: False."""
    calibrate_all_experts: bool
    """Whether every expert of a mixture learns from every token, not only from those that chose
    it. Default: False."""
    max_ram: float | str | None
    """Most memory that the run may hold: GiB, or text such as "16GiB". Default: no limit, and 8 GiB
    of hidden states before they go to disk."""
    ray: str | None
    """Ray cluster that computes: "HOST:PORT" of its head, "auto" for the one that runs on this
    machine, or "local" to start one here. Default: this process."""
    overwrite: bool
    """Whether files in the output folder may be replaced. Default: False."""
    check: bool
    """Whether to judge what was written. Default: True."""


class SamplingSettings(TypedDict, total=False):
    """How `generate` and `stream` choose tokens."""

    temperature: float
    """0 = always the likeliest token. Default: 0."""
    top_k: int
    """Keep the k likeliest tokens; 0 = all. Default: 0."""
    top_p: float
    """Keep the likeliest tokens with this much probability in all. Default: 1."""
    seed: int
    """The same one gives the same text. Default: 0."""
    stop: str | Sequence[str]
    """Texts that end the answer, and are left out. Default: none."""


def plan_of(
    model: StrPath | None,
    to: str | Sequence[str],
    output: StrPath | None,
    base: "Plan | StrPath | None",
    settings: Mapping[str, Any],
) -> "Plan":
    """The plan that arguments describe; they win over those of `base`, a Plan or a TOML file."""
    from quantize.plan import Plan

    refuse_unknown(settings, PlanSettings)
    given = {
        "model": None if model is None else os.fspath(model),
        "to": to,
        "output": output,
    }
    flags = {name: value for name, value in given.items() if not _left_out(value)} | dict(settings)
    if isinstance(base, Plan):
        return Plan.from_flags(None, flags_of(base) | flags)
    return Plan.from_flags(None if base is None else Path(base), flags)


def _left_out(value: Any) -> bool:
    """Whether an argument says nothing: None, or an empty tuple."""
    return value is None or value == ()


def flags_of(plan: "Plan") -> dict[str, Any]:
    """A plan as `Plan.from_flags` takes it."""
    flags = {field.name: getattr(plan, field.name) for field in fields(plan)}
    flags["to"] = [target.label for target in flags.pop("targets")]
    return flags | {"rules": plan.recipe()["rules"]}


def refuse_unknown(settings: Mapping[str, Any], known: Any) -> None:
    """Raise TypeError, as Python does for an argument that a function does not have.

    `known` is the TypedDict of the settings that there are.
    """
    for name in settings:
        if name not in known.__annotations__:
            names = ", ".join(sorted(known.__annotations__))
            raise TypeError(f"there is no setting {name!r}; known: {names}.")


def paths_of(files: StrPath | Iterable[StrPath]) -> list[Path]:
    """One path or several, as a list."""
    if isinstance(files, str | os.PathLike):
        return [Path(files)]
    return [Path(file) for file in files]


@contextmanager
def in_python() -> Iterator[None]:
    """Errors name settings instead of flags."""
    try:
        yield
    except GateError:  # names no flag, and keeps what it is made of
        raise
    except EdgequantError as error:
        from quantize.plan import spelling

        error.args = (spelling.in_python(str(error)),)
        raise


def silent(stage: str, done: int, total: int, note: str) -> None:
    """The progress of those who asked for none."""
