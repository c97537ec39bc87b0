"""Scanning stored tensors, and the tokenizer round trip."""

from dataclasses import replace

import numpy as np
import pytest
import tokenizers

from export.gguf_vocab import vocabulary
from quantize.checkpoint import Checkpoint
from quantize.report.scan import CELLS, scan, weights
from quantize.report.tokens import check_tokenizer, failures, own_texts
from quantize.report.torture import TORTURE
from runtime.model import Model
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import Tensor
from runtime.tokenizer import Tokenizer
from tests.quantize.report.conftest import rounded

pytestmark = pytest.mark.slow


def model(checkpoint: Checkpoint, **changed: np.ndarray | None) -> Model:
    """The checkpoint in INT4_32, with some tensors replaced (dots as __) or left out (None)."""
    tensors = {tensor.name: tensor for tensor in rounded(checkpoint, "INT4_32")}
    for key, values in changed.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        if values is not None:
            tensors[name] = Tensor.dense(name, values)
    return Model(checkpoint.arch, tensors)


def test_a_sound_artifact_has_no_problem_and_known_errors(small: Checkpoint) -> None:
    artifact = model(small)
    found = scan(small.model(), artifact)
    assert found.problems == ()
    assert not found.rescaled
    assert [fact.name for fact in found.tensors] == list(artifact.tensors)
    for fact in found.tensors:
        before, after = (m[fact.name].decode() for m in (small.tensors, artifact.tensors))
        expected = float(((after - before) ** 2).sum() / (before**2).sum())
        assert fact.error == pytest.approx(expected, rel=1e-5)
        assert fact.bytes == artifact.tensors[fact.name].nbytes
    assert weights(small.arch) == sum(t.decode().size for t in small.tensors.values())


def test_rows_taken_at_a_time_change_nothing(small: Checkpoint) -> None:
    whole, pieces = (scan(small.model(), model(small), cells) for cells in (CELLS, 1000))
    for one, other in zip(whole.tensors, pieces.tensors, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-9)


def test_nan_and_infinity_are_counted_by_tensor(small: Checkpoint) -> None:
    norm = np.ones(small.arch.hidden, np.float32)
    norm[[2, 5]] = np.nan, np.inf
    found = scan(small.model(), model(small, blk__1__ffn_norm__weight=norm))
    assert found.problems == ("blk.1.ffn_norm.weight holds 2 NaN or infinite values",)
    assert sum(fact.bad for fact in found.tensors) == 2


def test_missing_unknown_and_misshapen_tensors_are_told(small: Checkpoint) -> None:
    artifact = model(
        small,
        blk__0__attn_q__weight=None,
        blk__0__attn_k__bias=np.zeros(5, np.float32),
        rope_freqs__weight=np.ones(4, np.float32),
    )
    found = scan(small.model(), artifact)
    assert found.problems == (
        "1 tensors are missing, the first is blk.0.attn_q.weight",
        "1 tensors are not the model's, the first is rope_freqs.weight",
        "blk.0.attn_k.bias has shape (5,), the original's is (32,)",
    )


def test_scales_moved_into_a_norm_or_a_linear_are_noticed(small: Checkpoint) -> None:
    scale = np.geomspace(0.5, 2, small.arch.hidden).astype(np.float32)
    changed = {"blk__0__ffn_norm__weight": small.tensors["blk.0.ffn_norm.weight"].decode() / scale}
    for name in ("gate", "up"):
        linear = small.tensors[f"blk.0.ffn_{name}.weight"].decode()
        changed[f"blk__0__ffn_{name}__weight"] = linear * scale
    found = scan(small.model(), model(small, **changed))
    assert (found.rescaled, found.faults) == (True, ())
    up = small.tensors["blk.1.ffn_up.weight"].decode()
    scaled = up * np.geomspace(0.5, 2, len(up)).astype(np.float32)[:, None]
    assert scan(small.model(), model(small, blk__1__ffn_up__weight=scaled)).rescaled


def test_a_norm_or_bias_that_is_another_one_is_no_rescaling(small: Checkpoint) -> None:
    changes = {
        "blk.0.ffn_norm.weight": small.tensors["blk.0.ffn_norm.weight"].decode() * 3,
        "output_norm.weight": small.tensors["output_norm.weight"].decode() * 1.1,
        "blk.1.attn_q.bias": small.tensors["blk.1.attn_q.bias"].decode() + 0.5,
    }
    for name, values in changes.items():
        found = scan(small.model(), model(small, **{name.replace(".", "__"): values}))
        assert any(fault.startswith(name) for fault in found.faults)
        assert not found.rescaled


