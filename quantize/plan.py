"""What a run will do, frozen: the command line or a TOML file makes it, the artifact carries it."""

import hashlib
import json
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import calib_data
from export import CONTAINERS, Container
from quantize.methods import METHODS
from quantize.rewrites import REWRITES
from runtime.archs import FAMILIES, Arch
from runtime.blocks import BLOCKS, Block, block
from runtime.errors import EdgequantError

AUTO = "auto"
"""Stands for a preset where types are allocated by measured loss (allocate.py)."""


@dataclass(frozen=True)
class Target:
    """One artifact: a container and the mixture of types in it."""

    container: str
    preset: str

    @staticmethod
    def parse(text: str) -> "Target":
        """From "gguf:Q4_K_M". Raises EdgequantError naming the known containers or presets."""
        container, _, preset = text.partition(":")
        if container not in CONTAINERS:
            raise EdgequantError(
                f"unknown container {container!r} in --to {text}; known: {', '.join(CONTAINERS)}."
            )
        if preset in ("", AUTO):
            return Target(container, AUTO)
        presets = CONTAINERS[container].presets
        for known in presets:
            if known.lower() == preset.lower():
                return Target(container, known)
        raise EdgequantError(
            f"unknown preset {preset!r} in --to {text}; known for {container}: "
            f"{', '.join(presets)}, or {AUTO} with --target-size, --target-bpw or --max-kl."
        )

    @property
    def automatic(self) -> bool:
        """Whether types are chosen tensor by tensor to reach a size or a loss."""
        return self.preset == AUTO

    @property
    def label(self) -> str:
        """The --to spelling."""
        return f"{self.container}:{self.preset}"

    def path(self, folder: Path, model: str) -> Path:
        """Where the artifact goes."""
        return folder / f"{model}-{self.preset}{CONTAINERS[self.container].suffix}"


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches `pattern` (a regular expression, searched) get `kind`."""

    pattern: str
    kind: str

    @staticmethod
    def parse(text: str) -> "Rule":
        """From "attn_v=Q6_K". Raises EdgequantError for a bad expression or an unknown type."""
        pattern, equals, kind = text.rpartition("=")
        if not equals:
            raise EdgequantError(f"--rule {text!r} has no '='; write REGEX=TYPE, like attn_v=Q6_K.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise EdgequantError(f"--rule {text!r} is no regular expression: {error}.") from error
        return Rule(pattern, block(kind).name)


@dataclass(frozen=True)
class Effort:
    """How much work is spent on better values."""

    passes: int
    """Coordinate descent after rounding (methods/descent.py)."""
    windows: int
    """Calibration windows whose gradients are taken (curvature.py), for the embedding."""
    weigh: bool
    """Whether gradients of all windows are taken, and weigh the tokens in every Hessian."""
    rewrites: tuple[str, ...]
    """Function-preserving changes before rounding (quantize/rewrites)."""
    steps: int
    """Steps of gradient descent on norms, biases and block scales after rounding (tune.py)."""
    aims: bool = False
    """Whether linears make up for the rounding of the layers before them (prefix.py)."""


EFFORTS = {
    "low": Effort(0, 0, False, (), 0),
    "medium": Effort(1, 8, False, ("scales",), 0, True),
    "high": Effort(3, 16, True, ("scales",), 64, True),
}
"""By the words of --effort."""

LEAST_WINDOWS = 16
"""Windows whose gradients are taken for an automatic target at any effort."""

LIMITS = (
    ("rows", 1, inf),
    ("length", 16, inf),
    ("damp", 1e-9, 1),
    ("max_ram", 0, inf),
    ("eval_rows", 0, inf),
    ("eval_length", 16, inf),
    ("target_size", 1, inf),
    ("target_bpw", 0.1, 32),
    ("max_kl", 0, inf),
    ("min_top1", 0, 1),
    ("max_ppl_ratio", 0, inf),
)
"""Least and greatest value of a Plan's numbers."""


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
    imatrix: Path | None = None
    """File with the mean squared inputs, taken instead of calibration text."""
    rows: int = 64
    length: int = 512
    seed: int = 0
    damp: float = 0.01
    allow_fallback: bool = False
    max_ram: float = 8.0
    """GiB that hidden states may take before they go to disk."""
    device: str = "cpu"
    overwrite: bool = False
    eval_data: str = "builtin"
    eval_rows: int = 0
    """Windows of the held-out part; 0 = all there are, at most 64."""
    eval_length: int = 512
    max_kl: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    baseline: Path | None = None
    check: bool = True

    def __post_init__(self) -> None:
        if not self.targets:
            raise EdgequantError("nothing to make; give at least one --to, like --to gguf:Q4_K_M.")
        if len(set(self.targets)) < len(self.targets):
            raise EdgequantError("the same --to is given twice; name each target once.")
        if self.method not in METHODS:
            raise EdgequantError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}.")
        if self.effort not in EFFORTS:
            raise EdgequantError(f"unknown effort {self.effort!r}; known: {', '.join(EFFORTS)}.")
        for name in self.chosen_rewrites:
            if name not in REWRITES:
                raise EdgequantError(
                    f"unknown rewrite {name!r}; known: {', '.join(REWRITES)}, or none."
                )
        if self.imatrix and METHODS[self.method].calibrated:
            raise EdgequantError(
                f"--imatrix holds only the mean squared inputs, and {self.method} needs the whole "
                "Hessian; use --method rtn, or leave --imatrix out to calibrate on text."
            )
        if self.imatrix and self.calibration != Plan.calibration:
            raise EdgequantError(
                "--imatrix takes the place of calibration text; give it or --calibration, not both."
            )
        check_limits(self)
        self._check_automatic()

    @property
    def chosen_rewrites(self) -> tuple[str, ...]:
        """Those that were named, or else those of the effort: none for a method with its own."""
        if self.rewrites is not None:
            return self.rewrites
        return () if METHODS[self.method].scales else EFFORTS[self.effort].rewrites

    def _check_automatic(self) -> None:
        """Automatic targets need something to reach, and calibration to know the way."""
        automatic = [target.label for target in self.targets if target.automatic]
        flag = "--target-size" if self.target_size is not None else "--target-bpw"
        if self.target_size is not None and self.target_bpw is not None:
            raise EdgequantError("--target-size and --target-bpw say the same; give one of them.")
        if not automatic and (self.target_size, self.target_bpw) != (None, None):
            raise EdgequantError(
                f"{flag} works with an automatic target; add --to gguf:{AUTO} or --to onnx:{AUTO}."
            )
        if automatic and (self.target_size, self.target_bpw, self.max_kl) == (None, None, None):
            raise EdgequantError(
                f"--to {automatic[0]} needs something to reach; add --target-size 350MB, "
                "--target-bpw 4.5 or --max-kl 0.02."
            )
        if automatic and not METHODS[self.method].calibrated:
            raise EdgequantError(
                f"--to {automatic[0]} predicts the loss of methods that calibrate, and "
                f"{self.method} does not; use --method gptq, or a preset."
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
        recipe["rewrites"] = list(self.chosen_rewrites)
        recipe["rules"] = [f"{rule.pattern}={rule.kind}" for rule in self.rules]
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

    @property
    def imatrix_sha256(self) -> str:
        """sha256 of the imatrix file; empty without one."""
        if self.imatrix is None or not self.imatrix.exists():
            return ""
        return hashlib.sha256(self.imatrix.read_bytes()).hexdigest()

    def key(self, fingerprint: str, version: str) -> str:
        """sha256 of recipe, model and code: unfinished work goes on only under the same key."""
        state: dict[str, Any] = {"recipe": self.recipe(), "model": fingerprint, "code": version}
        state["device"] = self.device  # a GPU adds in another order
        if self.calibration_file and self.calibration_file.exists():
            state["text"] = hashlib.sha256(self.calibration_file.read_bytes()).hexdigest()
        state["imatrix"] = self.imatrix_sha256
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def from_flags(path: Path | None, flags: dict[str, Any]) -> "Plan":
        """From a TOML file with the field names as keys, and flags, which win over it.

        Both spell targets as `to = ["gguf:Q4_K_M"]` and rules as `rules = ["attn_v=Q6_K"]`.
        With an imatrix the method is rtn unless another one is named.
        Raises EdgequantError for an unreadable file, an unknown key or a value of the wrong kind.
        """
        values = (read_toml(path) if path else {}) | flags
        values["targets"] = tuple(Target.parse(text) for text in values.pop("to", ()))
        values["rules"] = tuple(Rule.parse(text) for text in values.get("rules", ()))
        for name in ("output", "baseline", "imatrix"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        if values.get("rewrites") is not None:
            values["rewrites"] = tuple(name for name in values["rewrites"] if name != "none")
        if isinstance(values.get("target_size"), str):
            values["target_size"] = parse_bytes(values["target_size"])
        if values.get("imatrix"):
            values.setdefault("method", "rtn")
        return Plan(**values)


UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
"""Bytes of a unit, written in capitals."""


def parse_bytes(text: str) -> int:
    """From "350MB", "300 MiB", "1.5GB" or plain bytes. Raises EdgequantError for anything else."""
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise EdgequantError(f"{text!r} is no size; write it like 350MB, 300MiB or 1.5GB.")
    return int(float(match[1].replace("_", "")) * UNITS[match[2].upper()])


def check_limits(settings: object) -> None:
    """Raise EdgequantError for a number of a Plan, or of what shares its fields, out of LIMITS."""
    for name, least, most in LIMITS:
        value = getattr(settings, name, None)
        if value is not None and not least <= value <= most:
            bounds = f"at least {least:g}" + (f" and at most {most:g}" if most < inf else "")
            raise EdgequantError(f"{name} must be {bounds}, not {value}.")


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a plan file, each of the right kind. Errors as in `Plan.from_flags`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgequantError(f"plan {path} cannot be read: {error}.") from error
    kinds = typing.get_type_hints(Plan) | {"to": list, "rules": list, "rewrites": list}
    kinds |= {"output": str, "baseline": str, "imatrix": str, "target_size": str | int}
    del kinds["targets"]  # spelled `to`
    for name, value in values.items():
        if name not in kinds:
            known = ", ".join(sorted(kinds))
            raise EdgequantError(f"plan {path} has an unknown key {name!r}; known: {known}.")
        if not _is(value, kinds[name]):
            kind = "a list of strings" if kinds[name] is list else _kind_name(kinds[name])
            raise EdgequantError(f"plan {path}: {name} must be {kind}, not {value!r}.")
    return values


def _is(value: Any, kind: Any) -> bool:
    """Whether a TOML value can stand for a field of this kind: 1 is a float, true is no int."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    kinds = typing.get_args(kind) or (kind,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _kind_name(kind: Any) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return names[next(k for k in (typing.get_args(kind) or (kind,)) if k in names)]


@dataclass(frozen=True)
class Allocation:
    """What was known of an automatic target when its types were chosen."""

    bytes: int
    """Of the whole artifact."""
    kl: float
    """Predicted, nats a token."""
    frontier: tuple[tuple[int, float], ...]
    """Bytes of the artifact, up to the padding between its tensors, and least predicted KL, from
    the smallest to the largest."""


@dataclass(frozen=True)
class Assignment:
    """The types of one target's tensors."""

    target: Target
    types: dict[str, Block]
    """Every 2-D weight, in file order. Norms and biases are always F32."""
    fallbacks: tuple[str, ...] = field(default=())
    """One sentence for each group of tensors that could not have the type that was asked for."""
    allocation: Allocation | None = None
    """For an automatic target."""

    @property
    def bits(self) -> float:
        """Least bits a weight of any decoder linear."""
        return min(b.bits for name, b in self.types.items() if name.startswith("blk."))


def assign(target: Target, arch: Arch, rules: tuple[Rule, ...]) -> Assignment:
    """Preset, then rules (the last match wins), then narrowing where a row does not fit the blocks.

    A rule whose type this container cannot hold leaves it alone (see check_rules).
    """
    container = CONTAINERS[target.container]
    preset = container.presets[target.preset]
    widths = matrix_widths(arch)
    wanted = {name: ruled(name, rules, container) or preset.choose(arch, name) for name in widths}
    types = {name: narrow(kind, widths[name], container) for name, kind in wanted.items()}
    return Assignment(target, types, fallback_sentences(arch, wanted, container))


def matrix_widths(arch: Arch) -> dict[str, int]:
    """Columns of every 2-D weight, in file order."""
    shapes = FAMILIES[arch.family].shapes(arch).items()
    return {name: shape[1] for name, shape in shapes if len(shape) == 2}


def ruled(name: str, rules: tuple[Rule, ...], container: Container) -> str | None:
    """The type that the last rule for a tensor says, of those that the container can hold."""
    kinds = [
        rule.kind
        for rule in rules
        if re.search(rule.pattern, name) and container.holds(BLOCKS[rule.kind])
    ]
    return kinds[-1] if kinds else None


def fallback_sentences(
    arch: Arch, wanted: Mapping[str, str], container: Container
) -> tuple[str, ...]:
    """One for each group of tensors whose rows do not fit the blocks of the type wanted."""
    widths = matrix_widths(arch)
    narrowed: dict[tuple[str, str, int], list[str]] = {}
    for name, kind in wanted.items():
        got = narrow(kind, widths[name], container).name
        if got != kind:
            narrowed.setdefault((kind, got, widths[name]), []).append(name)
    return tuple(
        f"{len(names)} tensors with rows of {cols} cannot be {kind} "
        f"(packs {BLOCKS[kind].size} at a time) and became {got}: {_span(names)}"
        for (kind, got, cols), names in narrowed.items()
    )


def narrow(kind: str, cols: int, container: Container) -> Block:
    """The type itself, or the next best one whose blocks divide a row of `cols` weights."""
    while not BLOCKS[kind].fits(cols):
        kind = BLOCKS[kind].narrower or container.widest
    return BLOCKS[kind]


def check_rules(plan: Plan, arch: Arch) -> None:
    """Raise EdgequantError for a rule that matches no tensor, or a type that no target can hold."""
    names = [n for n, shape in FAMILIES[arch.family].shapes(arch).items() if len(shape) == 2]
    for rule in plan.rules:
        if not any(re.search(rule.pattern, name) for name in names):
            raise EdgequantError(
                f"--rule {rule.pattern}={rule.kind} matches no tensor; names look like {names[1]}."
            )
        if not any(_holds(target.container, rule.kind) for target in plan.targets):
            holders = [name for name in CONTAINERS if _holds(name, rule.kind)]
            raise EdgequantError(
                f"--rule {rule.pattern}={rule.kind}: none of the targets can hold {rule.kind}, "
                f"which goes into {' or '.join(holders) or 'no container'}; choose a type from "
                "`quantize list types`, or add a --to."
            )


def _holds(container: str, kind: str) -> bool:
    return CONTAINERS[container].holds(BLOCKS[kind])


def _span(names: list[str]) -> str:
    """A few names that stand for many."""
    parts = sorted({name.split(".")[-2] for name in names})
    return ", ".join(parts)
