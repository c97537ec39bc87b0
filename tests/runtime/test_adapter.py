"""Adapters against W + scale B A written out, and the sentences for those that cannot be merged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgequant
from edgequant import CorruptFileError, InputError, UnsupportedError
from quantize.checkpoint import bundled, open_checkpoint
from quantize.inspection import describe
from quantize.plan import Plan
from runtime.engine import open_engine
from tests.conftest import config
from tests.moe_models import QWEN3, moe
from tests.random_checkpoint import random_checkpoint

Q = "base_model.model.model.layers.0.self_attn.q_proj"
EMBED = "base_model.model.model.embed_tokens"
WIDTH, VOCAB = 96, 4096


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small"
    random_checkpoint(folder, config("qwen2-tied"), bundled())
    return folder


def made(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    """A folder as PEFT saves it."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | settings))
    return folder


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


def factors(name: str = Q, rank: int = 4) -> dict[str, torch.Tensor]:
    a, b = normal(rank, WIDTH), normal(WIDTH, rank)
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


def value(checkpoint: Any, name: str) -> np.ndarray:
    return np.array(checkpoint.tensors[name].decode())


def slow(
    weight: np.ndarray, a: torch.Tensor, b: torch.Tensor, scale: float, lengths: Any = None
) -> np.ndarray:
    """The merged weight, one output at a time, in float64."""
    out = np.zeros(weight.shape)
    for row in range(len(weight)):
        out[row] = weight[row] + scale * (b[row].double().numpy() @ a.double().numpy())
        if lengths is not None:
            out[row] *= lengths[row] / np.sqrt((out[row] ** 2).sum())
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_a_weight_is_w_and_scale_b_a(
    dtype: torch.dtype, dora: bool, base: Path, tmp_path: Path
) -> None:
    tensors = {name: values.to(dtype) for name, values in factors().items()}
    a, b = tensors.values()
    lengths = normal(WIDTH).abs().to(dtype)
    if dora:
        tensors[f"{Q}.lora_magnitude_vector"] = lengths
    adapter = made(tmp_path / "mine", tensors, r=4, lora_alpha=10, use_dora=dora)
    before, after = open_checkpoint(base), open_checkpoint(base, [adapter])
    name = "blk.0.attn_q.weight"
    expected = slow(value(before, name), a, b, 2.5, lengths.double().numpy() if dora else None)
    np.testing.assert_allclose(value(after, name), expected, rtol=1e-4, atol=1e-5)
    assert after.tensors[name].qtype.name == "F32"
    for other in set(before.tensors) - {name}:
        assert np.array_equal(value(before, other), value(after, other))


def test_the_artifact_names_the_adapter_and_the_base(base: Path, tmp_path: Path) -> None:
    adapter = made(tmp_path / "mine", factors(), r=4, base_model_name_or_path="org/small")
    found = open_checkpoint(base, [adapter])
    assert found.name == "small-mine"
    assert found.facts["base"] == "small"
    assert found.facts["adapters"][0] | {"sha256": ""} == {
        "name": "mine", "base": "org/small", "ranks": [4], "sha256": ""
    }  # fmt: skip
    sha256 = found.facts["adapters"][0]["sha256"]
    told = (
        f"the adapter mine (LoRA of rank 4, sha256 {sha256[:12]}) was merged into small in float32"
    )
    assert found.notes == (told,)
    twice = {name: values * 2 for name, values in factors().items()}
    other = made(tmp_path / "other", twice, r=4, base_model_name_or_path="/home/me/large")
    assert open_checkpoint(base, [other]).notes[1] == (
        "other names large as its base; whether small is the same cannot be verified"
    )
    prints = {open_checkpoint(base, use).fingerprint() for use in ([], [adapter], [other])}
    assert len(prints) == 3


def test_one_of_a_tied_pair_changes_alone(base: Path, tmp_path: Path) -> None:
    a, b = normal(4, WIDTH), normal(VOCAB, 4)
    head = {
        "base_model.model.lm_head.lora_A.weight": a,
        "base_model.model.lm_head.lora_B.weight": b,
    }
    found = open_checkpoint(base, [made(tmp_path / "mine", head, r=4, lora_alpha=4)])
    before = value(open_checkpoint(base), "token_embd.weight")
    assert not found.arch.tied
    assert np.array_equal(value(found, "token_embd.weight"), before)
    np.testing.assert_allclose(value(found, "output.weight"), slow(before, a, b, 1), atol=1e-4)


