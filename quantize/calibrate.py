"""Stream a model block by block: statistics of every shared input, rounding, the next states.

Peak memory is one decoder layer, its Hessians and the hidden states (on disk when they are large).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from quantize.checkpoint import Checkpoint, check_finite
from quantize.gram import add_gram, mirror
from quantize.methods import Factor, Method, SingularHessian, output_error
from quantize.methods.descent import descend
from quantize.rewrites import REWRITES, check_preserved, fold
from runtime.archs import Arch, Stage
from runtime.backends.torch import TorchOps
from runtime.blocks import BLOCKS, Block, numpy_of, to_numpy
from runtime.errors import InputError
from runtime.forward import Layer, decoder_layer
from runtime.tensor import Tensor

CHUNK = 1 << 23
"""Weights rounded at a time: 32 MiB of float32, of which descent keeps a dozen copies."""
TOKENS = 2048
"""Tokens that go through a layer at a time."""

Weights = dict[str, torch.Tensor]
"""float32 tensors of one layer by their name within it ("attn_q.weight")."""


@dataclass
class Watched(Layer):
    """A layer that adds up the Hessian of each stage's input while it computes."""

    hessians: dict[str, torch.Tensor] = field(default_factory=dict)
    """First linear of a stage -> sum of x^T x, (in, in), as `add_gram` fills it."""
    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)
    """First linear of a stage -> weight of each token, (rows, T); all alike without one."""
    seen: Counter[str] = field(default_factory=Counter)
    """Rows that have passed."""

    def linear(self, ops: TorchOps, name: str, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if name in self.hessians:
            flat = x.reshape(-1, x.shape[-1])
            self.watch(name, flat, self.weighed(name, x))
        return super().linear(ops, name, x)

    def watch(self, name: str, x: torch.Tensor, weighed: torch.Tensor) -> None:
        """The next inputs of a stage, (tokens, in), also times the weights of their tokens."""
        add_gram(self.hessians[name], weighed, x)

    def weighed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """x (b, T, in), the next rows, times the weights of their tokens: (b * T, in)."""
        flat = x.reshape(-1, x.shape[-1])
        if name not in self.tokens:
            return flat
        rows = self.tokens[name][self.seen[name] : self.seen[name] + len(x)]
        self.seen[name] += len(x)
        return flat * torch.from_numpy(rows).to(x.device).reshape(-1, 1)


def statistics(
    ops: TorchOps,
    arch: Arch,
    weights: Weights,
    stages: tuple[Stage, ...],
    hidden: np.ndarray,
    after: np.ndarray | None,
    tokens: Mapping[str, np.ndarray] | None = None,
) -> dict[str, torch.Tensor]:
    """Run hidden states (rows, T, D) through a layer and return each stage's Hessian.

    `tokens`: first linear of a stage -> weight of each token, (rows, T), of mean 1; None = all 1.

    Keys are the first linear of each stage; values X^T X / tokens, (in, in) float32. The states
    after the layer are written to `after` (which may be `hidden` itself) unless it is None.
    """
    watched = Watched(arch, weights, tokens=tokens or {})
    for stage in stages:
        cols = weights[f"{stage.linears[0]}.weight"].shape[1]
        watched.hessians[stage.linears[0]] = torch.zeros(cols, cols, device=ops.device)
    advance(ops, watched, hidden, after)
    total = hidden.shape[0] * hidden.shape[1]
    return {name: mirror(hessian).div_(total) for name, hessian in watched.hessians.items()}


def head_statistics(
    ops: TorchOps, arch: Arch, norm: torch.Tensor, hidden: np.ndarray
) -> torch.Tensor:
    """X^T X / tokens of what the output head reads, (D, D): final states (rows, T, D), normed."""
    rows, length, width = hidden.shape
    hessian = torch.zeros(width, width, device=ops.device)
    for here in batches(rows, max(1, TOKENS // length)):
        x = fetch(hidden, here, ops.device)
        x = ops.rmsnorm(x, norm, arch.eps).reshape(-1, width)
        add_gram(hessian, x, x)
    return mirror(hessian).div_(rows * length)


def advance(ops: TorchOps, layer: Layer, hidden: np.ndarray, after: np.ndarray | None) -> None:
    """Hidden states (rows, T, D) through a layer; results go to `after`, which may be `hidden`."""
    rows, length = hidden.shape[:2]
    layer.tables = layer.arch.rope.tables(0, length, layer.arch.head_dim)
    for here in batches(rows, max(1, TOKENS // length)):
        x = fetch(hidden, here, ops.device)
        x = decoder_layer(ops, layer, x, None)
        if after is not None:
            after[here] = x.cpu().numpy()


def embed(table: Tensor, ids: np.ndarray, hidden: np.ndarray) -> None:
    """Write the embedding's rows of ids (rows, T) to hidden (rows, T, D), a window at a time."""
    for row, tokens in enumerate(ids):
        hidden[row] = table.block.decode(table.data[tokens])


def load_layer(checkpoint: Checkpoint, index: int, device: torch.device) -> Weights:
    """The float32 weights of one decoder layer. Raises EdgequantError for NaN or infinity."""
    out: Weights = {}
    for name in checkpoint.family.layer_shapes(checkpoint.arch):
        tensor = checkpoint.tensors[f"blk.{index}.{name}"]
        values = torch.from_numpy(np.array(tensor.decode()))
        check_finite(tensor, values)
        out[name] = values.to(device)
    return out


@dataclass(frozen=True)
class LayerResult:
    """One layer, rounded for one target."""

    packed: dict[str, np.ndarray]
    """Name within the layer -> uint8 rows; norms and biases as F32."""
    values: Weights
    """What a reader of the file will compute with."""
    losses: dict[str, float]
    """Linear -> relative squared error of its outputs (calibrated) or of its weights."""
    notes: tuple[str, ...]
    """What the user must be told: damping that grew, fallbacks."""


@dataclass(frozen=True)
class Recipe:
    """How linears are rounded: a method and its settings."""

    method: Method
    damp: float = 0.01
    allow_fallback: bool = False
    passes: int = 0
    """Coordinate descent after rounding, where the method has factored a Hessian."""
    rewrites: tuple[str, ...] = ()
    """Function-preserving changes before rounding (quantize/rewrites), by name."""

    def factor(self, hessian: torch.Tensor | None, where: str) -> tuple[Factor | None, str | None]:
        """The stage's factor, and a note when damping grew or a fallback was taken.

        A Hessian of which only the diagonal (in,) is known is the importance as it stands.
        Raises EdgequantError naming the layer for a Hessian that stays singular, unless fallbacks
        are allowed.
        """
        if hessian is not None and hessian.ndim == 1:
            return Factor(hessian), None
        if hessian is None or self.method.factor is None:
            return None, None
        try:
            factor = self.method.factor(hessian, self.damp)
        except SingularHessian:
            if self.allow_fallback:
                return None, f"{where}: singular Hessian, rounded to nearest (--allow-fallback)"
            raise InputError(
                f"{where}: the Hessian stays singular with any damping, so its inputs are zero or "
                "not finite; use other calibration text, or --allow-fallback to round to nearest."
            ) from None
        grown = factor.damp > self.damp
        return factor, f"{where}: damping grew to {factor.damp:g}" if grown else None


def rewrite_layer(
    arch: Arch,
    weights: Weights,
    stages: tuple[Stage, ...],
    types: Mapping[str, Block],
    hessians: dict[str, torch.Tensor],
    recipe: Recipe,
    where: str,
) -> tuple[Weights, dict[str, torch.Tensor]]:
    """The layer and its Hessians with the scales of the method and the rewrites of the recipe.

    Arguments as in `quantize_layer`. Raises EdgequantError naming the layer when that changed what
    it computes beyond rounding.
    """
    whole = bool(hessians) and all(hessian.ndim == 2 for hessian in hessians.values())
    if not whole or not (recipe.method.scales or recipe.rewrites):
        return weights, hessians
    new, statistics_of = dict(weights), dict(hessians)
    if recipe.method.scales:
        fold_scales(new, stages, types, statistics_of, recipe.method)
    for name in recipe.rewrites:
        REWRITES[name].apply(new, stages, types, statistics_of, recipe.damp)
    check_preserved(arch, weights, new, where)
    return new, statistics_of


def quantize_layer(
    weights: Mapping[str, torch.Tensor],
    stages: tuple[Stage, ...],
    types: Mapping[str, Block],
    hessians: Mapping[str, torch.Tensor],
    recipe: Recipe,
    where: str = "",
) -> LayerResult:
    """Round every linear of one layer.

    `types`: linear -> block; `hessians`: first linear of a stage -> H, (in, in), or its diagonal.
    """
    packed: dict[str, np.ndarray] = {}
    values: Weights = {}
    losses: dict[str, float] = {}
    notes: list[str] = []
    for stage in stages:
        hessian = hessians.get(stage.linears[0])
        factor, note = recipe.factor(hessian, f"{where}{'/'.join(stage.linears)}")
        notes += [note] if note else []
        for linear in stage.linears:
            name = f"{linear}.weight"
            packed[name], values[name] = quantize_weight(
                weights[name], types[linear], recipe, factor
            )
            losses[linear] = relative_error(weights[name], values[name], hessian)
    for name, vector in weights.items():
        if name not in packed:
            packed[name] = BLOCKS["F32"].pack(numpy_of(vector).reshape(1, -1), {})
            values[name] = vector
    return LayerResult(packed, values, losses, tuple(notes))


def quantize_weight(
    weight: torch.Tensor, block: Block, recipe: Recipe, factor: Factor | None
) -> tuple[np.ndarray, torch.Tensor]:
    """Round (out, in), some rows at a time: packed rows, and the values a reader will see."""
    step = max(1, CHUNK // weight.shape[1])
    parts, values = [], torch.empty_like(weight)
    for start in range(0, weight.shape[0], step):
        rows = weight[start : start + step]
        rounded = recipe.method.round(rows, block, factor)
        if factor is not None and factor.hessian is not None and not block.is_float:
            for _ in range(recipe.passes):
                rounded = descend(rows, rounded, block, factor.hessian, factor.ridge)
        values[start : start + step] = rounded.value
        parts.append(block.pack(numpy_of(rounded.codes), to_numpy(rounded.params)))
    return np.concatenate(parts), values


def relative_error(
    weight: torch.Tensor, value: torch.Tensor, hessian: torch.Tensor | None
) -> float:
    """Squared error of the outputs over their own square; without a Hessian that of the weights."""
    if hessian is None:
        return float((weight - value).square().sum() / weight.square().sum().clamp(min=1e-30))
    return output_error(weight - value, hessian) / max(output_error(weight, hessian), 1e-30)


def fold_scales(
    weights: Weights,
    stages: tuple[Stage, ...],
    types: Mapping[str, Block],
    hessians: dict[str, torch.Tensor],
    method: Method,
) -> None:
    """Move the method's scales out of each stage's input into the op before; the function stays.

    A stage whose op before has another number of channels (attn_output under grouped-query
    attention) is left alone, as in AWQ.
    """
    assert method.scales
    for stage in stages:
        first = stage.linears[0]
        before = weights[f"{stage.before}.weight"]
        if len(before) != len(hessians[first]):
            continue
        linears = [weights[f"{linear}.weight"] for linear in stage.linears]
        scale = method.scales(linears, [types[linear] for linear in stage.linears], hessians[first])
        fold(weights, stage, scale, hessians)


def fetch(states: np.ndarray, here: slice | np.ndarray, device: torch.device) -> torch.Tensor:
    """Some rows of states, which may lie on disk, copied to the device."""
    return torch.from_numpy(np.array(states[here])).to(device)


Progress = Callable[[str, int, int, str], None]
"""stage, done, total, note."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    """A Progress that shows nothing."""


def batches(total: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover `total`."""
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
