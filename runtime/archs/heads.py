"""What stands outside the layers: the names of these tensors, and heads that score texts.

A reward model or a classifier has a small head in the place of the one that makes logits. What it
computes is data, as a layer is: linears with ReLU between them, read at a text's last token or at
each marker token.
"""

from dataclasses import dataclass
from typing import Any

from runtime.archs.layer import Linear, Shape
from runtime.errors import UnsupportedError

EMBEDDING = "token_embd.weight"
OUTPUT_NORM = "output_norm.weight"
OUTPUT = "output.weight"
HF_GLOBALS = {
    EMBEDDING: "model.embed_tokens.weight",
    OUTPUT_NORM: "model.norm.weight",
    OUTPUT: "lm_head.weight",
}
"""Tensors outside the layers -> their names in a Hugging Face checkpoint."""

SCORE = "score."
"""What the names of a scoring head's tensors begin with."""
STEP = "<extra_0>"
"""What Qwen's process reward models read after each step of an answer."""


@dataclass(frozen=True)
class ScoreHead:
    """Scores of a text; it stays F32, being small."""

    linears: tuple[Linear, ...]
    """In order, with ReLU between two; the last one writes a number for each label."""
    marker: str | None = None
    """The token at whose places the scores are read; None = the text's last token."""
    label: int | None = None
    """The label whose softmax probability is the score; None = every label's number is one."""
    pad: int | None = None
    """`pad_token_id`: a text that ends with it is scored one token earlier by transformers."""

    @property
    def labels(self) -> int:
        """Numbers that the last linear writes."""
        return self.linears[-1].outputs

    @property
    def output(self) -> str:
        """The weight that writes them."""
        return f"{self.linears[-1].name}.weight"

    @property
    def weights(self) -> tuple[str, ...]:
        """Its matrices."""
        return tuple(f"{linear.name}.weight" for linear in self.linears)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Its tensors in file order; a checkpoint has them by the same names."""
        found: dict[str, Shape] = {}
        for linear in self.linears:
            found[f"{linear.name}.weight"] = linear.shape
            if linear.bias:
                found[f"{linear.name}.bias"] = (linear.outputs,)
        return found


def score_head(config: dict[str, Any]) -> ScoreHead | None:
    """The head that config.json's `architectures` names; None for a model that predicts tokens.

    Raises UnsupportedError for a head of another form.
    """
    named = (config.get("architectures") or [""])[0]
    kind = named.partition("For")[2]
    if not kind or "CausalLM" in kind or "ConditionalGeneration" in kind:
        return None
    hidden, pad = int(config["hidden_size"]), config.get("pad_token_id")
    match kind:
        case "SequenceClassification":
            # as transformers counts labels: two where nothing is said
            labels = len(config.get("id2label") or ()) or int(config.get("num_labels") or 2)
            return ScoreHead((Linear("score", "score", labels, hidden),), pad=pad)
        case "RewardModel":
            return ScoreHead(_two_layers(hidden, 1), pad=pad)
        case "ProcessRewardModel":
            return ScoreHead(_two_layers(hidden, 2), marker=STEP, label=1)
    raise UnsupportedError(
        f"config.json names {named!r} in architectures, a head of a form that is not known here; "
        "known: ...ForCausalLM, ...ForSequenceClassification, ...ForRewardModel and "
        "...ForProcessRewardModel."
    )


def _two_layers(hidden: int, labels: int) -> tuple[Linear, ...]:
    """The head of Qwen2.5-Math-RM and -PRM: a Sequential, whose place 1 is the ReLU."""
    return (
        Linear("score.0", "score.0", hidden, hidden, bias=True),
        Linear("score.2", "score.2", labels, hidden, bias=True),
    )
