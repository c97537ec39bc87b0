"""ONNX folders: onnxruntime computes from them what our numpy forward computes."""

import dataclasses
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import export.onnx
import export.onnx_data
from export import CONTAINERS, genai
from export.hashes import digest
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import CorruptFileError, EdgequantError
from runtime.onnx_file import metadata, open_onnx
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Tensor
from tests.conftest import CONFIGS, config
from tests.random_checkpoint import random_checkpoint
from tests.small_models import assert_near, kl, rounded

pytestmark = pytest.mark.slow


def slow(kind: str) -> Any:
    """A parameter of the slow tests."""
    return pytest.param(kind, marks=pytest.mark.slow)


LAYOUTS = [
    qtype.name if qtype.name in ("INT4_32", "INT8_32") else slow(qtype.name)
    for qtype in QUANT_TYPES.values()
    if isinstance(qtype, OnnxInt) and (not qtype.ordered or qtype.size == 64)
]
TEXT = "The history of the town begins with a river, a mill and three families who shared them."

FILES = ("model.onnx.data", "model.onnx")

write = CONTAINERS["onnx"].write
Folder = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def folder(random_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """folder(model, kind): an ONNX folder of the bundled or a random model, written once."""
    root = tmp_path_factory.mktemp("onnx")

    def written(name: str, kind: str) -> Path:
        path = root / f"{name}-{kind}"
        if not path.exists():
            checkpoint = open_checkpoint(random_models.get(name))
            write(path, checkpoint.arch, rounded(checkpoint, kind), checkpoint.folder, {})
        return path

    return written


def tokens(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (batch, length))


def graph_of(path: Path) -> onnx.GraphProto:
    return onnx.load(str(path / "model.onnx"), load_external_data=False).graph


def random_model(path: Path, name: str = "qwen2-tied", **changes: Any) -> Checkpoint:
    random_checkpoint(path, config(name, **changes), bundled(), seed=1)
    return open_checkpoint(path)


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["F32", "INT4_32", slow("INT8_32_SYM")])
@pytest.mark.parametrize("name", ["bundled", *CONFIGS])
def test_logits_equal_our_forward_on_the_decoded_weights(folder: Folder, name, kind) -> None:
    path = folder(name, kind)
    ids = tokens(2, 90)  # past the 64 tokens that yarn and llama3 take for the original context
    expected = open_engine(open_onnx(path), "numpy").logits(ids)
    found = open_engine(path, "onnxruntime", threads=2, accuracy_level=0).logits(ids)
    assert_near(found, expected)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_is_exact_in_float32_and_close_with_int8_activations(folder, kind) -> None:
    path = folder("bundled", kind)
    model = open_onnx(path)
    ids = np.array([model.tokenizer.encode(TEXT)])
    expected = open_engine(model, "numpy").logits(ids)
    exact = open_engine(path, "onnxruntime", threads=2, accuracy_level=0).logits(ids)
    assert_near(exact, expected)
    shipped = open_engine(path, "onnxruntime", threads=2).logits(ids)
    assert 0 < kl(expected, shipped) < 1e-3


@pytest.mark.parametrize("kind", ["INT4_32", "INT8_64", "INT4_128_SYM"])
def test_scales_in_float16_change_no_bit_of_the_logits(tiny: Checkpoint, tmp_path, kind) -> None:
    """Unless graph optimization is off: then MatMulNBits has no scales when its weights are packed,
    as the note on such folders says (onnxruntime 1.24 to 1.32)."""
    half = list(rounded(tiny, f"{kind}_F16"))
    single = [
        Tensor(t.name, t.shape, *same) if (same := t.qtype.widened(t.data)) else t for t in half
    ]
    assert {t.qtype.name for t in single} == {kind, "F32"}
    write(tmp_path / "half", tiny.arch, half, tiny.folder, {})
    write(tmp_path / "single", tiny.arch, single, tiny.folder, {})
    opened = open_onnx(tmp_path / "half")
    assert {t.qtype.name for t in opened.tensors.values() if t.is_matrix} == {f"{kind}_F16"}
    ids = tokens(1, 40)
    expected = open_engine(tmp_path / "single", "onnxruntime", threads=2).logits(ids)
    found = open_engine(tmp_path / "half", "onnxruntime", threads=2).logits(ids)
    np.testing.assert_array_equal(found, expected)
    ours = open_engine(opened, "native").logits(ids)
    same = open_engine(open_onnx(tmp_path / "single"), "native").logits(ids)
    np.testing.assert_array_equal(ours, same)

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "half" / "model.onnx", options)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    arch, cache = tiny.arch, [v.name for v in session.get_inputs() if "past" in v.name]
    empty = np.zeros((1, arch.kv_heads, 0, arch.head_dim), np.float32)
    unfolded = session.run(["logits"], feed | dict.fromkeys(cache, empty))[0]
    assert np.abs(unfolded - expected).max() > 1
    assert "optimization on" in export.onnx.FOLDED


