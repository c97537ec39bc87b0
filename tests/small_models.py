"""What tests of containers share: checkpoints rounded to one layout, and distances of logits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from export.joined import of_checkpoint
from quantize.checkpoint import Checkpoint
from runtime.archs import Attention, Linear
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor


def rounded(checkpoint: Checkpoint, kind: str) -> Iterator[Tensor]:
    """Every tensor in file order: 2-D weights rounded to nearest in `kind`, all others as F32.

    A weight whose rows the layout does not divide stays F32. Columns of an act-order layout are
    shuffled, alike where a checkpoint stores several weights as one; tables, which have none, are
    in the plain one.
    """
    together = of_checkpoint(checkpoint.arch).values()
    first = {part: parts[0] for parts in together for part in parts}
    numbers = {name: number for number, name in enumerate(checkpoint.tensors)}
    for tensor in checkpoint.tensors.values():
        qtype, values = QUANT_TYPES[kind], tensor.decode()
        if not tensor.name.startswith("blk."):
            qtype = QUANT_TYPES[kind.removesuffix("_ACT")]
        if values.ndim == 2 and qtype.fits(values.shape[1]):
            order = None
            if qtype.ordered:
                number = numbers[first.get(tensor.name, tensor.name)]
                order = np.random.default_rng(number).permutation(values.shape[1]).astype(np.int32)
                values = values[:, order]
            data = qtype.pack(*qtype.quantize(values))
            yield Tensor(tensor.name, tensor.shape, qtype, data, order=order)
        else:
            yield Tensor.dense(tensor.name, values)


def rounded_model(checkpoint: Checkpoint, kind: str) -> Model:
    """The model of `rounded`."""
    model = checkpoint.model()
    tensors = {tensor.name: tensor for tensor in rounded(checkpoint, kind)}
    return Model(model.arch, tensors, model.tokenizer)


def attention_of(heads: int, kv_heads: int, head_dim: int, **facts: Any) -> Attention:
    """An attention without rope; its linears are only named."""
    linear = Linear("attn_q", "self_attn.q_proj", heads * head_dim, heads * head_dim)
    return Attention(
        *[linear] * 4,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope=None,
        rope_channels=0,
        **facts,
    )


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the order of float32 sums: within 1e-5 of the largest value."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def kl(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean KL divergence in nats a token between the distributions of two (..., V) logits."""
    log_p, log_q = log_softmax(expected), log_softmax(found)
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log of softmax over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