@pytest.mark.parametrize("kind", [name for name, b in QUANT_TYPES.items() if b.fits(256)])
def test_rounding_alone_is_no_rescaling(kind: str, tiny: Checkpoint) -> None:
    # all the types of a layer, down to the coarsest; it shrinks whole tensors by several percent
    qtype = QUANT_TYPES[kind]
    tensors = dict(tiny.tensors.items())
    for name in ("blk.0.attn_v.weight", "blk.0.ffn_up.weight"):
        values = np.array(tiny.tensors[name].decode())
        tensors[name] = Tensor(name, values.shape, qtype, qtype.pack(*qtype.quantize(values)))
    assert not scan(tiny.model(), Model(tiny.arch, tensors)).rescaled


def test_a_tokenizer_agrees_with_itself_on_every_torture_text(tiny: Checkpoint) -> None:
    found = check_tokenizer(tiny.tokenizer, tiny.tokenizer)
    assert found.texts == len(TORTURE) + len(own_texts(tiny.tokenizer)) > len(TORTURE)
    assert (found.different, found.broken, found.notes) == ((), (), ())
    assert failures(found) == []


def test_text_that_the_original_changes_itself_is_no_fault(tiny: Checkpoint) -> None:
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer.backend.to_str())
    backend.normalizer = tokenizers.normalizers.Lowercase()
    lower = replace(tiny.tokenizer, backend=backend)
    found = check_tokenizer(lower, lower, ["abc", "ABC"])
    assert found.lossy == ("ABC",)
    assert failures(found) == []


def test_a_tokenizer_that_changes_text_is_a_fault(tiny: Checkpoint) -> None:
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer.backend.to_str())
    backend.normalizer = tokenizers.normalizers.Lowercase()
    lower = replace(tiny.tokenizer, backend=backend)
    found = check_tokenizer(tiny.tokenizer, lower, ["abc", "ABC"])
    assert found.different == ("ABC",)
    assert found.broken == ("ABC",)
    assert len(failures(found)) == 2


def test_other_end_tokens_and_template_are_told(tiny: Checkpoint) -> None:
    other = replace(tiny.tokenizer, eos=(), chat_template=None)
    notes = check_tokenizer(tiny.tokenizer, other, []).notes
    assert any("does not stop at the original's end tokens" in note for note in notes)
    assert any("has no chat template" in note for note in notes)
    changed = replace(tiny.tokenizer, chat_template="x")
    assert (
        "chat template is not the original's"
        in check_tokenizer(tiny.tokenizer, changed, []).notes[0]
    )


@pytest.mark.parametrize("where", ["prefix", "suffix"])
def test_other_tokens_around_a_text_are_a_fault(tiny: Checkpoint, where: str) -> None:
    other = replace(tiny.tokenizer, **{where: (4093,)})
    assert failures(check_tokenizer(other, other, [])) == []
    for original, artifact in ((tiny.tokenizer, other), (other, tiny.tokenizer)):
        fault = failures(check_tokenizer(original, artifact, []))
        assert len(fault) == 1 and "[4093]" in fault[0]
        assert "before a text" in fault[0] and "after it, the original's" in fault[0]


def test_a_gguf_of_another_tool_stops_at_ends_known_by_their_texts(tiny: Checkpoint) -> None:
    """It names one end token; llama.cpp finds the other one by what it says."""
    table = vocabulary(tiny.folder, tiny.arch.vocab)
    arrays = ("tokenizer.ggml.token_type",)
    found = {key: np.array(value) if key in arrays else value for key, value in table.items()}
    for ours in ("tokenizer.ggml.eot_token_id", "edgequant.eos_token_ids"):
        del found[ours]
    assert len(tiny.tokenizer.eos) == 2
    foreign = Tokenizer.from_gguf(found, tiny.arch.vocab)
    assert foreign is not None
    assert check_tokenizer(tiny.tokenizer, foreign, []).notes == ()
    last = tiny.tokenizer.eos[-1]
    found["tokenizer.ggml.tokens"][last] = "<|another|>"
    other = Tokenizer.from_gguf(found, tiny.arch.vocab)
    assert other is not None
    notes = check_tokenizer(tiny.tokenizer, other, []).notes
    assert notes == (f"the artifact does not stop at the original's end tokens [{last}]",)


def test_an_end_that_a_reader_makes_up_is_told(tiny: Checkpoint) -> None:
    """llama.cpp takes token 11 for the end of a text where a GGUF names none."""
    none = replace(tiny.tokenizer, eos=())
    made_up = replace(tiny.tokenizer, eos=(11,))
    (note,) = check_tokenizer(none, made_up, []).notes
    assert note == "the artifact's readers stop at ',', the original names no end token"
    assert check_tokenizer(none, none, []).notes == ()
