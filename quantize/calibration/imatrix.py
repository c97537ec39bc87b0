"""Importance matrices of llama.cpp: the mean squared input of every linear, read and written.

GGUF (what llama-imatrix writes now; `general.type` is "imatrix"), for each linear NAME:

    NAME.in_sum2   (in,) float32    sum over tokens of the squared input; of a mixture (experts, in)
    NAME.counts    (1,) float32     how many tokens; of a mixture (experts, 1)

    imatrix.datasets      strings: the text that went through the model
    imatrix.chunk_count   uint32: windows of text
    imatrix.chunk_size    uint32: tokens a window

The older .dat file; every number is little-endian:

    number of linears, int32; then for each
        length of NAME, int32; NAME; windows, int32; in, int32; mean * windows, (in,) float32
    windows, int32; length of the data set's name, int32; the name (the first versions lack them)

NAME is GGUF's name of the weight, as everywhere in this project.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from export.files import new_file
from runtime import shell
from runtime.archs import Arch
from runtime.errors import CorruptFileError, InputError
from runtime.gguf_cursor import Cursor
from runtime.gguf_file import GgufFile, is_gguf
from runtime.gguf_file import read as read_gguf
from runtime.tensor import is_matrix

MAKE = "make one with `quantize imatrix`"
"""The way out of most errors here."""

SUMS, COUNTS = ".in_sum2", ".counts"
SMALLEST_ENTRY = 4 + 1 + 4 + 4 + 4
"""Bytes of a linear in a .dat file: one letter, one channel."""


@dataclass(frozen=True)
class Imatrix:
    """Mean squared inputs, and where they come from."""

    means: dict[str, np.ndarray]
    """Weight by its runtime name -> mean squared input of each channel, (in,) float32; of a mixture
    (experts, in), 1 for an expert that no token chose."""
    counts: dict[str, int | tuple[int, ...]]
    """Weight -> tokens that the mean is over, of each expert; in a .dat file, which has no tokens,
    windows."""
    datasets: tuple[str, ...]
    chunks: int
    """Windows of text."""
    chunk_size: int
    """Tokens a window; 0 where the file does not say it (.dat)."""

    def summary(self) -> dict[str, Any]:
        """Its sizes, as JSON values."""
        return {
            "entries": len(self.means),
            "chunks": self.chunks,
            "chunk_size": self.chunk_size,
            "datasets": list(self.datasets),
        }

    def keys(self, path: Path) -> dict[str, Any]:
        """What llama.cpp writes into a model that was quantized with the file `path`."""
        keys: dict[str, Any] = {"quantize.imatrix.file": path.name}
        if self.datasets:
            keys["quantize.imatrix.dataset"] = self.datasets[0]
        keys["quantize.imatrix.entries_count"] = len(self.means)
        if self.chunks:
            keys["quantize.imatrix.chunks_count"] = self.chunks
        return keys


def for_model(path: Path | None, arch: Arch) -> Imatrix | None:
    """Read the file `path` and check it against a model; None for None.

    Raises EdgequantError as `read` does, and when a linear has another number of channels or of
    experts, is missing, or is not in the model. The head may be left out.
    """
    if path is None:
        return None
    found = read(path)
    shapes = {n: s for n, s in arch.shapes().items() if is_matrix(s)}
    linears = [name for name in shapes if name.startswith("blk.")]
    # a tied model has no output.weight of its own, but tools may have seen one
    known = {"output.weight": shapes["token_embd.weight"]} | shapes
    for name, shape in known.items():
        if name not in found.means:
            continue
        wanted, mean = (*shape[:-2], shape[-1]), found.means[name]
        if mean.ndim == 1 and len(wanted) > 1 and mean.size == math.prod(wanted):
            found.means[name] = mean = mean.reshape(wanted)  # .dat files have no shapes
        if mean.shape != wanted:
            raise InputError(
                f"{name.removesuffix('.weight')} has {sizes(wanted, ' channels')} and the imatrix "
                f"{sizes(mean.shape)}; {path} was made of another model: {MAKE}."
            )
    if missing := [name for name in linears if name not in found.means]:
        raise InputError(
            f"{path} is missing {len(missing)} of the model's {len(linears)} linears, the first is "
            f"{missing[0]}; it was made of another model: {MAKE}."
        )
    if unknown := sorted(name for name in found.means if name not in known):
        raise InputError(
            f"{path} holds {len(unknown)} tensors that the model with its {arch.layers} layers "
            f"does not have, the first is {unknown[0]}; it was made of another model: {MAKE}."
        )
    return found


def sizes(shape: tuple[int, ...], unit: str = "") -> str:
    """Those of a mean, (in,) or (experts, in), in words."""
    of = f" for each of {shape[0]} experts" if len(shape) > 1 else ""
    return f"{shape[-1]}{unit}{of}"


def read(path: str | Path) -> Imatrix:
    """Read a GGUF or .dat file.

    Raises EdgequantError for a file that is missing, damaged or no importance matrix, for values
    that are NaN, infinite or negative, and for a weight that no text went through.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"there is no imatrix {path}; make one with `quantize imatrix -o {shell.word(path)}`."
        )
    found = _from_gguf(read_gguf(path)) if is_gguf(path) else _from_dat(path)
    for name, mean in found.means.items():
        wrong = int((~np.isfinite(mean) | (mean < 0)).sum())
        if wrong:
            raise CorruptFileError(
                f"{name} in {path} has {wrong} values of {mean.size} that are NaN, infinite or "
                f"negative; {MAKE}."
            )
    return found


