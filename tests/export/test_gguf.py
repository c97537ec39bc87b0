"""GGUF files: what is written, what llama.cpp's own Python reader sees, and what is refused."""

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from export import CONTAINERS
from export.gguf import check, expected_bytes, least_bytes, tensor_shapes, write
from export.gguf_general import general
from export.gguf_vocab import vocabulary
from export.sentencepiece import scores
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.archs import FAMILIES
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf, read
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from tests.conftest import CONFIGS
from tests.small_models import assert_near
from tests.tokenizers_made import CONTROL, made, save, sentencepiece

pytestmark = pytest.mark.slow


def tensors_of(checkpoint: Checkpoint) -> Iterator[Tensor]:
    return (checkpoint.tensors[name] for name in checkpoint.tensors)


def written(checkpoint: Checkpoint, path: Path, **extra: Any) -> Path:
    write(path, checkpoint.arch, tensors_of(checkpoint), checkpoint.folder, extra)
    return path


@pytest.fixture(scope="module")
def tiny_path(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return written(tiny, path, preset="BF16", model="tiny", plan={"rows": 64, "method": "rtn"})


@pytest.fixture
def model(request: pytest.FixtureRequest, random_models: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(random_models[request.param])


@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_a_written_model_computes_what_the_checkpoint_does(
    model: Checkpoint, tmp_path: Path
) -> None:
    ids = np.arange(3, 24)[None]
    found = open_gguf(written(model, tmp_path / "x.gguf", preset="BF16"))
    expected = open_engine(model.model(), "numpy").logits(ids)
    assert_near(open_engine(found, "numpy").logits(ids), expected)
    assert found.tokenizer is not None
    assert found.tokenizer.eos == model.tokenizer.eos


@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_the_gguf_package_reads_the_same_bytes(model: Checkpoint, tmp_path: Path) -> None:
    path = written(model, tmp_path / "x.gguf", preset="BF16")
    theirs, ours = gguf.GGUFReader(path), read(path)
    assert [tensor.name for tensor in theirs.tensors] == list(tensor_shapes(model.arch))
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (tensor.data_offset, tensor.n_bytes) == (info.offset, info.nbytes)
        assert tuple(tensor.shape[::-1]) == info.shape
        assert tensor.data_offset % 32 == 0
        assert tensor.tensor_type.value == info.qtype.ggml_type
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert set(fields) == set(ours.metadata)
    for key, value in fields.items():
        mine, its = np.asarray(ours.metadata[key]), np.asarray(value)
        kind = np.float32 if its.dtype.kind == "f" else its.dtype
        np.testing.assert_array_equal(mine.astype(kind), its.astype(kind))


def test_norms_and_biases_are_f32_and_a_tied_head_is_stored_once(tiny_path: Path) -> None:
    file = read(tiny_path)
    for info in file.tensors.values():
        assert info.qtype.name == ("F32" if len(info.shape) == 1 else "BF16"), info.name
    assert "output.weight" not in file.tensors


def test_llama_s_rows_are_stored_in_gguf_s_order(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    model = open_checkpoint(random_models["llama-untied"])
    file = read(written(model, tmp_path / "x.gguf"))
    for kind in ("weight", "bias"):
        name = f"blk.1.attn_q.{kind}"
        order = FAMILIES["llama"].gguf_rows(model.arch, name)
        original = model.tensors[name].decode()
        stored = file.tensors[name].qtype.decode(file.packed(name)).reshape(original.shape)
        np.testing.assert_array_equal(stored, original[order])
        assert not np.array_equal(stored, original)
        np.testing.assert_array_equal(
            open_gguf(file.path).tensors[name].decode(), original.astype(np.float32)
        )


def test_metadata_say_what_the_file_is(tiny_path: Path, tiny: Checkpoint) -> None:
    found = read(tiny_path).metadata
    assert found["general.architecture"] == "qwen2"
    assert (found["general.name"], found["general.size_label"]) == ("tiny", "5.8M")
    assert found["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert found["general.quantization_version"] == 2
    assert json.loads(found["edgequant.plan"]) == {"rows": 64, "method": "rtn"}
    assert found["edgequant.preset"] == "BF16"
    assert found["tokenizer.ggml.pre"] == "qwen2"
    assert found["tokenizer.chat_template"] == tiny.tokenizer.chat_template
    ids = {key: found[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "eot", "padding")}
    assert ids == {"bos": 4093, "eos": 4095, "eot": 4093, "padding": 4093}
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.ggml.token_type"][-3:].tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Phi-3-mini", "Phi 3-mini"),
        ("my_PHI3", "my_PHI 3"),
        ("ModernBERT and modern-bert", "ModernBERT and modern bert"),
        ("Phi-4", "Phi-4"),
    ],
)
def test_a_name_by_which_llamacpp_knows_other_rules_is_spelled_apart(
    tiny: Checkpoint, name: str, written: str
) -> None:
    assert general(tiny.arch, tiny.folder, {"model": name})["general.name"] == written


@pytest.mark.parametrize(("preset", "number"), [("F32", 0), ("Q4_K_M", 15), ("IQ4_XS", 30)])
def test_the_mixture_has_llamacpp_s_number(tiny: Checkpoint, preset: str, number: int) -> None:
    keys = general(tiny.arch, tiny.folder, {"preset": preset})
    assert keys["general.file_type"] == number


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"license": "mit"}'),
        ("README.md", "---\ntags:\n- x\nlicense: mit\n---\nlicense: no\n"),
        ("README.md", "---\nlicense: 'mit'\n---\n"),
    ],
)
def test_the_licence_comes_from_config_or_the_head_of_the_readme(
    tmp_path: Path, tiny: Checkpoint, file: str, content: str
) -> None:
    (tmp_path / file).write_text(content)
    assert general(tiny.arch, tmp_path, {})["general.license"] == "mit"


