"""How strongly the model's predictions react to an error: gradients, one layer at a time.

For small errors the KL divergence between the original and the changed model is half of
E[(g . error)^2], where g is the gradient of the log probability of a token drawn from the model
itself (the Fisher information). One backward pass gives, for every linear, which tokens and which
rows count. An error E (out, in) of a linear then costs about

    KL = 1/2 sum over rows r of rows[r] * (E[r] H E[r]^T)        nats a token

with H the mean of x x^T over tokens, weighted by squared gradients (as in YAQA, Tseng et al. 2025,
and GuidedQuant, Kim et al. 2025). The embedding gets the same: what its rows do as inputs, and what
they do as output head.

The hidden states before every layer are kept (on disk when they are large); of the weights one
layer is in memory at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from quantize.calibrate import Progress, Weights, advance, batches, embed, fetch, load_layer, silent
from quantize.checkpoint import Checkpoint
from quantize.gram import add_gram, mirror
from runtime.archs import Arch, Stage
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, decoder_layer

TOKENS = 1024
"""Tokens that go backwards at a time: activations of one layer are kept for them."""
LOGITS = 1 << 23
"""Logits that stand in memory at a time."""

Room = Callable[[str, tuple[int, ...]], np.ndarray]
"""name, shape -> float32 array, in memory or on disk."""


@dataclass
class Traced(Layer):
    """A layer that keeps what each linear read and wrote, for gradients."""

    read: dict[str, torch.Tensor] = field(default_factory=dict)
    wrote: dict[str, torch.Tensor] = field(default_factory=dict)

    def linear(self, ops: TorchOps, name: str, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.read[name], self.wrote[name] = x.detach(), super().linear(ops, name, x)
        return self.wrote[name]


@dataclass(frozen=True)
class LayerCurvature:
    """What errors in one layer cost."""

    weights: Weights
    """The layer itself, float32."""
    hessians: dict[str, torch.Tensor]
    """First linear of a stage -> mean of x x^T, tokens weighted by squared gradients, (in, in)."""
    rows: dict[str, torch.Tensor]
    """Linear -> mean squared gradient of each output, (out,)."""
    tokens: dict[str, np.ndarray]
    """First linear of a stage -> size of the gradient at each token, (rows, T)."""


@dataclass(frozen=True)
class TableCurvature:
    """What errors in the embedding or the head cost."""

    hessian: torch.Tensor
    """(D, D)"""
    rows: torch.Tensor
    """(V,): how often a row is used."""


@dataclass(frozen=True)
class Outside:
    """Curvature outside the layers; a tied embedding has one for both of its uses."""

    tables: dict[str, TableCurvature]
    """"token_embd.weight" and, untied, "output.weight"."""


def curvature(
    checkpoint: Checkpoint,
    ids: np.ndarray,
    ops: TorchOps,
    room: Room,
    visit: Callable[[int, LayerCurvature], None] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Outside:
    """Call `visit` with every layer from the last to the first; returns what is outside them.

    ids (rows, T) are token windows. The same arguments give the same numbers. Without `visit`
    gradients only pass through the layers, which is faster.
    """
    arch = checkpoint.arch
    states = room("curvature-states", (arch.layers + 1, *ids.shape, arch.hidden))
    embed(checkpoint.tensors["token_embd.weight"], ids, states[0])
    steps = 2 * arch.layers
    for index in range(arch.layers):
        layer = Layer(arch, load_layer(checkpoint, index, ops.device))
        with torch.inference_mode():
            advance(ops, layer, states[index], states[index + 1])
        progress("gradients", index + 1, steps, f"layer {index}")
    gradient = states[-1]  # (rows, T, D): takes the place of the last states
    head, used = head_gradient(checkpoint, ops, gradient, seed)
    for index in reversed(range(arch.layers)):
        weights = load_layer(checkpoint, index, ops.device)
        sums = Sums(checkpoint.family.stages, weights, *ids.shape) if visit else None
        backward(arch, ops, weights, states[index], gradient, sums)
        if visit and sums:
            visit(index, sums.mean())
        progress("gradients", steps - index, steps, f"layer {index}")
    return outside(checkpoint, ids, ops, gradient, head, used)


def head_gradient(
    checkpoint: Checkpoint, ops: TorchOps, states: np.ndarray, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace last states (rows, T, D) by the gradient of log p of a token drawn from p.

    Returns the mean of x x^T of what the head reads, (D, D), and mean probabilities (V,).
    """
    arch = checkpoint.arch
    norm = ops.load(checkpoint.tensors["output_norm.weight"])
    head = ops.load(checkpoint.tensors[arch.head])
    hessian = torch.zeros(arch.hidden, arch.hidden, device=ops.device)
    used = torch.zeros(arch.vocab, device=ops.device)
    flat = states.reshape(-1, arch.hidden)
    # drawn at once and on the CPU: neither LOGITS nor the device changes which tokens come
    luck = torch.rand(len(flat), generator=torch.Generator().manual_seed(seed)).to(ops.device)
    for here in batches(len(flat), max(1, LOGITS // arch.vocab)):
        x = fetch(flat, here, ops.device).requires_grad_()
        normed = ops.rmsnorm(x, norm, arch.eps)
        read = normed.detach()
        chances = torch.softmax(read @ head.T, -1)  # (t, V)
        used += chances.sum(0)
        add_gram(hessian, read, read)
        # d log p[token] / d logits = (1 at the token, 0 elsewhere) - p
        change = head[drawn(chances, luck[here])] - chances @ head
        flat[here] = torch.autograd.grad((normed * change).sum(), x)[0].cpu().numpy()
    return mirror(hessian).div_(len(flat)), used / len(flat)


def drawn(chances: torch.Tensor, luck: torch.Tensor) -> torch.Tensor:
    """A token of each row of chances (t, V), where luck (t,) of 0 to 1 falls on their sum: (t,)."""
    running = chances.double().cumsum(-1)
    places = luck.double()[:, None] * running[:, -1:]
    return torch.searchsorted(running, places, right=True)[:, 0].clamp(max=chances.shape[1] - 1)


def backward(
    arch: Arch,
    ops: TorchOps,
    weights: Weights,
    states: np.ndarray,
    gradient: np.ndarray,
    sums: "Sums | None",
) -> None:
    """Take gradient (rows, T, D) after a layer to before it, in place; `sums` gets its parts."""
    count, length = states.shape[:2]
    layer = Traced(arch, weights, 0, arch.rope.tables(0, length, arch.head_dim))
    for here in batches(count, max(1, TOKENS // length)):
        x = fetch(states, here, ops.device).requires_grad_()
        after = decoder_layer(ops, layer, x, None)
        wrote = layer.wrote if sums else {}
        # of a sum, for autograd loads a library of symbols for a gradient of any other shape
        along = (after * fetch(gradient, here, ops.device)).sum()
        before, *found = torch.autograd.grad(along, [x, *wrote.values()])
        gradient[here] = before.cpu().numpy()
        if sums:
            sums.add(here, layer.read, dict(zip(wrote, found, strict=True)))


class Sums:
    """A layer's curvature, added up over windows."""

    def __init__(
        self, stages: tuple[Stage, ...], weights: Weights, count: int, length: int
    ) -> None:
        self.stages, self.weights, self.count, self.length = stages, weights, count, length
        self.hessians: dict[str, torch.Tensor] = {}
        self.rows: dict[str, torch.Tensor] = {}
        self.sizes: dict[str, np.ndarray] = {}
        for stage in stages:
            first = weights[f"{stage.linears[0]}.weight"]
            self.hessians[stage.linears[0]] = first.new_zeros(first.shape[1], first.shape[1])
            self.sizes[stage.linears[0]] = np.zeros((count, length), np.float32)
            for linear in stage.linears:
                weight = weights[f"{linear}.weight"]
                self.rows[linear] = weight.new_zeros(len(weight))

    def add(self, here: slice, read: Weights, gradients: Weights) -> None:
        """Some windows: what each linear read, and the gradient of what it wrote, (b, T, width)."""
        squares = {name: g.square().flatten(0, 1) for name, g in gradients.items()}
        for stage in self.stages:
            first = stage.linears[0]
            weight = torch.stack([squares[linear].sum(1) for linear in stage.linears]).sum(0)
            flat = read[first].flatten(0, 1)
            add_gram(self.hessians[first], flat * weight[:, None], flat)
            self.sizes[first][here] = weight.sqrt().reshape(-1, self.length).cpu().numpy()
        for name, square in squares.items():
            self.rows[name] += square.sum(0) / (self.count * self.length)

    def mean(self) -> LayerCurvature:
        """Means over the tokens."""
        for first, sizes in self.sizes.items():
            total = float(np.square(sizes, dtype=np.float64).sum())
            mirror(self.hessians[first]).div_(max(total, 1e-30))
        return LayerCurvature(self.weights, self.hessians, self.rows, self.sizes)


def outside(
    checkpoint: Checkpoint,
    ids: np.ndarray,
    ops: TorchOps,
    gradient: np.ndarray,
    head: torch.Tensor,
    used: torch.Tensor,
) -> Outside:
    """The tables, from gradient (rows, T, D) at the embedding's output and `head_gradient`."""
    flat = gradient.reshape(-1, gradient.shape[-1])
    hessian = torch.zeros_like(head)
    for here in batches(len(flat), TOKENS):
        piece = fetch(flat, here, ops.device)
        add_gram(hessian, piece, piece)
    mirror(hessian).div_(len(flat))
    counts = np.bincount(ids.reshape(-1), minlength=checkpoint.arch.vocab) / ids.size
    seen = torch.from_numpy(counts.astype(np.float32)).to(ops.device)
    if checkpoint.arch.tied:
        # in text like the model's own both weights are the frequency of the token
        both = TableCurvature(hessian + head, (seen + used) / 2)
        return Outside({"token_embd.weight": both})
    tables = {"token_embd.weight": TableCurvature(hessian, seen)}
    return Outside(tables | {"output.weight": TableCurvature(head, used)})
