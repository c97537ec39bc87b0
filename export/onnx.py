"""Write an ONNX folder that onnxruntime runs and onnxruntime-genai loads and generates from.

    model.onnx         the graph, a few hundred kB (onnx_graph.py)
    model.onnx.data    every weight, each at a multiple of 4096 bytes, so that it can be mapped;
                       cos and sin of every position up to genai.LONGEST_CONTEXT
    genai_config.json  what onnxruntime-genai must know (genai.py)
    embedding.onnx     of a model that reads images (onnx_seeing.py); its weights stand in
                       model.onnx.data
    vision.onnx, vision.onnx.data   its vision tower (onnx_vision.py)
    tokenizer.json...  the checkpoint's own files, unchanged

Weights pass through one at a time: the model is never whole in memory, and no 2 GB limit applies.
A tied embedding that is quantized is stored once, and read by the embedding and by the head.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx

from export import (
    genai,
    genai_tokenizer,
    genai_vision,
    onnx_graph,
    onnx_nodes,
    onnx_vision,
)
from export.base import Container, check_complete, check_tensor
from export.files import new_folder
from export.hashes import NONE, digest, file_digest
from export.onnx_data import (
    ALIGNMENT,
    DATA,
    DataFile,
    Places,
    rope_arrays,
    weight_arrays,
    weight_values,
)
from export.onnx_graphs import graphs_of, planned
from export.onnx_hashes import HASHES, seal, stored_places, verify
from export.onnx_presets import HALF_PRESETS, PRESETS
from export.onnx_stated import stated
from export.sight import Sight
from runtime.archs import Arch
from runtime.errors import CorruptFileError
from runtime.onnx_file import READER, VISION_MODEL, maker, metadata
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Tensor, is_matrix
from runtime.tokenizer import Tokenizer

USAGE = """```sh
quantize generate {file} "Once upon a time"
```

```python
import onnxruntime_genai as og

model = og.Model({literal})
tokenizer = og.Tokenizer(model)
params = og.GeneratorParams(model)
params.set_search_options(max_length=100)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode("Once upon a time"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
```"""


SCORING = """```sh
quantize score {file} --text "Once upon a time"
```