@pytest.mark.parametrize("content", ["license: mit\n", "# Title\n---\nlicense: mit\n---\n", ""])
def test_a_readme_without_a_head_names_no_licence(
    tmp_path: Path, tiny: Checkpoint, content: str
) -> None:
    (tmp_path / "README.md").write_text(content)
    assert "general.license" not in general(tiny.arch, tmp_path, {})


def test_rows_without_a_token_are_unused(random_models: dict[str, Path], tmp_path: Path) -> None:
    folder = made("gpt-2", tmp_path)
    found = vocabulary(folder, 605)
    assert found["tokenizer.ggml.tokens"][597:] == [
        *CONTROL,
        *(f"[PAD{i}]" for i in range(600, 605)),
    ]
    assert found["tokenizer.ggml.token_type"][596:] == [1, 3, 3, 3, 5, 5, 5, 5, 5]


def test_sentencepiece_types_and_scores_are_stored(tmp_path: Path) -> None:
    found = vocabulary(made("llama", tmp_path), 800)
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert found["tokenizer.ggml.unknown_token_id"] == 0
    first = found["tokenizer.ggml.scores"][259:262]
    assert first == [0.0, -1.0, -2.0]


def test_metaspace_is_written_where_it_never_puts_a_space(tmp_path: Path) -> None:
    folder = save(sentencepiece("never"), tmp_path)
    assert vocabulary(folder, 800)["tokenizer.ggml.add_space_prefix"] is False


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_metaspace_that_heeds_a_space_is_refused(tmp_path: Path, scheme: str) -> None:
    """Llama 2's tokenizer as transformers 5 saves it."""
    with pytest.raises(EdgequantError, match=f"'{scheme}'.* before every text or none"):
        vocabulary(save(sentencepiece(scheme), tmp_path), 800)


