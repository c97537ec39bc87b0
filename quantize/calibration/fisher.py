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
from dataclasses import dataclass

import numpy as np
import torch

from quantize.calibration.rows import Rows
from quantize.calibration.score_gradient import score_gradient
from quantize.calibration.states import embed, fetch, put
from quantize.calibration.stream import (
    TOKENS_BACK,
    Allocate,
    Gradients,
    Kept,
    OriginalLayers,
    Weights,
    backward,
    batches,
    forward,
)
from quantize.calibration.streamed import StreamingOps
from quantize.calibration.sums import add_gram, mirror
from quantize.checkpoint import Checkpoint
from quantize.progress import Progress, silent
from runtime.archs import InputGroup
from runtime.backends.torch import TorchOps
from runtime.forward import Layer

LOGITS = 1 << 23
"""Chunk size in logits."""


@dataclass(frozen=True)
class LayerFisher:
    """What errors in one layer cost."""

    weights: Weights
    """The layer itself, float32; its experts are streamed."""
    hessians: dict[str, torch.Tensor]
    """Input group -> mean of x x^T, tokens weighted by squared gradients, (in, in)."""
    rows: dict[str, torch.Tensor]
    """Linear, or "ffn_down_exps.3" of an expert -> mean squared gradient of each output over all
    tokens, (out,)."""
    tokens: dict[str, np.ndarray]
    """Input group, all experts as one -> size of the gradient at each token, (rows, T)."""


@dataclass(frozen=True)
class TableFisher:
    """What errors in the embedding or the head cost."""

    hessian: torch.Tensor
    """(D, D)"""
    rows: torch.Tensor
    """(V,): how often a row is used."""


@dataclass(frozen=True)
class Tables:
    """What errors outside the layers cost; a tied embedding has one for both of its uses."""

    tables: dict[str, TableFisher]
    """"token_embd.weight" and, untied, "output.weight"."""


def fisher(
    checkpoint: Checkpoint,
    rows: Rows,
    ops: TorchOps,
    allocate: Allocate,
    visit: Callable[[int, LayerFisher], None] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    tokens: int = TOKENS_BACK,
    logits: int = LOGITS,
    linears: bool = False,
) -> Tables:
    """Call `visit` with every layer from the last to the first; returns what is outside them.

    The same arguments give the same numbers. Without `visit` gradients only pass through the
    layers, which is faster. `tokens` go backwards and `logits` are made at a time. `linears`:
    whether linears are decoded some rows at a time.
    """
    arch, streaming = checkpoint.arch, StreamingOps(str(ops.device))
    source = OriginalLayers(checkpoint, ops.device, streamed=True, linears=linears)
    room = allocate("gradient-states", (arch.layers + 1, *rows.shape, arch.hidden))
    states = Kept(room, images=rows.images)
    embed(arch, checkpoint.tensors["token_embd.weight"], rows, states.values[0])
    steps = 2 * arch.layers
    with torch.inference_mode():
        for layer, _ in forward(streaming, source, states):
            progress("gradients", layer.index + 1, steps, f"layer {layer.index}")
            del layer
    gradient = states.values[-1]  # (rows, T, D): takes the place of the last states
    head, used = None, None
    if arch.score_head:
        score_gradient(checkpoint, ops, gradient, seed)
    else:
        head, used = head_gradient(checkpoint, ops, gradient, rows.text, seed, logits)

    def observe(layer: Layer) -> Gradients:
        return FisherSums(layer, *rows.shape) if visit else Gradients()

    for layer, observer in backward(streaming, source, states, gradient, observe, tokens):
        if visit:
            visit(layer.index, observer.mean())
        progress("gradients", steps - layer.index, steps, f"layer {layer.index}")
        del layer, observer
    return tables(checkpoint, rows, ops, gradient, head, used)


