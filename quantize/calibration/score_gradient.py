"""What the scores of a reward model or classifier react to, for fisher.py.

Nothing is drawn from a model that scores texts. The loss is half the mean squared error of a score
in its place, E[(g . error)^2] / 2 with g the gradient of the score. Every token is taken as the end
of a text, and all go backwards at once: each score with a random sign, so that the products of two
tokens' gradients are zero on average.
"""

import numpy as np
import torch

from quantize.calibration.states import fetch
from quantize.calibration.stream import TOKENS_BACK, batches
from quantize.checkpoint import Checkpoint
from runtime.backends.torch import TorchOps
from runtime.scores import scored


def score_gradient(
    checkpoint: Checkpoint,
    ops: TorchOps,
    states: np.ndarray,
    seed: int,
    tokens: int = TOKENS_BACK,
) -> None:
    """Replace last states (rows, T, D) by the gradient of the scores, each times 1 or -1.

    `tokens` are taken at a time, which does not change the signs.
    """
    arch, head = checkpoint.arch, checkpoint.arch.score_head
    assert head is not None
    names = ("output_norm.weight", *head.shapes)
    weights = {name: ops.load(checkpoint.tensors[name]) for name in names}
    flat = states.reshape(-1, arch.hidden)
    count = 1 if head.label is not None else head.labels
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (len(flat), count), generator=draw).mul(2).sub(1).float()
    for here in batches(len(flat), tokens):
        x = fetch(flat, here, ops.device).requires_grad_()
        y = scored(ops, head, weights, ops.rmsnorm(x, weights["output_norm.weight"], arch.eps))
        scores = y if head.label is None else y.softmax(-1)[:, [head.label]]
        total = (scores * signs[here].to(ops.device)).sum()
        flat[here] = torch.autograd.grad(total, x)[0].cpu().numpy()