def test_an_int8_head_on_int4_layers_keeps_both_layouts(tiny: Checkpoint, tmp_path: Path) -> None:
    pairs = zip(rounded(tiny, "INT8_32"), rounded(tiny, "INT4_32"), strict=True)
    mixed = (eight if eight.name == tiny.arch.head else four for eight, four in pairs)
    write(tmp_path / "x", tiny.arch, mixed, tiny.folder, {})
    model = open_onnx(tmp_path / "x")
    kinds = {t.qtype.name for t in model.tensors.values() if len(t.shape) == 2}
    assert (model.tensors[tiny.arch.head].qtype.name, kinds) == ("INT8_32", {"INT8_32", "INT4_32"})
    ids = np.array([model.tokenizer.encode(TEXT)])
    expected = open_engine(model, "numpy").logits(ids)
    assert 0 < kl(expected, _onnx(tmp_path / "x").logits(ids)) < 1e-3


@pytest.mark.parametrize("changes", [{"head_dim": 128}, {"head_dim": 80}, {"head_dim": 32}])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_heads_of_any_number_and_width_are_run(tmp_path: Path, changes, kv_heads) -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    checkpoint = random_model(tmp_path / "source", **sizes, **changes)
    write(tmp_path / "x", checkpoint.arch, rounded(checkpoint, "F32"), checkpoint.folder, {})
    ids = tokens(1, 24)
    expected = open_engine(checkpoint.model(), "numpy").logits(ids)
    found = open_engine(tmp_path / "x", "onnxruntime", threads=2).logits(ids)
    assert_near(found, expected)


@pytest.mark.numeric
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_steps_equal_the_whole_prompt(folder: Folder, name: str) -> None:
    engine = open_engine(folder(name, "INT4_32"), "onnxruntime", threads=2, accuracy_level=0)
    ids = tokens(2, 30)
    whole = engine.logits(ids)
    cache = engine.new_cache(2, 30)
    parts = [engine.logits(ids[:, :17], cache), engine.logits(ids[:, 17:25], cache)]
    parts += [engine.logits(ids[:, at : at + 1], cache, last=True) for at in range(25, 30)]
    assert_near(np.concatenate(parts, 1), whole)


def test_the_rows_of_every_input_are_called_as_transformers_js_knows_them(folder: Folder) -> None:
    graph = onnx.load(folder("tiny", "INT4_32") / "model.onnx", load_external_data=False).graph
    dims = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert {dim.dim_param for dim in dims} == {"batch_size"}


@pytest.mark.numeric
def test_rows_of_a_batch_do_not_touch_each_other(folder: Folder) -> None:
    engine = open_engine(folder("bundled", "INT4_32"), "onnxruntime", threads=2, accuracy_level=0)
    ids = tokens(4, 20)
    rows = np.concatenate([engine.logits(row[None]) for row in ids])
    assert_near(engine.logits(ids), rows)


@pytest.mark.parametrize("name", ["bundled", "llama-untied"])
@pytest.mark.parametrize("kind", ["F32", "INT4_32"])
def test_graph_passes_the_checker_and_opens_without_any_option(folder, name, kind) -> None:
    path = folder(name, kind) / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    names = {value.name for value in session.get_inputs()}
    assert {"input_ids", "attention_mask", "past_key_values.0.key"} < names