def _from_gguf(file: GgufFile) -> Imatrix:
    """The content of a GGUF file; other tensors, such as the sums `in_sum`, are left alone."""
    path, metadata = file.path, file.metadata
    if metadata.get("general.type") != "imatrix":
        raise InputError(
            f"{path} is a GGUF file of type {str(metadata.get('general.type'))!r} and not an "
            f"imatrix; {MAKE}."
        )
    names = [tensor.removesuffix(SUMS) for tensor in file.tensors if tensor.endswith(SUMS)]
    if not names:
        raise CorruptFileError(f"{path} is an imatrix without any tensor; {MAKE}.")
    means, counts = {}, dict[str, int | tuple[int, ...]]()
    for name in names:
        if name + COUNTS not in file.tensors:
            raise CorruptFileError(f"{path} has {name}{SUMS} without {name}{COUNTS}; {MAKE}.")
        count, sums = _values(file, name + COUNTS), _values(file, name + SUMS)
        if len(count) == 1:
            counts[name] = found = _count(path, name, float(count[0]))
            means[name] = np.asarray(sums / np.float32(found))
        else:
            counts[name], means[name] = _experts(path, name, count, sums)
    return Imatrix(
        means,
        counts,
        tuple(map(str, metadata.get("imatrix.datasets", ()))),
        int(metadata.get("imatrix.chunk_count", 0)),
        int(metadata.get("imatrix.chunk_size", 0)),
    )


def _experts(
    path: Path, name: str, counts: np.ndarray, sums: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray]:
    """Counts and means of the experts of a weight. As in llama.cpp, all channels of an expert that
    no token chose count alike."""
    _count(path, name, float(counts.sum()))
    if (counts < 0).any() or sums.size % len(counts):
        raise CorruptFileError(
            f"{name} in {path} has counts for {len(counts)} experts and {sums.size} sums, which "
            f"do not go together; {MAKE}."
        )
    table = sums.reshape(len(counts), -1)
    means = np.where(counts[:, None] > 0, table / np.maximum(counts, 1)[:, None], 1.0)
    return tuple(round(float(count)) for count in counts), means.astype(np.float32)


def _values(file: GgufFile, name: str) -> np.ndarray:
    """A tensor as float32, in one row."""
    return file.tensors[name].qtype.decode(file.packed(name)).reshape(-1)


