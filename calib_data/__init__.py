"""Calibration text: a spec such as `builtin` or `notes.txt` in, windows of token ids out.

    from calib_data import load
    windows = load("builtin", tokenizer, rows=128, length=512)
    windows.ids  # (128, 512) int32
    print(windows.summary())

Reading order: document.py, turns.py, records.py, files.py, sources.py, windows.py. The texts are in
texts/, their licences and the mix of domains in MANIFEST.toml.
"""

from collections import Counter
from typing import get_args

import numpy as np

from calib_data.document import FLAGS, CalibrationError, CalibrationTokenizer, Messages, Part
from calib_data.files import is_file
from calib_data.sources import Generate, Pool, Request, check_spec, gather
from calib_data.windows import Stream, Windows, allot, cut, join

__all__ = [
    "CalibrationError",
    "Generate",
    "Messages",
    "Part",
    "Tokenizer",
    "Windows",
    "check_spec",
    "is_file",
    "load",
]


def load(
    spec: str,
    tokenizer: CalibrationTokenizer,
    rows: int,
    length: int,
    seed: int = 0,
    part: Part = "calibration",
    generate: Generate | None = None,
) -> Windows:
    """Turn a text source into token windows; the held-out part shares no document with the other.

    spec: `builtin`, `builtin:code,math`, a .txt, .json, .jsonl or .parquet path,
    `hub:DATASET[:config[:split[:column]]]`, or `self` (sampled by generate(count, length, seed)).
    rows: how many windows, 0 for all there are. length: tokens a window. A row never mixes
    domains; rows come in random order, so the first few are a sample of all. The same arguments
    give the same ids. About one document in five is held out, by its sha256, whatever the seed;
    the part `all` is both together, for text that is there only to judge with.
    Errors: CalibrationError, one sentence with the way out, and UnsupportedError for a package that
    must be installed first.
    """
    check(rows, length, part)
    request = Request(spec, spec.partition(":")[2], rows, length, seed, part, generate)
    dropped: Counter[str] = Counter()
    pools = gather(request, dropped)
    rng = np.random.default_rng(seed)
    streams: dict[str, Stream] = {}
    for pool in pools:
        shuffled = [pool.documents[index] for index in rng.permutation(len(pool.documents))]
        streams[pool.domain] = join(shuffled, tokenizer, rows * length or None, dropped)
    counts = share_rows(request, pools, streams, dropped)

    pieces = []
    documents = 0
    for domain, stream in streams.items():
        piece, used = cut(stream, counts[domain], length, dropped)  # (counts[domain], length)
        pieces.append(piece)
        documents += used
    order = rng.permutation(sum(counts.values()))
    ids = np.concatenate(pieces)[order]  # (rows, length)
    domains = np.repeat(list(counts), list(counts.values()))[order]
    reasons = tuple((count, reason) for reason, count in dropped.items() if count)
    unread = tuple(column for pool in pools for column in pool.unread)
    return Windows(ids, tuple(map(str, domains)), documents, reasons, part, unread)


def share_rows(
    request: Request, pools: list[Pool], streams: dict[str, Stream], dropped: Counter[str]
) -> dict[str, int]:
    """Rows each domain gives, telling in `dropped` where one was short of its share."""
    capacity = {domain: len(stream.ids) // request.length for domain, stream in streams.items()}
    there = sum(capacity.values())
    if there == 0 or there < request.rows:
        raise too_little(request, there, streams, dropped)
    if request.rows == 0:
        return capacity
    weights = {pool.domain: pool.weight for pool in pools}
    wanted = allot(weights, dict.fromkeys(weights, request.rows), request.rows)
    counts = allot(weights, capacity, request.rows)
    for domain, count in counts.items():
        if count < wanted[domain]:
            reason = f"rows {domain} has no text for, taken from other domains"
            dropped[reason] += wanted[domain] - count
    return counts


def too_little(
    request: Request, there: int, streams: dict[str, Stream], dropped: Counter[str]
) -> CalibrationError:
    """Say how many windows there are, or why there is no text at all."""
    heldout, flag = request.part == "heldout", FLAGS[request.part]
    name = f"The held-out part of {request.spec}" if heldout else request.spec
    if not any(len(stream.ids) for stream in streams.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        because = f" ({reasons})" if reasons else ""
        way_out = "add documents" if heldout else "add text"
        return CalibrationError(f"{name} has no text to use{because}: {way_out} or use builtin.")
    asked = f"{request.rows} were asked" if request.rows else "at least one is needed"
    plural = "" if there == 1 else "s"
    fewer = f"{flag}-rows {there}, " if there else ""
    return CalibrationError(
        f"{name} has {there} window{plural} of {request.length} tokens; {asked}. "
        f"Use {fewer}a shorter {flag}-length, or add text."
    )


def check(rows: int, length: int, part: Part) -> None:
    """Refuse numbers and parts that mean nothing."""
    if part not in get_args(Part):
        raise CalibrationError(f"There is no part {part!r}: use {', '.join(get_args(Part))}.")
    if rows < 0:
        raise CalibrationError(f"{FLAGS[part]}-rows {rows} is below 0: give a count, or 0 for all.")
    if length < 1:
        raise CalibrationError(
            f"{FLAGS[part]}-length {length} is below 1: give tokens, such as 512."
        )