def test_an_equal_change_of_both_keeps_them_tied(base: Path, tmp_path: Path) -> None:
    copy = normal(VOCAB, WIDTH)
    both = {f"{EMBED}.weight": copy, "base_model.model.lm_head.weight": copy.clone()}
    found = open_checkpoint(base, [made(tmp_path / "mine", both)])
    assert found.arch.tied
    assert np.array_equal(value(found, "token_embd.weight"), copy.numpy())
    a, b = normal(4, VOCAB), normal(WIDTH, 4)
    both = {
        f"{EMBED}.lora_embedding_A": a,
        f"{EMBED}.lora_embedding_B": b,
        "base_model.model.lm_head.lora_A.weight": b.T.contiguous(),
        "base_model.model.lm_head.lora_B.weight": a.T.contiguous(),
    }
    assert open_checkpoint(base, [made(tmp_path / "two", both, r=4)]).arch.tied


A = f"{Q}.lora_A.weight"
REFUSED: list[tuple[str, dict[str, torch.Tensor], dict[str, Any], type[Exception], str]] = [
    ("another method", {}, {"peft_type": "IA3"}, UnsupportedError, "of the kind IA3"),
    ("aLoRA", {}, {"alora_invocation_tokens": [1]}, UnsupportedError, "alora_invocation_tokens"),
    ("pissa", {}, {"init_lora_weights": "pissa"}, UnsupportedError, "'pissa', which changed"),
    ("rank", {}, {"r": 8}, CorruptFileError, r"says rank 8"),
    ("pattern", {}, {"alpha_pattern": {"(": 2}}, CorruptFileError, "no pattern"),
    ("dora", {}, {"use_dora": True}, CorruptFileError, "does not hold for .*q_proj"),
    ("half", {A: torch.zeros(0)}, {}, CorruptFileError, r"factors of shape \(0,\)"),
    (
        "width",
        {A: normal(4, 64)},
        {},
        UnsupportedError,
        r"does not fit .*\(96, 96\); give the base",
    ),
    ("integers", {A: torch.zeros(4, 96).int()}, {}, UnsupportedError, "as I32"),
    ("layer", factors(Q.replace("0", "7")), {}, UnsupportedError, "layers.7.* does not have"),
    ("unknown", {f"{Q}.lora_C.weight": normal(4)}, {}, UnsupportedError, "lora_C.* does not have"),
    ("copy", {f"{EMBED}.weight": normal(9, 3)}, {}, UnsupportedError, "does not fit model.embed"),
    ("field", {}, {"lora_alpha": "16"}, CorruptFileError, "lora_alpha is not what it must be"),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_merged_is_a_sentence(case: Any, base: Path, tmp_path: Path) -> None:
    _, tensors, settings, kind, message = case
    adapter = made(tmp_path / "mine", factors() | tensors, **{"r": 4, **settings})
    with pytest.raises(kind, match=message) as caught:
        open_checkpoint(base, [adapter])
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_adapter_are_sentences(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no adapter_config.json; give --adapter"):
        open_checkpoint(base, [base])
    adapter = made(tmp_path / "mine", factors(), r=4)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UnsupportedError, match="holds a pickled adapter"):
        open_checkpoint(base, [adapter])
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(CorruptFileError, match="holds no adapter_model.safetensors"):
        open_checkpoint(base, [adapter])


def test_an_unknown_setting_is_told(base: Path, tmp_path: Path) -> None:
    found = open_checkpoint(base, [made(tmp_path / "mine", factors(), r=4, use_magic=True)])
    assert "adapter_config.json of mine has use_magic, which is not read" in found.notes


@pytest.mark.slow
def test_artifacts_are_those_of_the_merged_model(base: Path, tmp_path: Path) -> None:
    head = "base_model.model.lm_head"
    tensors = factors() | {
        f"{head}.lora_A.weight": normal(4, WIDTH),
        f"{head}.lora_B.weight": normal(VOCAB, 4) * 0.01,
    }
    adapter = made(tmp_path / "mine", tensors, r=4)
    judged: dict[str, Any] = {"eval_rows": 2, "eval_length": 64}
    result = edgequant.quantize(
        base,
        to=["gguf:F32", "onnx:fp32"],
        output=tmp_path / "out",
        adapter=adapter,
        method="rtn",
        **judged,
    )
    assert result.report is not None
    assert all(found.metrics.kl < 1e-5 for found in result.report.results)
    files = [artifact.path for artifact in result.artifacts]
    assert [file.name for file in files] == ["small-mine-F32.gguf", "small-mine-fp32-onnx"]
    for file in files:
        recipe = describe(file)["provenance"]
        assert '"name": "mine"' in json.dumps(recipe).replace("\\", "")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the adapter mine (LoRA of rank 4, sha256" in card
    merged = edgequant.check(files, base, adapter=[adapter], **judged)
    with pytest.raises(
        edgequant.GateError, match=r"output.weight differs from the original's"
    ) as told:
        edgequant.check(files, base, **judged)
    alone = told.value.result
    assert max(found.metrics.kl for found in merged.results) < 1e-5
    assert min(found.metrics.kl for found in alone.results) > 0.01


def test_a_plan_file_names_adapters(base: Path, tmp_path: Path) -> None:
    adapter = made(tmp_path / "mine", factors(), r=4)
    (tmp_path / "plan.toml").write_text(
        f'to = ["gguf:Q8_0"]\nmethod = "rtn"\nadapter = ["{adapter}"]\n'
    )
    plan = Plan.from_flags(tmp_path / "plan.toml", {"model": str(base)})
    assert plan.adapter == (str(adapter),)
    assert edgequant.plan(plan=plan, check=False).model == "small-mine"
    with pytest.raises(InputError, match="adapter must be a path, not 3"):
        edgequant.plan(base, to="gguf:Q8_0", method="rtn", adapter=[3])  # type: ignore[list-item]


def test_a_checkpoint_is_loaded_with_its_adapter(base: Path, tmp_path: Path) -> None:
    adapter = made(tmp_path / "mine", factors(), r=4)
    model = open_checkpoint(base, [adapter]).model()
    expected = open_engine(model, "numpy").logits(np.array([[1, 2, 3]]))
    found = edgequant.load(base, "numpy", adapter=adapter).logits([[1, 2, 3]])
    assert np.array_equal(found, expected)
    with pytest.raises(InputError, match="adapters are merged into checkpoints alone"):
        edgequant.load(base, "llamacpp", adapter=[adapter])


@pytest.mark.parametrize("start", ["", "base_model.model.", "base_model.model._orig_mod.model."])
def test_names_of_an_adapter_may_be_wrapped_or_bare(start: str, base: Path, tmp_path: Path) -> None:
    name = start + "layers.0.self_attn.q_proj"
    found = open_checkpoint(base, [made(tmp_path / "bare", factors(name), r=4)])
    usual = open_checkpoint(base, [made(tmp_path / "usual", factors(), r=4)])
    assert np.array_equal(value(found, "blk.0.attn_q.weight"), value(usual, "blk.0.attn_q.weight"))


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_may_change_some_experts_of_a_weight(whole: bool, tmp_path: Path) -> None:
    folder = moe(tmp_path / "base", QWEN3)
    before = open_checkpoint(folder)
    module = "model.layers.0.mlp.experts.3.up_proj"
    a, b, own = normal(4, 64), normal(32, 4), normal(32, 64)
    start = f"base_model.model.{module}"
    tensors = {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}
    tensors = {f"{start}.weight": own} if whole else tensors
    after = open_checkpoint(folder, [made(tmp_path / "mine", tensors, r=4, lora_alpha=8)])
    name = "blk.0.ffn_up_exps.weight"
    assert before.tensors[name].qtype.name == "BF16"
    assert after.tensors[name].qtype.name == "F32"
    expected = value(before, name).astype(np.float64).reshape(6, 32, 64)
    expected[3] = own if whole else slow(expected[3], a, b, 2)
    found = value(after, name).reshape(6, 32, 64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after.tensors.matrix(name, 2).decode(), expected[2])


def test_an_adapter_of_one_expert_needs_a_base_with_a_tensor_for_each(tmp_path: Path) -> None:
    folder = moe(tmp_path / "base", QWEN3, fuse=True)
    tensors = factors("base_model.model.model.layers.0.mlp.experts.3.up_proj")
    with pytest.raises(UnsupportedError, match=r"a single expert.*experts\.gate_up_proj"):
        open_checkpoint(folder, [made(tmp_path / "mine", tensors, r=4)])


def test_an_adapter_with_a_scoring_head_says_which_base_it_wants(
    base: Path, tmp_path: Path
) -> None:
    tensors = factors() | {"base_model.model.score.weight": normal(1, WIDTH)}
    adapter = made(tmp_path / "mine", tensors, r=4, task_type="SEQ_CLS")
    with pytest.raises(UnsupportedError, match=r"score\.weight .* AutoModelForSequenceClassif"):
        open_checkpoint(base, [adapter])
