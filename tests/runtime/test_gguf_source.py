"""A GGUF as a checkpoint: sizes, values, types and files are those of what it was made from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from export import CONTAINERS
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from runtime import gguf_file
from runtime.archs import FAMILIES, Arch, family_of
from runtime.archs.hf_sizes import unlike
from runtime.config_file import read_config
from runtime.engine import open_engine
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf
from runtime.gguf_header import Header
from runtime.gguf_metadata import check_kinds
from runtime.gguf_parts import read_parts
from runtime.gguf_source import read_gguf
from runtime.quant_types import QUANT_TYPES
from runtime.rope import Rope, as_llama3
from runtime.tensor import Tensor
from tests.conftest import CONFIGS, config
from tests.gguf_made import bytes_alphabet, tiny_gguf
from tests.moe_models import MODELS, moe
from tests.one_file_models import SIZES
from tests.small_models import rounded
from tests.vision_models import QWEN25, vision_model
from tests.windowed import WINDOWED, facts_of

write = CONTAINERS["gguf"].write
DENSE = [name for name in CONFIGS if (kind := family_of(config(name))).architecture == kind.name]
"""Without those that pass for another family in a GGUF."""
TOKENS = [*bytes_alphabet(), "ab"]
EXPERTS = [name for name, (_, refused) in MODELS.items() if not refused]


def stored(checkpoint: Checkpoint, type_name: str) -> Iterator[Tensor]:
    """Every weight in a float type; norms and biases are F32."""
    for name, tensor in checkpoint.tensors.items():
        values = tensor.decode().reshape(tensor.shape)
        yield Tensor.dense(name, values, type_name if tensor.is_matrix else "F32")


def assert_same_model(found: Checkpoint, meant: Checkpoint) -> None:
    """Equal in all that a run reads, when the file holds the values as they are."""
    assert unlike(found.arch, meant.arch) == []
    assert found.arch.context == meant.arch.context
    assert list(found.tensors) == list(meant.tensors)
    assert found.tensors.shapes == meant.tensors.shapes
    for name, tensor in meant.tensors.items():
        assert np.array_equal(found.tensors[name].decode(), tensor.decode()), name
    # an ONNX folder is read by its config.json
    written = read_config(found.files)
    assert unlike(family_of(written).arch(written), meant.arch) == []


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("name", DENSE)
def test_a_dense_model_comes_back(
    name: str, kind: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    meant, path = open_checkpoint(random_models[name]), tmp_path / "m.gguf"
    write(path, meant.arch, stored(meant, kind), meant.files, {})
    found = open_checkpoint(path)
    assert_same_model(found, meant)
    assert {found.tensors.qtype(f"blk.0.{n}.weight").name for n in ("attn_q", "ffn_up")} == {kind}
    assert found.tokenizer.encode("a b\u00e9") == meant.tokenizer.encode("a b\u00e9")
    assert found.tokenizer.eos == meant.tokenizer.eos
    assert found.tokenizer.chat_template == meant.tokenizer.chat_template


@pytest.mark.parametrize("name", EXPERTS)
def test_a_model_with_experts_comes_back(name: str, tmp_path: Path) -> None:
    meant, path = open_checkpoint(moe(tmp_path / "m", MODELS[name][0])), tmp_path / "m.gguf"
    write(path, meant.arch, stored(meant, "BF16"), meant.files, {})
    found = open_checkpoint(path)
    assert_same_model(found, meant)
    one, other = (c.tensors.matrix("blk.1.ffn_down_exps.weight", 2) for c in (found, meant))
    assert np.array_equal(one.decode(), other.decode())


def test_the_language_model_of_one_that_sees_comes_back(tmp_path: Path) -> None:
    meant, path = open_checkpoint(vision_model(tmp_path / "m", QWEN25)), tmp_path / "m.gguf"
    write(path, meant.arch, stored(meant, "BF16"), meant.files, {})
    assert_same_model(open_checkpoint(path), meant)


@pytest.mark.parametrize("kind", [q.name for q in QUANT_TYPES.values() if q.ggml_type is not None])
def test_packed_weights_stay_packed(kind: str, tmp_path: Path) -> None:
    qtype = QUANT_TYPES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (512, qtype.row_bytes(256)), np.uint8)
    facts = config("llama-untied", hidden_size=256, intermediate_size=512, num_hidden_layers=1)
    arch = family_of(facts).arch(facts | {"vocab_size": 4096, "head_dim": 32})
    name = "blk.0.ffn_up.weight"
    tensors = {n: Tensor.dense(n, np.ones(s, np.float32)) for n, s in arch.shapes().items()}
    tensors[name] = Tensor(name, (512, 256), qtype, raw)
    path = tmp_path / "m.gguf"
    write(path, arch, tensors.values(), bundled(), {})
    found = open_checkpoint(path).tensors
    assert found.qtype(name).name == found[name].qtype.name == kind
    assert np.array_equal(found[name].data, raw)
    assert found.nbytes(name) == raw.nbytes


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("name", ["llama-untied", "qwen3"])
def test_its_model_is_that_of_the_file(
    kind: str, name: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    meant, path = open_checkpoint(random_models[name]), tmp_path / "m.gguf"
    write(path, meant.arch, rounded(meant, kind), meant.files, {})
    found, file = read_gguf(path).tensors, open_gguf(path).tensors
    for tensor in file.values():
        assert found[tensor.name].qtype.name == tensor.qtype.name
        assert np.array_equal(found[tensor.name].data, tensor.data)


def test_it_says_what_it_is(random_models: dict[str, Path], tmp_path: Path) -> None:
    meant, path = open_checkpoint(random_models["qwen2-untied"]), tmp_path / "x-Q4_0.gguf"
    write(path, meant.arch, rounded(meant, "Q4_0"), meant.files, {})
    found = read_gguf(path)
    assert found.name == "x-Q4_0"
    assert found.notes[0] == (
        "the source is the GGUF x-Q4_0.gguf (16 x Q4_0): its weights were rounded before, and "
        "these values are the original that reports compare with"
    )
    assert found.facts["source_notes"][0] == found.notes[0]
    assert found.shards == [path]
    assert found.nbytes == path.stat().st_size
    before = found.fingerprint()
    assert read_gguf(path).fingerprint() == before
    with path.open("r+b") as file:
        file.seek(-64, 2)
        file.write(b"another")
    assert read_gguf(path).fingerprint() != before


def test_its_fingerprint_reads_no_header_of_another_format(tmp_path: Path) -> None:
    # as the length of a safetensors header, the first bytes of a GGUF are 14 GB
    path = small(tmp_path / "m.gguf")
    before = read_gguf(path).fingerprint()
    with path.open("r+b") as file:
        file.truncate(15 * 10**9)
    assert read_gguf(path).fingerprint() != before


def test_yarn_stretches_the_context_as_in_a_checkpoint(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 64}
    keys = {f"llama__rope__scaling__{key}": value for key, value in scaling.items()}
    found = read_gguf(small(tmp_path / "m.gguf", **keys))
    assert found.arch.context == 256
    assert any(
        note.startswith("the GGUF says a context of 64 tokens, and its rope scaling one of 256")
        for note in found.notes
    )


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("backend", ["numpy", "torch", "native"])
@pytest.mark.parametrize("name", ["llama-tied", "qwen3"])
def test_every_engine_runs_it(
    name: str, backend: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    meant, path = open_checkpoint(random_models[name]), tmp_path / "m.gguf"
    write(path, meant.arch, rounded(meant, "Q4_0"), meant.files, {})
    ids = np.random.default_rng(0).integers(0, 4096, (1, 12))
    expected = open_engine(open_gguf(path), "numpy").logits(ids)
    found = open_engine(read_gguf(path).model(), backend, purpose="judging").logits(ids)
    assert np.abs(found - expected).max() < 1e-4


def test_the_parts_of_a_split_file_are_one_source(tmp_path: Path) -> None:
    weight = {"blk.0.ffn_up.weight": np.random.default_rng(3).normal(size=(32, 32))}
    whole = read_gguf(tiny_gguf(tmp_path / "whole.gguf", TOKENS, {}, weight))
    tiny_gguf(tmp_path / "m.gguf", TOKENS, {}, weight, most=4)
    found = read_gguf(tmp_path / "m-00002-of-00003.gguf")
    assert_same_model(found, whole)
    assert found.name == "m"
    assert len(found.shards) == 3


ROPES = [
    Rope(5e5, "llama3", 8.0, 8192),
    Rope(5e5, "llama3", 32.0, 8192),
    Rope(5e5, "llama3", 8.0, 64),
    Rope(1e4, "llama3", 4.0, 2048, 1.0, 2.5),
]


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("rope", ROPES)
def test_the_scaling_of_llama_3_is_found_in_its_table(rope: Rope, head_dim: int) -> None:
    factors = tuple(float(str(factor)) for factor in rope.divisors(head_dim))
    found = as_llama3(Rope(rope.theta, "factors", factors=factors), head_dim)
    assert found == rope


def test_another_table_is_not_taken_for_it() -> None:
    factors = tuple(np.random.default_rng(0).uniform(1, 8, 32).tolist())
    assert as_llama3(Rope(5e5, "factors", factors=factors), 64) is None
    assert as_llama3(Rope(5e5, "factors", factors=(1.0,) * 32), 64) == Rope(5e5)


def every_arch() -> dict[str, Arch]:
    """Sizes of each family and trait."""
    facts = {name: config(name) for name in CONFIGS}
    facts |= {f"experts {name}": SIZES | own for name, (own, _) in MODELS.items()}
    facts |= {f"windowed {name}": facts_of(name) for name in WINDOWED}
    return {name: family_of(found).arch(found) for name, found in facts.items()}


@pytest.mark.parametrize("name", every_arch())
def test_a_config_json_says_the_sizes_that_it_was_made_from(name: str) -> None:
    arch = every_arch()[name]
    family = FAMILIES[arch.family]
    assert family.arch(family.config(arch)) == arch
    assert family.notes(family.config(arch)) == ()


def refused(path: Path, what: str) -> None:
    with pytest.raises(EdgequantError, match=what) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


def small(path: Path, **keys: Any) -> Path:
    named = {key.replace("__", "."): value for key, value in keys.items()}
    return tiny_gguf(path, TOKENS, named)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"general__type": "adapter"}, "is an adapter and not a model; give the whole model"),
        ({"general__type": "imatrix"}, "is an importance matrix .*give it to .*--imatrix"),
        ({"general__type": "mmproj"}, "is the vision tower .*give the .gguf file of its language"),
        ({"tokenizer__ggml__model": "none"}, "has no tokenizer, which calibration and reports"),
        ({"tokenizer__ggml__pre": "nobody"}, "pre-tokenizer is 'nobody', whose rule is not known"),
        ({"llama__attention__causal": False}, "only causal attention is supported"),
    ],
)
def test_a_file_of_another_kind_is_no_source(
    keys: dict[str, Any], what: str, tmp_path: Path
) -> None:
    refused(small(tmp_path / "m.gguf", **keys), what)


def test_an_unknown_architecture_and_no_gguf_are_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    refused(tmp_path / "m.gguf", "has the architecture 'mamba'; supported: ")
    (tmp_path / "x.gguf").write_bytes(b"model")
    refused(tmp_path / "x.gguf", "is not a GGUF file: it does not start with 'GGUF'")


@pytest.mark.parametrize("name", ["m.gguf", "org/m.gguf"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(EdgequantError, match=f"^{name} does not exist; give .*a GGUF file"):
        open_checkpoint(name)


def test_a_head_that_scores_is_no_source(tmp_path: Path) -> None:
    head = {"cls.output.weight": np.zeros((1, 32))}
    path = tiny_gguf(tmp_path / "m.gguf", TOKENS, {}, head)
    refused(path, r"holds 1 tensors that llama does not know \(cls.output.weight\)")


def test_sizes_that_no_config_says_are_named(tmp_path: Path) -> None:
    biases = {"blk.0.attn_q.bias": np.zeros(32)}
    path = tiny_gguf(tmp_path / "m.gguf", TOKENS, {}, biases)
    refused(path, r"has sizes that no config.json of a llama says \(biased\); run the file itself")
    table = {"rope_freqs.weight": np.linspace(2, 5, 8)}
    path = tiny_gguf(tmp_path / "f.gguf", TOKENS, {}, table)
    refused(path, "divides frequencies by a table that is not Llama 3's scaling")


WRONG: list[Any] = [
    *(-1, 0, 1, 2**31, 2**63, 1.5, float("nan"), float("inf"), "", "x", "\0", "../..", "a\nb"),
    *(True, False, np.array([1, 2]), np.array([0.5]), np.array([], "<u4"), ["a"], []),
]
KEYS = {
    "general.license": "mit",
    "general.sampling.temp": 0.5,
    "general.sampling.top_k": 5,
    "llama.pooling_type": 1,
    "llama.rope.freq_base": 1e4,
    "tokenizer.chat_template": "x",
    "tokenizer.chat_template.tool": "y",
    "tokenizer.ggml.padding_token_id": 3,
    "tokenizer.ggml.bos_token_id": 3,
    "tokenizer.ggml.eos_token_id": 4,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_eos_token": True,
    "edgequant.eos_token_ids": [1, 2],
}


@pytest.mark.slow
def test_any_value_of_any_key_is_taken_or_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", TOKENS, KEYS)
    (header,) = read_parts(path)
    refusals = 0
    for key in header.metadata:
        for wrong in WRONG:
            changed = replace(header, metadata=header.metadata | {key: wrong})

            def read(path: Path, found: Header = changed) -> list[Header]:
                check_kinds(path, found.metadata)
                return [found]

            monkeypatch.setattr(gguf_file, "read_parts", read)
            try:
                read_gguf(path)
            except EdgequantError as error:
                refusals += 1
                assert "\n" not in str(error)
                assert "edgequant-" not in str(error), "a folder that nobody knows"
    assert refusals > len(WRONG) * len(KEYS) / 2


def test_adapters_are_not_merged_into_a_file(tmp_path: Path) -> None:
    path = small(tmp_path / "m.gguf")
    with pytest.raises(EdgequantError, match="adapters are merged into checkpoint folders alone"):
        open_checkpoint(path, [tmp_path])


def test_the_sizes_of_two_models_are_told_apart() -> None:
    arch = every_arch()["gemma3"]
    assert unlike(arch, replace(arch, context=1)) == []
    assert unlike(arch, replace(arch, heads=3, rope=Rope(7.0))) == ["heads", "rope"]