def _count(path: Path, name: str, count: float) -> int:
    """A count as a whole number. Raises EdgequantError for one that cannot be divided by."""
    if not (np.isfinite(count) and round(count) >= 1):
        raise InputError(
            f"{name} in {path} has a count of {count:g}, so no text went through it; "
            f"use an imatrix of more text, or {MAKE}."
        )
    return round(count)


def _from_dat(path: Path) -> Imatrix:
    """The content of a .dat file."""
    data = path.read_bytes()
    cursor = Cursor(path, memoryview(data))
    total = cursor.number("<i4") if len(data) >= 4 else 0
    if not 1 <= total <= len(data) // SMALLEST_ENTRY:
        raise InputError(
            f"{path} is not an imatrix: it is neither a GGUF file nor llama.cpp's older .dat; "
            f"{MAKE}."
        )
    means, counts = {}, dict[str, int | tuple[int, ...]]()
    for _ in range(total):
        name = _text(cursor)
        windows, channels = cursor.number("<i4"), cursor.number("<i4")
        if channels < 1:
            raise cursor.damaged(f"{name!r} has {channels} channels")
        counts[name] = found = _count(path, name, windows)
        means[name] = np.asarray(cursor.numbers("<f4", channels) / np.float32(found))
    if cursor.at == len(data):  # a file of the first versions ends here
        return Imatrix(means, counts, (), 0, 0)
    chunks = cursor.number("<i4")
    dataset = _text(cursor)
    return Imatrix(means, counts, (dataset,) if dataset else (), max(chunks, 0), 0)


def _text(cursor: Cursor) -> str:
    """A length (int32) and its UTF-8 bytes."""
    length = cursor.number("<i4")
    if length < 0:
        raise cursor.damaged(f"a name has the length {length}")
    try:
        return str(cursor.raw(length), "utf-8")
    except UnicodeDecodeError as error:
        raise cursor.damaged(f"the name before byte {cursor.at} is not UTF-8") from error


class _Writer(GGUFWriter):
    """A GGUF file without `general.architecture`, which llama-imatrix does not write either."""

    def add_architecture(self) -> None:
        """Nothing."""


def write(path: Path, imatrix: Imatrix, overwrite: bool = False) -> None:
    """Write the GGUF format. Linears are sorted by name, as in llama-imatrix.

    Raises EdgequantError when the file exists, the disk is too small, or the written file does not
    read back as it was meant.
    """
    needed = sum(4 * mean.size for mean in imatrix.means.values())
    with new_file(Path(path), overwrite, needed) as temp:
        _save(temp, imatrix)
        _check_same(read(temp), imatrix)


def _save(path: Path, imatrix: Imatrix) -> None:
    writer = _Writer(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(imatrix.datasets))
    writer.add_uint32("imatrix.chunk_count", imatrix.chunks)
    writer.add_uint32("imatrix.chunk_size", imatrix.chunk_size)
    for name in sorted(imatrix.means):
        count = np.array([imatrix.counts[name]], np.float32)  # (1,) or (1, experts)
        count = count.T  # (experts, 1)
        writer.add_tensor(name + SUMS, imatrix.means[name] * count)
        writer.add_tensor(name + COUNTS, count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_same(found: Imatrix, meant: Imatrix) -> None:
    """Raise EdgequantError naming what differs; means may differ by the rounding of their sums."""
    counts = {name: _as_stored(count) for name, count in meant.counts.items()}
    if (found.counts, found.datasets) != (counts, meant.datasets):
        raise _differs("the list of tensors")
    for name, mean in meant.means.items():
        if not np.allclose(found.means[name], mean, rtol=1e-6, atol=0):
            raise _differs(name)


def _as_stored(count: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """What float32 keeps of a count."""
    if isinstance(count, tuple):
        return tuple(round(float(np.float32(one))) for one in count)
    return round(float(np.float32(count)))


def _differs(what: str) -> CorruptFileError:
    return CorruptFileError(
        f"{what} does not read back as it was written; check the disk and write again."
    )
