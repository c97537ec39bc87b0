"""Where documents come from: a spec such as `builtin:code` in, pools of documents out.

Add a source by writing one function and its line in SOURCES.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from calib_data.document import (
    FLAGS,
    SHORTEST,
    CalibrationError,
    Content,
    Document,
    Part,
    Unusable,
    first_line,
    unique,
)
from calib_data.files import check_file, optional, read_file
from calib_data.records import RowReader, content_of

FOLDER = Path(__file__).parent

# A streamed data set may have no end: stop at four times what English needs for the rows asked.
HUB_CHARACTERS_A_TOKEN = 16
SELF_ROUNDS = 32  # a model that ends its documents early is asked again this often
SELF_FEWEST = 8  # documents to keep from a round, so that chance alone leaves none empty

Generate = Callable[[int, int, int], list[list[int]]]  # count, length, seed -> token sequences


@dataclass(frozen=True)
class Pool:
    """The documents of one domain in the part asked for, and the domain's share of the rows."""

    domain: str
    weight: float
    documents: list[Document]
    unread: tuple[str, ...] = ()  # columns of the source that hold something nobody reads


@dataclass(frozen=True)
class Request:
    """What the caller of load() asked for; `detail` is the spec after its first colon."""

    spec: str
    detail: str
    rows: int
    length: int
    seed: int
    part: Part
    generate: Generate | None


def gather(request: Request, dropped: Counter[str]) -> list[Pool]:
    """Collect the documents that a spec names, without duplicates and of the asked part only."""
    source = SOURCES.get(request.spec.partition(":")[0], from_file)
    return source(request, dropped)


def check_spec(spec: str) -> None:
    """Raise CalibrationError for a file or domain that is not there; no text is read."""
    source, _, detail = spec.partition(":")
    if source == "builtin":
        named_domains(detail, read_manifest()["mix"])
    elif source not in SOURCES:
        check_file(Path(spec).expanduser())


def from_builtin(request: Request, dropped: Counter[str]) -> list[Pool]:
    """Take the bundled texts, all domains or those named after `builtin:`."""
    manifest = read_manifest()
    mix: dict[str, float] = manifest["mix"]
    domains = named_domains(request.detail, mix)
    seen: set[bytes] = set()
    pools = []
    for domain in dict.fromkeys(domains or mix):
        names = [entry["name"] for entry in manifest["file"] if entry["domain"] == domain]
        contents = chain.from_iterable(read_file(FOLDER / "texts" / name) for name in names)
        documents = list(unique(contents, seen, dropped))
        # every domain is judged on text of its own, however few documents it has
        smallest = sorted(item.digest for item in documents)[:1]
        heldout = heldout_digests(documents) or set(smallest)
        pools.append(Pool(domain, mix[domain], side(documents, heldout, request.part)))
    return pools


def named_domains(detail: str, mix: Mapping[str, float]) -> list[str]:
    """The domains after `builtin:`. Raises CalibrationError for one that is not in the mix."""
    domains = [name.strip() for name in detail.split(",") if name.strip()]
    for domain in domains:
        if domain not in mix:
            raise CalibrationError(
                f"builtin has no domain {domain!r}: choose from {', '.join(mix)}."
            )
    return domains


def from_file(request: Request, dropped: Counter[str]) -> list[Pool]:
    """Take the user's own .txt, .json, .jsonl or .parquet file."""
    reader = RowReader()
    contents = read_file(Path(request.spec).expanduser(), reader)
    documents = list(unique(contents, set(), dropped))
    heldout = heldout_digests(documents)
    if len(heldout) == len(documents) > 0:
        # a file of one document is there to calibrate with, whatever its digest
        heldout.remove(max(heldout))
    return [Pool("user", 1.0, side(documents, heldout, request.part), reader.unread)]