def unfused(path: Path, ids: np.ndarray) -> np.ndarray:
    """Logits of a folder's graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path / "model.onnx"), options)
    feed = {
        value.name: np.zeros((1, *value.shape[1:2], 0, value.shape[3]), np.float32)
        for value in session.get_inputs()[2:]
    }
    feed |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return np.asarray(session.run(["logits"], feed)[0])


@pytest.mark.numeric
def test_graph_needs_none_of_onnxruntimes_fusions(
    folder: Folder, tiny: Checkpoint, tmp_path: Path
) -> None:
    ids, tensors = tokens(1, 12), rounded(tiny, "INT4_32")
    write(tmp_path / "x", tiny.arch, tensors, tiny.folder, {}, accuracy_level=0)
    exact = open_engine(tmp_path / "x", "onnxruntime", threads=2).logits(ids)
    assert_near(unfused(tmp_path / "x", ids), exact)
    # with int8 activations a last bit turns a code, and later layers turn more of them
    assert 0 < kl(exact, unfused(folder("bundled", "INT4_32"), ids)) < 1e-3


@pytest.mark.parametrize("kind", ["INT4_32", slow("INT8_64_SYM")])
def test_tied_embedding_is_stored_once_and_read_by_both_ends(folder, tiny, kind: str) -> None:
    path = folder("bundled", kind)
    graph = graph_of(path)
    gather = next(n for n in graph.node if n.op_type == "GatherBlockQuantized")
    head = next(n for n in graph.node if n.output[0] == "logits")
    assert head.op_type == "MatMulNBits"
    places = {p.name: tuple(e.value for e in p.external_data) for p in graph.initializer}
    assert places[gather.input[0]] == places[head.input[1]]  # file, offset and length of the codes
    assert list(gather.input[2:]) == list(head.input[2:])  # scales and zero points
    weights = sum(tensor.nbytes for tensor in open_onnx(path).tensors.values())
    tables = 2 * tiny.arch.context * tiny.arch.head_dim // 2 * 4
    padding = export.onnx_data.ALIGNMENT * len(graph.initializer)
    assert (path / "model.onnx.data").stat().st_size < weights + tables + padding


def test_every_weight_of_the_file_is_read_by_a_node(folder: Folder) -> None:
    for name, kind in (("bundled", "INT4_32"), ("qwen2-untied", "INT4_32"), ("bundled", "F32")):
        graph = graph_of(folder(name, kind))
        read = {name for node in graph.node for name in node.input}
        assert {proto.name for proto in graph.initializer} <= read


def test_tied_float_embedding_is_stored_once(folder: Folder) -> None:
    graph = graph_of(folder("bundled", "F32"))
    assert [p.name for p in graph.initializer if 4096 in p.dims] == ["token_embd.weight"]
    readers = [n.op_type for n in graph.node if "token_embd.weight" in n.input]
    assert sorted(readers) == ["Gather", "Transpose"]


def test_half_precision_tensors_are_stored_as_the_same_floats(tiny: Checkpoint, tmp_path) -> None:
    assert tiny.tensors["token_embd.weight"].qtype.name == "BF16"
    write(tmp_path / "x", tiny.arch, tiny.tensors.values(), tiny.folder, {})
    found = open_onnx(tmp_path / "x").tensors
    for tensor in tiny.tensors.values():
        assert found[tensor.name].qtype.name == "F32"
        np.testing.assert_array_equal(found[tensor.name].decode(), tensor.decode())


def test_container_holds_the_integer_layouts_and_plain_floats() -> None:
    held = {name for name, qtype in QUANT_TYPES.items() if CONTAINERS["onnx"].holds(qtype)}
    ints = [qtype for qtype in QUANT_TYPES.values() if isinstance(qtype, OnnxInt)]
    assert held == {"F32"} | {qtype.name for qtype in ints if not qtype.half}
    assert CONTAINERS["onnx"].widest in held


def test_an_order_that_names_a_column_twice_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    write(tmp_path / "x", tiny.arch, rounded(tiny, "INT4_32_ACT"), tiny.folder, {})
    name = "blk.2.attn_k.weight"
    places = {p.name: p.external_data for p in graph_of(tmp_path / "x").initializer}
    offset = next(int(e.value) for e in places[f"{name}.order"] if e.key == "offset")
    with (tmp_path / "x" / "model.onnx.data").open("r+b") as file:
        file.seek(offset)
        first = file.read(4)
        file.write(first)
    with pytest.raises(CorruptFileError, match=f"columns of {name} does not name each once"):
        open_onnx(tmp_path / "x").tensors[name]


def test_same_tensors_make_the_same_bytes(folder: Folder, tiny: Checkpoint, tmp_path) -> None:
    first = folder("bundled", "INT4_32")
    write(tmp_path / "again", tiny.arch, rounded(tiny, "INT4_32"), tiny.folder, {})
    names = sorted(file.name for file in first.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir())
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_tensors_may_come_in_any_order(folder: Folder, tiny: Checkpoint, tmp_path: Path) -> None:
    backwards = reversed(list(rounded(tiny, "INT4_32")))
    write(tmp_path / "x", tiny.arch, backwards, tiny.folder, {})
    files = [path / "model.onnx.data" for path in (tmp_path / "x", folder("bundled", "INT4_32"))]
    assert files[0].stat().st_size == files[1].stat().st_size
    found, expected = (open_onnx(file.parent).tensors for file in files)
    for name in tiny.tensors:
        np.testing.assert_array_equal(found[name].data, expected[name].data)


def test_offsets_past_four_gigabytes_are_read_by_both_readers(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-tied"])
    facts = (checkpoint.arch, rounded(checkpoint, "F32"), checkpoint.folder, {})
    write(tmp_path / "x", *facts, alignment=1 << 28)  # the gaps are holes: nothing on disk
    assert (tmp_path / "x" / "model.onnx.data").stat().st_size > 1 << 32
    last = graph_of(tmp_path / "x").initializer
    offsets = [e.value for p in last for e in p.external_data if e.key == "offset"]
    assert max(map(int, offsets)) > 1 << 32
    ids = tokens(1, 16)
    expected = open_engine(checkpoint.model(), "numpy").logits(ids)
    for engine in (open_engine(open_onnx(tmp_path / "x"), "numpy"), _onnx(tmp_path / "x")):
        assert_near(engine.logits(ids), expected)


def _onnx(path: Path) -> Any:
    return open_engine(path, "onnxruntime", threads=2)


def test_writing_holds_a_tensor_at_a_time(tmp_path: Path) -> None:
    checkpoint = random_model(tmp_path / "source", num_hidden_layers=12, intermediate_size=2048)
    tracemalloc.start()
    write(tmp_path / "x", checkpoint.arch, rounded(checkpoint, "F32"), checkpoint.folder, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "x" / "model.onnx.data").stat().st_size
    assert size > 30e6 and peak < 10e6


def test_missing_room_is_told_before_the_first_tensor(tiny: Checkpoint, tmp_path: Path) -> None:
    def untouched() -> Iterator[Tensor]:
        pytest.fail("no tensor must be asked for")
        yield

    huge = dataclasses.replace(tiny.arch, vocab=1 << 50)
    with pytest.raises(EdgequantError, match=r"x needs [\d,]+ bytes .* free some space"):
        write(tmp_path / "x", huge, untouched(), tiny.folder, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["F32", *LAYOUTS])
def test_no_folder_is_smaller_than_the_room_asked_for(folder: Folder, tiny, kind: str) -> None:
    data = folder("bundled", kind) / "model.onnx.data"
    assert export.onnx.least_bytes(tiny.arch) <= data.stat().st_size


def test_an_existing_folder_is_kept_unless_overwritten(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("old")
    with pytest.raises(EdgequantError, match="already exists"):
        write(tmp_path / "x", tiny.arch, rounded(tiny, "F32"), tiny.folder, {})
    assert (tmp_path / "x" / "mine").read_text() == "old"
    write(tmp_path / "x", tiny.arch, rounded(tiny, "F32"), tiny.folder, {}, overwrite=True)
    assert not (tmp_path / "x" / "mine").exists() and (tmp_path / "x" / "model.onnx").exists()


def changed(tensors: list[Tensor], fault: str) -> list[Tensor]:
    """The tensors with one fault."""
    norm = next(t for t in tensors if t.name == "output_norm.weight")
    rest = [t for t in tensors if t is not norm]
    packed = QUANT_TYPES["INT4_32"].pack(*QUANT_TYPES["INT4_32"].quantize(norm.decode()[None]))
    faults = {
        "missing": rest,
        "twice": [*tensors, norm],
        "foreign": [*tensors, dataclasses.replace(norm, name="blk.0.gate.weight")],
        "short": [*rest, Tensor.dense(norm.name, norm.decode()[1:])],
        "packed norm": [*rest, Tensor(norm.name, norm.shape, QUANT_TYPES["INT4_32"], packed)],
    }
    return faults[fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "1 tensors are missing, the first is output_norm.weight; pass every"),
        ("twice", "output_norm.weight came twice; pass each"),
        ("foreign", "blk.0.gate.weight is not a tensor of this model; pass each"),
        (
            "short",
            r"output_norm.weight has shape \(255,\), but its config.json says \(256,\); take",
        ),
        ("packed norm", "output_norm.weight is INT4_32, which ONNX cannot hold; choose"),
    ],
)
def test_wrong_tensors_are_refused_and_leave_nothing(tiny, tmp_path, fault, message) -> None:
    tensors = changed([Tensor.dense(t.name, t.decode()) for t in tiny.tensors.values()], fault)
    with pytest.raises(EdgequantError, match=message):
        write(tmp_path / "x", tiny.arch, tensors, tiny.folder, {})
    assert list(tmp_path.iterdir()) == []


def test_heads_that_onnxruntime_cannot_rotate_are_refused(tmp_path: Path) -> None:
    checkpoint = random_model(tmp_path / "source", head_dim=24)
    with pytest.raises(
        EdgequantError, match="heads have 24 channels.*multiples of 16; write a GGUF"
    ):
        write(tmp_path / "x", checkpoint.arch, iter(()), checkpoint.folder, {})


def test_a_damaged_copy_is_found_when_it_is_read_back(folder: Folder, tiny, tmp_path) -> None:
    write(tmp_path / "x", tiny.arch, rounded(tiny, "F32"), tiny.folder, {})
    with (tmp_path / "x" / "model.onnx.data").open("r+b") as file:
        norm = next(p for p in graph_of(tmp_path / "x").initializer if "output_norm" in p.name)
        file.seek(int(next(e.value for e in norm.external_data if e.key == "offset")) + 3)
        file.write(b"\x7f")
    whole = (folder("bundled", "F32") / "model.onnx.data").read_bytes()
    sums = {}
    for proto in graph_of(tmp_path / "x").initializer:
        where = {entry.key: int(entry.value) for entry in proto.external_data[1:]}
        if where:
            stop = where["offset"] + where["length"]
            sums[proto.name] = digest(whole[where["offset"] : stop])
    export.onnx.check(folder("bundled", "F32"), sums, *FILES)
    with pytest.raises(EdgequantError, match="output_norm.weight in .* does not read back"):
        export.onnx.check(tmp_path / "x", sums, *FILES)


def test_extra_facts_are_kept_in_the_model(tiny: Checkpoint, tmp_path: Path) -> None:
    extra = {"method": "gptq", "plan": {"rows": 128, "damp": 0.01}, "fallbacks": ["a", "b"]}
    write(tmp_path / "x", tiny.arch, rounded(tiny, "F32"), tiny.folder, extra)
    found = metadata(tmp_path / "x")
    assert found["method"] == "gptq"
    assert json.loads(found["plan"]) == extra["plan"]
    assert json.loads(found["fallbacks"]) == extra["fallbacks"]


def test_the_checkpoints_own_files_go_along_unchanged(folder: Folder) -> None:
    path = folder("bundled", "F32")
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        assert (path / name).read_bytes() == (bundled() / name).read_bytes()


def test_a_context_of_a_million_tokens_is_cut_and_told(tmp_path: Path) -> None:
    checkpoint = random_model(tmp_path / "source", max_position_embeddings=1_000_000)
    write(tmp_path / "x", checkpoint.arch, rounded(checkpoint, "INT4_32"), checkpoint.folder, {})
    settings = json.loads((tmp_path / "x" / "genai_config.json").read_text())
    cos = next(p for p in graph_of(tmp_path / "x").initializer if p.name == "rope.cos")
    assert settings["model"]["context_length"] == genai.LONGEST_CONTEXT == cos.dims[0]
    with pytest.raises(EdgequantError, match="131073 tokens do not fit in 131072"):
        _onnx(tmp_path / "x").logits(np.zeros((1, 131_073), np.int64))
