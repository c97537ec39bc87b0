"""Checkpoints as people have them: the right value, or one sentence before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgequant
from edgequant import CorruptFileError, InputError, UnsupportedError
from quantize.checkpoint import bundled, open_checkpoint
from tests.conftest import CONFIGS, SIZES
from tests.quantize.inputs import edit, made
from tests.random_checkpoint import random_checkpoint

FILES = [
    (file, text)
    for file in ("config.json", "generation_config.json", "tokenizer_config.json")
    for text in ("[]", "null", "3")
]
FIELDS: list[tuple[str, Any]] = [
    ("eos_token_id", [4093, None]),
    ("eos_token_id", "4093"),
    ("bos_token_id", [4093]),
    ("intermediate_size", [160, 160]),
    ("max_position_embeddings", None),
    ("max_position_embeddings", 10**12),
    ("rms_norm_eps", None),
    ("rms_norm_eps", "1e-6"),
    ("num_attention_heads", 0),
    ("hidden_size", -96),
    ("rope_scaling", "linear"),
    ("rope_scaling", {"type": "linear", "factor": "2"}),
    ("rms_norm_eps", -1e-6),
    ("rms_norm_eps", 1e-60),  # 0 as float32
    ("rope_theta", 0),
    ("rope_theta", -1e4),
    ("rope_theta", 1e60),  # none as float32
    ("tie_word_embeddings", "yes"),
    ("hidden_act", 1),
]


@pytest.mark.parametrize(("file", "text"), FILES)
def test_a_file_of_another_kind_is_one_sentence(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    with pytest.raises(CorruptFileError, match=f"{file}: the file is not what it must be"):
        open_checkpoint(folder)


@pytest.mark.parametrize(("key", "value"), FIELDS)
def test_a_field_of_another_kind_is_named(key: str, value: Any, folder: Path) -> None:
    edit(folder, **{key: value})
    with pytest.raises(CorruptFileError, match=f"config.json: {key}") as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_key_value_heads": 4}, "6 attention heads do not share 4 key-value heads"),
        ({"head_dim": 15}, "heads of 15 channels cannot be rotated"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    facts: dict[str, Any], message: str, folder: Path
) -> None:
    edit(folder, **facts)
    with pytest.raises(CorruptFileError, match=message):
        open_checkpoint(folder)


def test_a_qwen2_with_heads_of_their_own_width_is_refused_for_gguf_alone(tmp_path: Path) -> None:
    config = SIZES | CONFIGS["qwen2-tied"] | {"head_dim": 32}
    random_checkpoint(tmp_path / "model", config, bundled())
    with pytest.raises(UnsupportedError, match=r"heads times head_dim .* write an ONNX folder"):
        edgequant.plan(tmp_path / "model", to="gguf:Q8_0", method="rtn", check=False)
    made(tmp_path / "model", "onnx:int4")


def test_adapters_are_named(folder: Path) -> None:
    edit(folder, "adapter_config.json", peft_type="LORA")
    with pytest.raises(
        UnsupportedError, match=r"adapter beside its model .*merge it with --adapter"
    ):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedError, match="is a LoRA adapter, not a model; .* --adapter"):
        open_checkpoint(folder)


def test_a_float_model_with_a_quantization_config_is_read(folder: Path) -> None:
    edit(folder, quantization_config={"load_in_4bit": True})
    assert "every tensor is a float" in open_checkpoint(folder).notes[0]
    edit(folder, quantization_config=None)
    assert open_checkpoint(folder).notes == ()


def test_a_head_of_its_own_is_kept_in_every_container(folder: Path) -> None:
    shard = next(path for path in folder.glob("*.safetensors") if "token_embd" in path.name)
    index = folder / "model.safetensors.index.json"
    values = load_file(shard)
    head = values["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(values | {"lm_head.weight": head}, shard, metadata={"format": "pt"})
    table = json.loads(index.read_text())["weight_map"] | {"lm_head.weight": shard.name}
    index.write_text(json.dumps({"weight_map": table}))
    said = edgequant.quantize(
        folder,
        to=["gguf:F32", "onnx:fp32"],
        output=folder.parent / "out",
        method="rtn",
        check=False,
    )
    assert any("lm_head.weight" in note for note in said.notes)
    expected = edgequant.load(folder).logits(np.arange(8))
    for artifact in said.artifacts:
        found = edgequant.load(artifact.path).logits(np.arange(8))
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    notes = gguf.GGUFReader(said.artifacts[0].path).fields["edgequant.plan"].contents()
    assert "lm_head.weight" in notes


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    values: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        values |= load_file(shard)
    return values


@pytest.mark.parametrize(
    ("prefix", "note"),
    [
        ("base_model.model.model.", "the prefix base_model.model. was taken off"),
        ("_orig_mod.model.", "_orig_mod was taken out of the tensors' names"),
        ("", "model. was put before every tensor's name"),
    ],
)
def test_names_under_a_prefix_are_read(prefix: str, note: str, folder: Path) -> None:
    expected = edgequant.load(folder).logits(np.arange(8))
    values = whole(folder)
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    named = {prefix + name.removeprefix("model."): value for name, value in values.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    assert note in " ".join(open_checkpoint(folder).notes)
    assert np.array_equal(edgequant.load(folder).logits(np.arange(8)), expected)


@pytest.mark.parametrize("shards", ["there", "gone"])
def test_a_single_file_counts_before_an_index_beside_it(shards: str, folder: Path) -> None:
    old = edgequant.load(folder).logits(np.arange(8))
    values = whole(folder)
    values["model.norm.weight"] = values["model.norm.weight"] * 2
    if shards == "gone":
        for path in folder.glob("*.safetensors"):
            path.unlink()
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.safetensors was read" in open_checkpoint(folder).notes[0]
    np.testing.assert_allclose(edgequant.load(folder).logits(np.arange(8)), 2 * old, 1e-3, 1e-3)


def test_a_pointer_of_git_lfs_is_named(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    with pytest.raises(CorruptFileError, match="is a pointer of Git LFS, not the file itself"):
        open_checkpoint(folder)


def test_windows_longer_than_the_context_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="length must be at most .* context of 256, not 512"):
        edgequant.plan(folder, to="gguf:Q4_0", length=512)


def test_a_model_of_the_hubs_cache_has_its_own_name(folder: Path) -> None:
    commit = folder.parent / "models--Acme--Tiny-Qwen" / "snapshots" / ("0123456789abcdef" * 2)
    blobs = commit.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    commit.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / f"{number:040x}")
        (commit / file.name).symlink_to(blobs / f"{number:040x}")
    path = made(commit, "gguf:Q4_0")
    assert path.name == "Tiny-Qwen-Q4_0.gguf"
    assert gguf.GGUFReader(path).fields["general.name"].contents() == "Tiny-Qwen"


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_nan_in_rows_that_no_token_uses_is_told_before_work(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_checkpoint(folder, SIZES | CONFIGS["qwen2-tied"] | {"vocab_size": 4160}, bundled())
    shard = next(path for path in folder.glob("*.safetensors") if "token_embd" in path.name)
    values = load_file(shard)
    values["model.embed_tokens.weight"][4100:] = float("nan")
    save_file(values, shard, metadata={"format": "pt"})
    for call in (edgequant.plan, edgequant.quantize):
        message = "token_embd.weight holds NaN or infinity in 60 rows, the first is 4100, which no"
        with pytest.raises(CorruptFileError, match=message):
            call(folder, to="gguf:Q8_0", output=tmp_path / "out", method=method, length=64)


@pytest.mark.parametrize(("to", "count"), [("gguf:F16", 3), ("gguf:BF16", 0), ("gguf:F32", 0)])
def test_values_that_float16_cannot_hold_are_told(to: str, count: int, folder: Path) -> None:
    shard = folder / "model-1.safetensors"
    values = load_file(shard)
    values["model.layers.1.mlp.up_proj.weight"][3, :3] = 99_000.0
    save_file(values, shard, metadata={"format": "pt"})
    (forecast,) = edgequant.plan(folder, to=to, method="rtn", check=False).targets
    assert sum(tensor.clipped for tensor in forecast.tensors) in (0, count)
    made = edgequant.quantize(folder, to, folder.parent / "out", method="rtn", check=False)
    told = [note for note in made.notes if "clipped" in note]
    assert len(told) == bool(count)
    if count:
        assert f"blk.1.ffn_up.weight: F16 cannot hold {count} values, the largest 98816" in told[0]


def test_yarn_as_the_model_card_says_it_gives_the_longer_context(folder: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit(folder, rope_scaling=yarn)
    assert open_checkpoint(folder).arch.context == 1024
    path = made(folder, "onnx:fp32")
    assert json.loads((path / "genai_config.json").read_text())["model"]["context_length"] == 1024
    assert np.isfinite(edgequant.load(path).logits(np.arange(600))).all()


def test_an_exact_ramp_is_refused_for_gguf(folder: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "truncate": False}
    edit(folder, rope_scaling=yarn)
    with pytest.raises(UnsupportedError, match="truncate to false, and llama.cpp rounds"):
        edgequant.plan(folder, to="gguf:Q8_0", method="rtn")


@pytest.mark.slow
def test_a_folder_of_genai_alone_ends_texts_where_it_says(folder: Path) -> None:
    edit(folder, "generation_config.json", eos_token_id=[4095, 4093])
    path = made(folder, "onnx:int8")
    for name in ("config.json", "generation_config.json"):
        (path / name).unlink()
    report = edgequant.check(path, against=folder, eval_rows=1, eval_length=64)
    assert not any("end tokens" in note for note in report.results[0].notes)
    settings = json.loads((path / "genai_config.json").read_text())
    settings["model"]["eos_token_id"] = 4093
    (path / "genai_config.json").write_text(json.dumps(settings))
    where = r"genai_config.json: model.eos_token_id is 4093, and must be \[4095, 4093\]"
    with pytest.raises(edgequant.GateError, match=where) as told:
        edgequant.check(path, against=folder, eval_rows=1, eval_length=64)
    (result,) = told.value.result.results
    assert "does not stop at the original's end tokens [4095]" in str(result.notes)


def test_the_plan_says_what_is_read_otherwise_and_what_is_too_large(folder: Path, run: Any) -> None:
    shard = folder / "model-1.safetensors"
    values = load_file(shard)
    values["model.layers.1.mlp.up_proj.weight"][0, 0] = 99_000.0
    save_file(values, shard, metadata={"format": "pt"})
    edit(folder, quantization_config={"load_in_4bit": True})
    code, out, _ = run("plan", folder, "--to", "gguf:Q4_0", "--method", "rtn", "--no-check")
    assert code == 0
    assert "blk.1.ffn_up.weight: Q4_0 cannot hold 1 values of the rows" not in out  # 524,032
    assert "every tensor is a float: it is ignored" in out
    code, out, _ = run("plan", folder, "--to", "gguf:F16", "--method", "rtn", "--no-check")
    assert "blk.1.ffn_up.weight: F16 cannot hold 1 values of the rows that were looked at" in out