```python
import numpy as np
import onnxruntime
import tokenizers

session = onnxruntime.InferenceSession({literal} + "/model.onnx")
tokenizer = tokenizers.Tokenizer.from_file({literal} + "/tokenizer.json")
ids = np.array([tokenizer.encode("Once upon a time").ids])
(outputs,) = session.run(None, {{"input_ids": ids, "attention_mask": np.ones_like(ids)}})
print(outputs[0, -1])  # at the last token; scores of steps stand at their markers
```"""


def write(
    path: Path,
    arch: Arch,
    tensors: Iterable[Tensor],
    source: Path,
    extra: dict[str, Any],
    *,
    overwrite: bool = False,
    accuracy_level: int = 4,
    alignment: int = ALIGNMENT,
    sight: Sight | None = None,
) -> None:
    """Write the folder `path` from tensors in any order; F16 and BF16 ones are stored as F32.

    The graph spells out offsets in digits, so that the folder may miss `size` by some bytes when
    tensors do not come in file order.
    `source` is the checkpoint's folder (config, tokenizer), `extra` goes into the model's metadata,
    `sight` is a vision tower that goes along.
    accuracy_level 4 rounds activations to int8 (fast), 0 computes in float32. Arrays start at
    multiples of `alignment` bytes of the data file. Raises EdgequantError when the folder exists,
    the disk is too small, a tensor is missing or of a type that ONNX cannot hold, or the written
    file does not read back as it was meant.
    """
    onnx_graph.check_ops(arch)
    small = genai.small_files(arch, source, sight)
    needed = least_bytes(arch) + (onnx_vision.tower_bytes(sight) if sight else 0)
    with new_folder(path, overwrite, needed=needed) as temp:
        with (temp / DATA).open("wb") as file:
            data = DataFile(file, Places(alignment=alignment))
            layouts = _store(data, arch, tensors)
        models = graphs_of(arch, layouts, data.places.protos, extra, sight, accuracy_level)
        files = {name: digest(content) for name, content in small.items()}
        if sight:
            sums = onnx_vision.write_tower(temp, sight, alignment)
            check(temp, sums, onnx_vision.VISION_DATA, VISION_MODEL)
            files |= {name: file_digest(temp / name) for name in TOWER}
        graphs = seal(models, data.sums, files)
        for name, content in (graphs | small).items():
            (temp / name).write_bytes(content)
        check(temp, data.sums, DATA, *graphs)


def provenance(path: Path) -> dict[str, str]:
    """What the writer noted in the model, without hashes. Raises as `runtime.onnx_file.metadata`"""
    return {key: text for key, text in metadata(path).items() if not key.startswith(HASHES)}


TOWER = (VISION_MODEL, onnx_vision.VISION_DATA)
"""The files of a vision tower."""


def size(
    arch: Arch,
    types: Mapping[str, QuantType],
    source: Path,
    extra: dict[str, Any],
    sight: Sight | None = None,
) -> int:
    """Bytes of the folder that `write` makes in file order when its 2-D weights have these types.

    The graph is made as it will be; of the weights only places and lengths are counted. Raises
    EdgequantError for heads that onnxruntime cannot rotate, as `write` does.
    """
    onnx_graph.check_ops(arch)
    layouts = {name: types.get(name, QUANT_TYPES["F32"]) for name in arch.shapes()}
    places = planned(arch, layouts)
    small = genai.small_files(arch, source, sight)
    hashes = dict.fromkeys((*small, *TOWER) if sight else small, NONE)
    arrays = dict.fromkeys((proto.name for proto in places.protos), NONE)
    graphs = seal(graphs_of(arch, layouts, places.protos, extra, sight), arrays, hashes)
    files = (graphs | small).values()
    tower = onnx_vision.tower_bytes(sight) if sight else 0
    return places.end + sum(map(len, files)) + tower


def least_bytes(arch: Arch) -> int:
    """Bytes of the weights in ONNX's smallest layout, and of the rope tables: no folder is smaller.

    Tensors come one at a time, so this is all that is known of the size before the first one.
    """
    bits = min(qtype.bits for qtype in QUANT_TYPES.values() if isinstance(qtype, OnnxInt))
    shapes = arch.shapes().values()
    weights = sum(math.prod(shape) * (bits / 8 if is_matrix(shape) else 4) for shape in shapes)
    return int(weights) + sum(array.nbytes for array, _ in rope_arrays(arch))


def _store(data: DataFile, arch: Arch, tensors: Iterable[Tensor]) -> dict[str, QuantType]:
    """Stream every tensor to the data file; returns how each one is stored."""
    shapes = arch.shapes()
    layouts: dict[str, QuantType] = {}
    for tensor in tensors:
        check_tensor(tensor, shapes, layouts)
        layouts[tensor.name] = tensor.qtype
        arrays = weight_arrays(tensor.name, tensor.shape, tensor.qtype)
        for array, pieces in zip(arrays, weight_values(tensor), strict=True):
            data.add(array, pieces)
    check_complete(shapes, layouts)
    if data.places.add_view(arch, layouts[onnx_nodes.EMBEDDING]):
        data.sums[onnx_nodes.TIED_BLOCKS] = data.sums[f"{onnx_nodes.EMBEDDING}.q"]
    for array, pieces in rope_arrays(arch):
        data.add(array, pieces)
    return layouts


def reader_notes(tokenizer: Tokenizer, source: Path, texts: Iterable[str]) -> tuple[str, ...]:
    """What onnxruntime-genai makes otherwise of texts and of images in them, a sentence each."""
    told = genai_tokenizer.notes(tokenizer, source, texts)
    return (*told, *genai_vision.notes(tokenizer, source))


def check(folder: Path, sums: dict[str, str], data: str, *graphs: str) -> None:
    """Reopen graphs over a data file: valid ones, and every array as its hash says.

    Raises EdgequantError naming the first array that differs.
    """
    found: dict[str, tuple[int, int]] = {}
    for name in graphs:
        onnx.checker.check_model(str(folder / name))
        graph = onnx.load(str(folder / name), load_external_data=False)
        found |= {array: (start, length) for array, start, length in stored_places(graph)}
    for name, expected in sums.items():
        if file_digest(folder / data, *found.get(name, (0, 0))) != expected:
            raise CorruptFileError(
                f"{name} in {folder / data} does not read back as it was written; "
                "check the disk and write again."
            )


FOLDED = (
    "its scales are float16 behind a Cast, which onnxruntime folds away as it opens the model: "
    "keep graph optimization on (the default), since without it MatMulNBits sees no scales and "
    "gives zeros"
)
"""What users of scales in float16 must know; seen with onnxruntime 1.32 at accuracy level 4."""


def folded_notes(tokenizer: Tokenizer, source: Path, texts: Iterable[str]) -> tuple[str, ...]:
    """What holds of every folder, and that its scales are folded."""
    return (*reader_notes(tokenizer, source, texts), FOLDED)


FACTS: dict[str, Any] = {
    "widest": "F32",
    "write": write,
    "size": size,
    "provenance": provenance,
    "maker": maker,
    "stated": stated,
    "verify": verify,
    "tower": "INT8_32",
    "refuse": onnx_graph.check_ops,
    "usage": USAGE,
    "scoring": SCORING,
    "seeing": genai_vision.SEEING,
    "context": genai.context_length,
    "cut": "cosines and sines of so many positions are stored",
}
"""What folders with scales in float32 and in float16 share."""

Container(
    READER,
    suffix="-onnx",
    holds=lambda qtype: isinstance(qtype, OnnxInt) and not qtype.half or qtype.name == "F32",
    presets=PRESETS,
    reader_notes=reader_notes,
    **FACTS,
)
Container(
    READER,
    own_name="onnx-f16",
    suffix="-onnx-f16",
    holds=lambda qtype: isinstance(qtype, OnnxInt) and qtype.half or qtype.name == "F32",
    presets=HALF_PRESETS,
    reader_notes=folded_notes,
    **FACTS,
)
