"""What a run will do, frozen: the command line or a TOML file makes it, the artifact carries it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import calib_data
from quantize.methods import METHODS
from quantize.plan.effort import EFFORTS
from quantize.plan.limits import OF_SCORES, OF_TOKENS, check_limits
from quantize.plan.rule import Rule
from quantize.plan.target import AUTO, Target
from quantize.plan.values import as_list, paths_of, read_toml, settled, sized
from quantize.rewrites import REWRITES
from runtime.errors import InputError
from runtime.links import check_name

GATES = (*OF_TOKENS, *OF_SCORES)
"""What an artifact is held against; `max_kl` may be what automatic targets aim at instead."""
TEXTS = (
    "model",
    "output",
    "baseline",
    "imatrix",
    "calibration",
    "calib_images",
    "eval_data",
    "ray",
)
"""Names that a user writes."""
IMAGE_WORDS = ("builtin", "none")
"""What `calib_images` may be besides a folder."""
LENGTH = 512
"""Tokens a window where the model's context has room."""


def window_length(asked: int | None, context: int) -> int:
    """Tokens a window: as many as were asked for, else LENGTH, or a shorter context."""
    return min(LENGTH, context) if asked is None else asked


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of the artifacts, and how they are judged."""

    targets: tuple[Target, ...]
    model: str | None = None
    """Checkpoint folder or hub id; None = the bundled one."""
    output: Path = Path("dist")
    method: str = "gptq"
    effort: str = "medium"
    rewrites: tuple[str, ...] | None = None
    """Names of function-preserving changes; None = those of the effort."""
    rules: tuple[Rule, ...] = ()
    target_size: int | None = None
    """Bytes that an automatic target may take."""
    target_bpw: float | None = None
    """Bits a weight that its tensors may take."""
    calibration: str = "builtin"
    calib_images: str = "builtin"
    """Images with captions for a model that reads them: "builtin", "none" or a folder."""
    imatrix: Path | None = None
    """File with the mean squared inputs, taken instead of calibration text."""
    rows: int = 64
    length: int | None = None
    """Tokens a calibration window; None = see `window_length`."""
    seed: int = 0
    damp: float = 0.01
    allow_fallback: bool = False
    calibrate_all_experts: bool = False
    """Whether every expert learns from every token, not only from those that chose it."""
    max_ram: float | None = None
    """GiB that the run may hold in memory; None = no limit (see run/way.py)."""
    device: str = "cpu"
    overwrite: bool = False
    eval_data: str = "builtin"
    eval_rows: int = 0
    """Windows of the held-out part; 0 = all there are, at most 64."""
    eval_length: int | None = None
    """Tokens a window; None = as for `length`."""
    max_kl: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    max_image_kl: float | None = None
    """Of a model that reads images: the highest mean KL of text after them; None = `max_kl`."""
    max_kl_p99: float | None = None
    max_kl_p999: float | None = None
    max_flipped: float | None = None
    max_kl_increase: float | None = None
    """A share of the baseline's mean KL."""
    min_rank: float | None = None
    """Of a model that scores texts: the least rank correlation with the original's scores."""
    baseline: Path | None = None
    check: bool = True
    ray: str | None = None
    """Ray cluster: HOST:PORT, "auto" or "local"; None = this process. Decides no byte."""
    adapter: tuple[str, ...] = ()
    """LoRA folders or hub ids that are merged into the model, in this order."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("nothing to make; name a target with --to, like gguf:Q4_K_M.")
        if len(set(self.targets)) < len(self.targets):
            raise InputError("a target is given twice with --to; name each once.")
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}.")
        if self.effort not in EFFORTS:
            raise InputError(f"unknown effort {self.effort!r}; known: {', '.join(EFFORTS)}.")
        for name in self.chosen_rewrites:
            if name not in REWRITES:
                raise InputError(
                    f"unknown rewrite {name!r}; known: {', '.join(REWRITES)}, or none."
                )
        if self.imatrix and METHODS[self.method].calibrated:
            raise InputError(
                f"--imatrix holds only the mean squared inputs, and {self.method} needs the whole "
                "Hessian; use --method rtn, or leave --imatrix out to calibrate on text."
            )
        if self.imatrix and self.calibration != Plan.calibration:
            raise InputError(
                "--imatrix takes the place of calibration text; give it or --calibration, not both."
            )
        self._check_read()
        check_limits(self)
        self._check_automatic()
        self._check_gates()

    @property
    def chosen_rewrites(self) -> tuple[str, ...]:
        """Those that were named, or else those of the effort: none for a method with its own."""
        if self.rewrites is not None:
            return self.rewrites
        return () if METHODS[self.method].scales else EFFORTS[self.effort].rewrites

    def _check_read(self) -> None:
        """What is read to calibrate needs a method that calibrates."""
        if self.calib_images not in IMAGE_WORDS and not METHODS[self.method].calibrated:
            raise InputError(
                f"--calib-images is for calibration, and {self.method} reads nothing; use --method "
                "gptq, or leave it out."
            )
        if self.calibrate_all_experts and not METHODS[self.method].calibrated:
            raise InputError(
                f"--calibrate-all-experts says what experts learn from, and {self.method} reads no "
                "text; use --method gptq, or leave it out."
            )

    def _check_automatic(self) -> None:
        """Automatic targets need something to reach, and calibration to know the way."""
        automatic = [target.label for target in self.targets if target.automatic]
        flag = "--target-size" if self.target_size is not None else "--target-bpw"
        if self.target_size is not None and self.target_bpw is not None:
            raise InputError("--target-size and --target-bpw say the same; give one of them.")
        if not automatic and (self.target_size, self.target_bpw) != (None, None):
            raise InputError(
                f"{flag} works with an automatic target; add --to gguf:{AUTO} or --to onnx:{AUTO}."
            )
        if automatic and (self.target_size, self.target_bpw, self.max_kl) == (None, None, None):
            raise InputError(
                f"--to {automatic[0]} needs something to reach; add --target-size 350MB, "
                "--target-bpw 4.5 or --max-kl 0.02."
            )
        if automatic and not METHODS[self.method].calibrated:
            raise InputError(
                f"--to {automatic[0]} predicts the loss of methods that calibrate, and "
                f"{self.method} does not; use --method gptq, or a preset."
            )

    def _check_gates(self) -> None:
        """A gate without a measurement would always hold."""
        gates = [name for name in GATES if getattr(self, name) is not None]
        if any(target.automatic for target in self.targets) and "max_kl" in self.aim():
            gates = [name for name in gates if name != "max_kl"]
        if gates and not self.check:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in gates)
            raise InputError(
                f"--no-check measures nothing, so nothing could be held against {named}; leave out "
                "one or the other."
            )

    def recipe(self) -> dict[str, Any]:
        """What decides the bytes of an artifact besides the model: stored inside it."""
        names = (
            "method",
            "effort",
            "calibration",
            "rows",
            "length",
            "seed",
            "damp",
            "allow_fallback",
        )
        recipe: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.calibrate_all_experts:
            recipe["calibrate_all_experts"] = True
        if self.calib_images != Plan.calib_images:
            recipe["calib_images"] = Path(self.calib_images).name
        recipe["rewrites"] = list(self.chosen_rewrites)
        recipe["rules"] = [str(rule) for rule in self.rules]
        if any(target.automatic for target in self.targets):
            recipe |= self.aim()
        recipe["targets"] = [target.label for target in self.targets]
        if self.calibration_file:
            recipe["calibration"] = self.calibration_file.name
        if self.imatrix:
            for name in ("calibration", "rows", "length", "seed"):
                del recipe[name]  # no text is read
            recipe["imatrix"] = self.imatrix.name
        return recipe

    def aim(self) -> dict[str, Any]:
        """What automatic targets are to reach. Beside a size, max_kl is nothing but a gate."""
        sizes = {"target_size": self.target_size, "target_bpw": self.target_bpw}
        given = {name: value for name, value in sizes.items() if value is not None}
        return given or {"max_kl": self.max_kl}

    @property
    def calibration_file(self) -> Path | None:
        """The user's own calibration file, when the spec names one."""
        return Path(self.calibration) if calib_data.is_file(self.calibration) else None

    @staticmethod
    def from_flags(path: Path | None, flags: dict[str, Any]) -> "Plan":
        """From a TOML file with the field names as keys, and flags, which win over it.

        Both spell targets as `to = ["gguf:Q4_K_M"]` and rules as `rules = ["attn_v=Q6_K"]`.
        With an imatrix the method is rtn unless another one is named.
        Raises EdgequantError for an unreadable file, an unknown key or a value of the wrong kind.
        """
        hints = get_type_hints(Plan)
        values = (read_toml(path, hints) if path else {}) | flags
        values["targets"] = tuple(map(Target.parse, as_list(values.pop("to", ()), "to")))
        values["adapter"] = paths_of(values.get("adapter") or (), "adapter")
        values["rules"] = tuple(map(Rule.parse, as_list(values.get("rules", ()), "rules")))
        for name in TEXTS:
            text = str(values.get(name))
            if not text or "\0" in text:
                raise InputError(f"{name} is {text!r}, a name that nothing has; leave it out.")
            check_name(Path(text))
        if isinstance(values.get("calib_images"), os.PathLike):
            values["calib_images"] = os.fspath(values["calib_images"])
        for name in ("output", "baseline", "imatrix"):
            if (found := values.get(name)) is not None:
                if not isinstance(found, str | os.PathLike):
                    raise InputError(f"{name} must be a path, not {found!r}.")
                values[name] = Path(found)
        if values.get("rewrites") is not None:
            named = as_list(values["rewrites"], "rewrites")
            values["rewrites"] = tuple(name for name in named if name != "none")
        values = settled(sized(values), hints)
        if values.get("imatrix"):
            values.setdefault("method", "rtn")
        return Plan(**values)