def from_hub(request: Request, dropped: Counter[str]) -> list[Pool]:
    """Stream a Hugging Face data set, hub:DATASET[:config[:split[:column]]], as far as needed."""
    need_rows(request, "is streamed and may have no end")
    budget = request.rows * request.length * HUB_CHARACTERS_A_TOKEN
    reader = RowReader()
    documents: list[Document] = []
    for item in unique(read_hub(request.spec, request.detail, reader), set(), dropped):
        if request.part == "all" or item.falls_in_heldout == (request.part == "heldout"):
            documents.append(item)
            budget -= len(str(item.content))
        if budget <= 0:
            break
    return [Pool("user", 1.0, documents, reader.unread)]


def from_self(request: Request, dropped: Counter[str]) -> list[Pool]:
    """Take what the full-precision model samples, asking again until the rows are full."""
    if request.generate is None:
        raise CalibrationError(
            "self samples its text from the model and none was given: use builtin or a file."
        )
    need_rows(request, "is sampled without end")
    heldout = request.part == "heldout"
    missing, before = request.rows * request.length, 0  # tokens
    seen: set[bytes] = set()
    documents: list[Document] = []
    for attempt in range(SELF_ROUNDS):
        if missing <= 0 or missing == before:  # enough, or a round that brought nothing
            break
        before = missing
        # the other part's share of the samples is thrown away: 1 in 5, or 4 in 5
        count = math.ceil(max(missing / request.length, SELF_FEWEST) / (0.2 if heldout else 0.8))
        seed = int(np.random.default_rng([request.seed, heldout, attempt]).integers(2**31))
        sampled = request.generate(count, request.length, seed)
        for item in unique((tuple(map(int, ids)) for ids in sampled), seen, dropped):
            if item.falls_in_heldout == heldout:
                documents.append(item)
                tokens = len(item.content) if isinstance(item.content, tuple) else 0
                missing -= tokens if tokens >= SHORTEST else 0
    return [Pool("self", 1.0, documents)]


SOURCES: Mapping[str, Callable[[Request, Counter[str]], list[Pool]]] = {
    "builtin": from_builtin,
    "hub": from_hub,
    "self": from_self,
}


def read_manifest() -> dict[str, Any]:
    """Read MANIFEST.toml: `mix` (domain -> share of the rows) and `file` (a table for each)."""
    return tomllib.loads((FOLDER / "MANIFEST.toml").read_text(encoding="utf-8"))


def read_hub(spec: str, detail: str, reader: RowReader) -> Iterator[Content | Unusable]:
    """Yield a data set's documents one at a time over the network; needs datasets."""
    name, config, split, column, *more = [*detail.split(":"), "", "", ""]
    if not name or any(more):
        raise CalibrationError(f"{spec} does not read as hub:DATASET[:config[:split[:column]]].")
    datasets = optional("datasets", spec)
    try:
        stream = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for number, record in enumerate(stream, start=1):
            where = f"{spec} row {number}"
            if column and column not in record:
                raise CalibrationError(
                    f"{spec} has no column {column!r}, only {', '.join(record)}: name one of them."
                )
            yield content_of(record[column]) if column else reader.read(record, where)
    except CalibrationError:
        raise
    except (OSError, ValueError) as problem:
        raise CalibrationError(
            f"{spec} could not be read ({first_line(problem)}): check its name and the network."
        ) from problem


def heldout_digests(documents: list[Document]) -> set[bytes]:
    """Digests of the documents that their own bytes put in the held-out part."""
    return {item.digest for item in documents if item.falls_in_heldout}


def side(documents: list[Document], heldout: set[bytes], part: Part) -> list[Document]:
    """Keep the documents of one part; every document is in exactly one, or in `all`."""
    if part == "all":
        return documents
    return [item for item in documents if (item.digest in heldout) == (part == "heldout")]


def need_rows(request: Request, why: str) -> None:
    """Refuse rows=0, "all there are", where there is no such number."""
    if request.rows == 0:
        raise CalibrationError(
            f"{request.spec} {why}: name the rows, such as {FLAGS[request.part]}-rows 128."
        )