def head_gradient(
    checkpoint: Checkpoint,
    ops: TorchOps,
    states: np.ndarray,
    text: np.ndarray,
    seed: int,
    logits: int = LOGITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace last states (rows, T, D) by the gradient of log p of a token drawn from p.

    Tokens that are not `text` (rows, T) predict nothing. Returns, over the others, the mean of
    x x^T of what the head reads, (D, D), and mean probabilities (V,).
    """
    arch = checkpoint.arch
    norm = ops.load(checkpoint.tensors["output_norm.weight"])
    head = ops.load(checkpoint.tensors[arch.head])
    hessian = torch.zeros(arch.hidden, arch.hidden, device=ops.device)
    used = torch.zeros(arch.vocab, device=ops.device)
    flat = states.reshape(-1, arch.hidden)
    # drawn at once and on the CPU: neither the chunk size nor the device changes which tokens come
    u = torch.rand(len(flat), generator=torch.Generator().manual_seed(seed)).to(ops.device)
    flat[~text.reshape(-1)] = 0
    predict = np.flatnonzero(text)
    for part in batches(len(predict), max(1, logits // arch.vocab)):
        here = predict[part]
        x = fetch(flat, here, ops.device).requires_grad_()
        normed = ops.rmsnorm(x, norm, arch.eps)
        read = normed.detach()
        probs = torch.softmax(read @ head.T, -1)  # (t, V)
        used += probs.sum(0)
        add_gram(hessian, read, read)
        # d log p[token] / d logits = (1 at the token, 0 elsewhere) - p
        change = head[sample_categorical(probs, u[here])] - probs @ head
        put(flat, here, torch.autograd.grad((normed * change).sum(), x)[0].cpu().numpy())
    return mirror(hessian).div_(len(predict)), used / len(predict)


def sample_categorical(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A token of each row of probs (t, V), by inverting their sums at u (t,) in 0..1: (t,)."""
    running = probs.double().cumsum(-1)
    places = u.double()[:, None] * running[:, -1:]
    return torch.searchsorted(running, places, right=True)[:, 0].clamp(max=probs.shape[1] - 1)


class FisherSums(Gradients):
    """Sums over windows of what a layer's linears read, and of the gradients of what they wrote."""

    def __init__(self, layer: Layer, count: int, length: int) -> None:
        self.layer, self.count, self.length = layer, count, length
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.hessians: dict[str, torch.Tensor] = {}
        self.rows: dict[str, torch.Tensor] = {}
        self.sizes: dict[str, np.ndarray] = {}
        self.totals: dict[str, float] = {}
        self.chosen = np.arange(0)
        self.tokens: dict[str, np.ndarray] = {}
        """Input group of an expert -> its tokens of the batch, (n,)."""
        for group in layer.spec.groups:
            device = layer.weights[f"{group.linears[0]}.weight"].device
            self.hessians[group.name] = torch.zeros(group.width, group.width, device=device)
            self.totals[group.name] = 0.0
            self.sizes[group.stem] = np.zeros((count, length), np.float32)
            for linear in group.linears:
                outputs = layer.spec.linears[linear].outputs
                self.rows[group.part(linear)] = torch.zeros(outputs, device=device)

    def routed(self, tokens: np.ndarray) -> None:
        self.chosen = tokens

    def read(self, group: str, x: torch.Tensor) -> None:
        self.inputs[group], self.tokens[group] = x.detach().reshape(-1, x.shape[-1]), self.chosen

    def wrote(self, linear: str, y: torch.Tensor) -> None:
        self.outputs[linear] = y

    def wanted(self) -> dict[str, torch.Tensor]:
        """What every linear wrote, (b, T, out), or (n, out)."""
        return self.outputs

    def take(self, rows: slice, gradients: dict[str, torch.Tensor]) -> None:
        """Add some windows."""
        squares = {name: g.square().reshape(-1, g.shape[-1]) for name, g in gradients.items()}
        for group in self.layer.spec.groups:
            if group.name not in self.inputs:
                continue  # an expert that no token of these chose
            of_linears = [squares[group.part(linear)].sum(1) for linear in group.linears]
            weight = torch.stack(of_linears).sum(0)
            flat = self.inputs[group.name]
            add_gram(self.hessians[group.name], flat * weight[:, None], flat)
            self.measure(group, weight.sqrt().cpu().numpy(), rows.start * self.length)
        for name, square in squares.items():
            self.rows[name] += square.sum(0) / (self.count * self.length)
        self.inputs.clear()
        self.outputs.clear()

    def measure(self, group: InputGroup, sizes: np.ndarray, start: int) -> None:
        """Add the sizes (n,) of gradients at tokens of the batch that begins with token `start`."""
        at = np.arange(len(sizes)) if group.expert is None else self.tokens[group.name]
        known = self.sizes[group.stem].reshape(-1)  # the same memory
        known[start + at] = np.hypot(known[start + at], sizes)
        self.totals[group.name] += float(np.square(sizes, dtype=np.float64).sum())

    def mean(self) -> LayerFisher:
        """Means over the tokens."""
        for group, total in self.totals.items():
            mirror(self.hessians[group]).div_(max(total, 1e-30))
        return LayerFisher(dict(self.layer.weights), self.hessians, self.rows, self.sizes)


def tables(
    checkpoint: Checkpoint,
    rows: Rows,
    ops: TorchOps,
    gradient: np.ndarray,
    head: torch.Tensor | None,
    used: torch.Tensor | None,
) -> Tables:
    """The tables, from gradient (rows, T, D) at the embedding's output and `head_gradient`.

    No `head`: that of a model that scores texts is not rounded.
    """
    arch, flat = checkpoint.arch, gradient.reshape(-1, gradient.shape[-1])
    hessian = torch.zeros(arch.hidden, arch.hidden, device=ops.device)
    looked_up = np.flatnonzero(rows.text)
    for part in batches(len(looked_up), TOKENS_BACK):
        piece = fetch(flat, looked_up[part], ops.device)
        add_gram(hessian, piece, piece)
    # by the rows of the table, not by their multiples
    mirror(hessian).div_(len(looked_up) / arch.embedding_scale**2)
    counts = np.bincount(rows.ids.reshape(-1)[looked_up], minlength=arch.vocab) / len(looked_up)
    seen = torch.from_numpy(counts.astype(np.float32)).to(ops.device)
    if head is None or used is None:
        return Tables({"token_embd.weight": TableFisher(hessian, seen)})
    if arch.tied:
        # in text like the model's own both weights are the frequency of the token
        both = TableFisher(hessian + head, (seen + used) / 2)
        return Tables({"token_embd.weight": both})
    embedding = {"token_embd.weight": TableFisher(hessian, seen)}
    return Tables(embedding | {"output.weight": TableFisher(head, used)})