def test_only_one_tensor_is_in_memory_at_a_time(tiny: Checkpoint, tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def watched() -> Iterator[Tensor]:
        for tensor in tensors_of(tiny):
            data = tensor.data.copy()
            alive.append(weakref.ref(data))
            yield replace(tensor, data=data)
            del data
            assert sum(ref() is not None for ref in alive) <= 1

    write(tmp_path / "x.gguf", tiny.arch, watched(), tiny.folder, {})


def test_tensors_may_come_in_any_order(tiny: Checkpoint, tmp_path: Path) -> None:
    backwards = (tiny.tensors[name] for name in reversed(list(tiny.tensors)))
    write(tmp_path / "x.gguf", tiny.arch, backwards, tiny.folder, {})
    found = open_gguf(tmp_path / "x.gguf")
    for name in tiny.tensors:
        np.testing.assert_array_equal(found.tensors[name].decode(), tiny.tensors[name].decode())


def test_the_same_input_gives_the_same_bytes(tiny: Checkpoint, tmp_path: Path) -> None:
    first, second = (written(tiny, tmp_path / name, preset="F32") for name in ("a.gguf", "b.gguf"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_the_size_is_known_beforehand(model: Checkpoint, tmp_path: Path) -> None:
    path = written(model, tmp_path / "x.gguf")
    layouts = {n: QUANT_TYPES["BF16"] for n, s in model.tensors.shapes.items() if len(s) == 2}
    expected = expected_bytes(model.arch, layouts)
    header = min(info.offset for info in read(path).tensors.values())
    assert header + expected == path.stat().st_size
    assert least_bytes(model.arch) < expected


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"mine")
    with pytest.raises(EdgequantError, match="already exists"):
        written(tiny, path)
    assert path.read_bytes() == b"mine"
    write(path, tiny.arch, tensors_of(tiny), tiny.folder, {}, overwrite=True)
    assert read(path).tensors


def _wrong(tiny: Checkpoint) -> dict[str, list[Tensor]]:
    tensors = list(tensors_of(tiny))
    first = tensors[0]
    rows = np.zeros((4, 4), np.float32)
    return {
        "token_embd.weight came twice; pass each": [first, first],
        "other.weight is not a tensor of this model": [Tensor.dense("other.weight", rows)],
        r"token_embd.weight has shape \(4, 4\)": [Tensor.dense("token_embd.weight", rows)],
        "token_embd.weight is INT4_32, which GGUF cannot hold; choose one of F32": [
            replace(first, qtype=QUANT_TYPES["INT4_32"])
        ],
        "2 tensors are missing, the first is blk.5.ffn_down.weight": tensors[:-2],
    }


@pytest.mark.parametrize("case", range(5))
def test_tensors_that_do_not_make_the_model_are_refused_and_leave_no_file(
    tiny: Checkpoint, tmp_path: Path, case: int
) -> None:
    sentence, tensors = list(_wrong(tiny).items())[case]
    with pytest.raises(EdgequantError, match=sentence):
        write(tmp_path / "x.gguf", tiny.arch, tensors, tiny.folder, {})
    assert not list(tmp_path.iterdir())


def test_no_room_on_the_disk_is_said_before_writing(tiny: Checkpoint, tmp_path: Path) -> None:
    huge = replace(tiny.arch, ffn=2**50)
    with pytest.raises(EdgequantError, match="no room for .*x.gguf: x.gguf needs"):
        write(tmp_path / "x.gguf", huge, [], tiny.folder, {})


def test_bytes_and_metadata_that_do_not_read_back_are_refused(tiny_path: Path) -> None:
    with pytest.raises(EdgequantError, match="output_norm.weight does not read back"):
        check(tiny_path, {}, {"output_norm.weight": 1})
    with pytest.raises(EdgequantError, match="general.name does not read back"):
        check(tiny_path, {"general.name": "other"}, {})
    with pytest.raises(EdgequantError, match="tokenizer.ggml.token_type does not read back"):
        check(tiny_path, {"tokenizer.ggml.token_type": [1, 2]}, {})


def _changed(folder: Path, change: Any) -> Path:
    """The folder, after a change of its tokenizer.json."""
    settings = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(settings)
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    return folder


def test_tokenizers_that_gguf_cannot_hold_are_refused(tmp_path: Path) -> None:
    def strip(settings: dict[str, Any]) -> None:
        settings["added_tokens"][0]["lstrip"] = True

    def spaces(settings: dict[str, Any]) -> None:
        settings["normalizer"] = {"type": "NFKC"}

    def unigram(settings: dict[str, Any]) -> None:
        settings["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}

    for kind, change, sentence in (
        ("gpt-2", strip, "the token '<|endoftext|>' sets lstrip, which GGUF cannot say"),
        ("llama", spaces, "no name for this tokenizer's handling of spaces"),
        ("llama", unigram, "is a Unigram model; GGUF writes BPE only"),
    ):
        folder = _changed(made(kind, tmp_path / change.__name__), change)
        with pytest.raises(EdgequantError, match=sentence):
            vocabulary(folder, 800)


def test_more_tokens_than_the_model_embeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EdgequantError, match="has 600 tokens .the last is .* but the model embeds 599"
    ):
        vocabulary(made("gpt-2", tmp_path), 599)


def test_special_tokens_outside_of_the_vocabulary_are_refused(tmp_path: Path) -> None:
    folder = made("gpt-2", tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [599, 4093]}')
    with pytest.raises(EdgequantError, match="names 4093 as eot token, but the model embeds 800"):
        vocabulary(folder, 800)


def test_merge_lists_that_no_scores_can_say_are_refused() -> None:
    tokens, types = ["a", "b", "ab", "aba", "ba"], [1] * 5
    pairs = [["a", "b"], ["ab", "a"], ["a", "ba"], ["b", "a"]]
    assert scores(tokens, types, pairs) == [-3.0, -3.0, 0.0, -1.0, -2.0]
    with pytest.raises(EdgequantError, match=r"leaves out \('a', 'ba'\)"):
        scores(tokens, types, [pairs[0], pairs[1], pairs[3]])
    with pytest.raises(EdgequantError, match="comes back to 'aba'"):
        scores(tokens, types, [pairs[0], pairs[1], pairs[3], pairs[2]])


def test_the_container_is_registered() -> None:
    container = CONTAINERS["gguf"]
    assert (container.suffix, container.widest) == (".gguf", "F16")
    for qtype in QUANT_TYPES.values():
        assert container.holds(qtype) == (qtype.ggml_type is not None)
