"""How far one model's predictions are from another's: pure functions on logits, then their summary.

T tokens of a window, V vocabulary, W windows. Every position of a window is scored for KL and
top-1, also the first, because that is how a model is used; the next token is known for all but the
last position, so perplexity counts T - 1 of them.
"""

from dataclasses import dataclass, fields
from math import exp, log

import numpy as np

from runtime import compiled

CELLS = 1 << 21
"""Logits turned to float64 at a time: 16 MiB, and a few arrays of that size."""

HUGE = 1e30
"""Larger figures, of a model that is finite but ruined, become this: JSON has no infinity."""


@dataclass(frozen=True)
class TokenScores:
    """What is kept of each token; arrays are (T,), or (W, T) after `stack`."""

    kl: np.ndarray
    """KL(original || artifact) in nats, float32, not negative."""
    top_original: np.ndarray
    """The original's most likely next token, int32."""
    top_artifact: np.ndarray
    p_top_original: np.ndarray
    """Probability that the original gives to its own top token, float32."""
    p_top_artifact: np.ndarray
    """Probability that the artifact gives to the original's top token, float32."""
    nll_original: np.ndarray
    """-log probability of the text's next token, float32; NaN at a window's last position."""
    nll_artifact: np.ndarray
    non_finite: np.ndarray
    """Whether the artifact's logits held NaN or infinity; then it is scored as a uniform guess."""

    @property
    def top1_match(self) -> np.ndarray:
        """Whether both models would continue greedily with the same token; broken logits do not."""
        return (self.top_original == self.top_artifact) & ~self.non_finite


