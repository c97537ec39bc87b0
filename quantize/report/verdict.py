"""What a report comes to, in a few sentences before any table."""

from quantize.report.metrics import ENOUGH, Metrics
from quantize.report.report import ArtifactResult, OriginalModel, Report


def headline(report: Report) -> str:
    """How many artifacts passed, and which did not."""
    failed = [result.label for result in report.results if result.rejected]
    count = len(report.results)
    if not failed:
        return f"{everyone(count)}passed.".capitalize()
    if len(failed) == count:
        return f"{everyone(count)}rejected.".capitalize()
    return f"{count - len(failed)} of {count} artifacts passed; rejected: {', '.join(failed)}."


def everyone(count: int) -> str:
    """How a sentence on all artifacts begins."""
    return {1: "", 2: "both artifacts "}.get(count, f"all {count:,} artifacts ")


def conditions(report: Report) -> list[str]:
    """What the verdict rests on: limits, and text that is too little to tell by."""
    found = []
    gates = report.gates
    limits = (gates.max_kl, gates.min_top1, gates.max_ppl_ratio, gates.max_image_kl, gates.baseline)
    if all(limit is None for limit in limits):
        found.append(
            "No limit on the loss was set, so that passed means sound: it runs, computes numbers, "
            "and keeps the original's tokenizer and settings."
        )
    if report.evaluation.windows < ENOUGH:
        found.append(
            f"Measured on {windows(report.evaluation.windows)}: too few to tell how far chance "
            "moves the figures."
        )
    if report.results and (line := too_few(report.results[0].domains)):
        found.append(line)
    return found


def too_few(domains: dict[str, Metrics]) -> str | None:
    """Which domains have too few windows to tell by; None where all have enough."""
    few = [f"{name} ({windows(m.windows)})" for name, m in domains.items() if not m.enough]
    if not few:
        return None
    return (
        f"Too few windows to tell by kind of text, where at least {ENOUGH} are needed: "
        f"{', '.join(few)}."
    )


def windows(count: int) -> str:
    """ "1 window", "3 windows"."""
    return f"{count:,} window" + "s" * (count != 1)


def sentence(result: ArtifactResult, original: OriginalModel) -> str:
    """What an artifact keeps of its original, and in which part of its bytes."""
    share = result.bytes / original.bytes if original.bytes else 1.0
    return (
        f"It picks the original's next token at {result.metrics.top1:.1%} of the tokens, in "
        f"{share:.0%} of its bytes."
    )