def join(parts: list[TokenScores]) -> TokenScores:
    """Pieces of one window, in order."""
    names = [field.name for field in fields(TokenScores)]
    return TokenScores(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def stack(windows: list[TokenScores]) -> TokenScores:
    """Windows of equal length (T,) -> arrays (W, T)."""
    names = [field.name for field in fields(TokenScores)]
    return TokenScores(**{n: np.stack([getattr(w, n) for w in windows]) for n in names})


def score(
    original: np.ndarray, artifact: np.ndarray, following: np.ndarray, cells: int = CELLS
) -> TokenScores:
    """Compare logits (T, V) of both; `following` (T,) is each position's next token, -1 = unknown.

    The kernels take one token at a time. Without them `cells` logits become float64 at a time, so
    memory does not grow with T * V.
    """
    if compiled.kernels is not None and original.dtype == artifact.dtype == np.float32:
        return _scores(_native_figures(original, artifact, following), following)
    step = max(1, cells // original.shape[1])
    pieces = [slice(start, start + step) for start in range(0, len(original), step)]
    found = [figures(original[at], artifact[at], following[at]) for at in pieces]
    return _scores(np.concatenate(found), following)


def _native_figures(
    original: np.ndarray, artifact: np.ndarray, following: np.ndarray
) -> np.ndarray:
    """The same as `figures`, in C++."""
    assert compiled.kernels is not None
    both = np.ascontiguousarray(original), np.ascontiguousarray(artifact)
    found: np.ndarray = compiled.kernels.compare_logits(*both, following.astype(np.int64))
    return found


def figures(original: np.ndarray, artifact: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Of each token, float64 (T, 8): KL; both top tokens; log probability of the original's top
    token, the original's and the artifact's; the same of the next token, 0 where it is unknown;
    whether the artifact's logits held NaN or infinity."""
    non_finite = ~np.isfinite(artifact).all(axis=1)  # (T,)
    log_p = log_softmax(original)  # (T, V)
    log_q = log_softmax(np.where(non_finite[:, None], np.float32(0), artifact))  # (T, V)
    rows = np.arange(len(log_p))
    top = log_p.argmax(1)
    next_ones = [
        np.where(following >= 0, table[rows, np.maximum(following, 0)], 0.0)
        for table in (log_p, log_q)
    ]
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1)
    columns = [kl, top, log_q.argmax(1), log_p[rows, top], log_q[rows, top], *next_ones, non_finite]
    return np.stack(columns, axis=1).astype(np.float64)


def _scores(found: np.ndarray, following: np.ndarray) -> TokenScores:
    """What is kept of `figures`."""
    kl, top_p, top_q, log_top_p, log_top_q, log_next_p, log_next_q, non_finite = found.T
    nll_p, nll_q = (
        np.where(following >= 0, np.minimum(-log, HUGE), np.nan).astype(np.float32)
        for log in (log_next_p, log_next_q)
    )
    # rounding can leave a sum a hair below zero, which KL never is
    return TokenScores(
        np.clip(kl, 0, HUGE).astype(np.float32),
        top_p.astype(np.int32),
        top_q.astype(np.int32),
        np.exp(log_top_p).astype(np.float32),
        np.exp(log_top_q).astype(np.float32),
        nll_p,
        nll_q,
        non_finite.astype(bool),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities (T, V) float64 of logits (T, V)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


ENOUGH = 8
"""Windows: the standard error of fewer is itself a guess."""


@dataclass(frozen=True)
class Metrics:
    """A summary over some windows. KL in nats a token; perplexities are exp of a mean."""

    windows: int
    tokens: int
    kl: float
    """Mean."""
    kl_se: float | None
    """Standard error of the mean over windows, whose tokens are not independent; None for one."""
    kl_median: float
    kl_p95: float
    kl_p99: float
    kl_max: float
    top1: float
    """Share of tokens for which both models would pick the same next token."""
    top1_se: float | None
    ppl_original: float
    ppl: float
    ppl_ratio: float
    ppl_ratio_se: float | None
    """From the paired difference of the windows' mean log probabilities."""
    kl_p999: float | None = None
    """None in reports of earlier versions."""

    @property
    def flipped(self) -> float:
        """Share of tokens for which both models would pick different next tokens."""
        return 1 - self.top1

    @property
    def enough(self) -> bool:
        """Whether there are windows enough to tell how far chance moves the figures."""
        return self.windows >= ENOUGH


def summarize(scores: TokenScores, chosen: np.ndarray) -> Metrics:
    """Metrics of the windows with `chosen` (W,) true; scores are (W, T), at least one is chosen."""
    kl = scores.kl[chosen].astype(np.float64)  # (w, T)
    same = scores.top1_match[chosen]
    nll_p, nll_q = (
        x[chosen, :-1].astype(np.float64).mean(1)
        for x in (scores.nll_original, scores.nll_artifact)
    )
    median, p95, p99, p999 = (float(x) for x in np.quantile(kl, (0.5, 0.95, 0.99, 0.999)))
    ratio = perplexity(nll_q - nll_p)
    ratio_se = standard_error(nll_q - nll_p)
    return Metrics(
        windows=len(kl),
        tokens=kl.size,
        kl=float(kl.mean()),
        kl_se=standard_error(kl.mean(1)),
        kl_median=median,
        kl_p95=p95,
        kl_p99=p99,
        kl_max=float(kl.max()),
        top1=float(same.mean()),
        top1_se=standard_error(same.mean(1)),
        ppl_original=perplexity(nll_p),
        ppl=perplexity(nll_q),
        ppl_ratio=ratio,
        ppl_ratio_se=None if ratio_se is None else ratio * ratio_se,
        kl_p999=p999,
    )


def perplexity(nll: np.ndarray) -> float:
    """exp of the mean over windows (W,) of equal length."""
    return exp(min(float(nll.mean()), log(HUGE)))


def standard_error(means: np.ndarray) -> float | None:
    """Standard error of the mean of window means (W,): windows count once, however many tokens."""
    if len(means) < 2:
        return None
    return float(means.std(ddof=1) / np.sqrt(len(means)))


@dataclass(frozen=True)
class Histogram:
    """Tokens by KL. Bin i holds edges[i] <= KL < edges[i + 1]; the outer bins take the rest."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


EDGES = tuple(float(f"{10 ** (power / 4):.6g}") for power in range(-28, 7))
"""1e-7 to 31 nats, four bins a power of ten, the same in every report."""


def histogram(kl: np.ndarray) -> Histogram:
    """Count every token of kl (any shape)."""
    inside = np.clip(kl.astype(np.float64).ravel(), EDGES[0], np.nextafter(EDGES[-1], 0))
    counts, _ = np.histogram(inside, EDGES)
    return Histogram(EDGES, tuple(int(count) for count in counts))
