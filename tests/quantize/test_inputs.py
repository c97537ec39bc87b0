"""Checkpoints as people have them: the right value, or one sentence before any work."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from safetensors.torch import load_file, save_file

import edgequant
from edgequant import CorruptFileError, InputError, UnsupportedError
from quantize.checkpoint import bundled, open_checkpoint
from runtime import chat
from runtime.generate import generate_text
from runtime.gguf_file import open_gguf
from runtime.tokenizer import Tokenizer
from tests.conftest import CONFIGS, SIZES
from tests.random_checkpoint import random_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random Qwen2 that a test changes."""
    random_checkpoint(tmp_path / "model", SIZES | CONFIGS["qwen2-tied"], bundled())
    return tmp_path / "model"


def edit(folder: Path, file: str = "config.json", **values: Any) -> None:
    path = folder / file
    found = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps(found))


def made(folder: Path, to: str, **settings: Any) -> Path:
    """The artifact of a checkpoint, rounded to nearest and not judged."""
    flags = {"method": "rtn", "check": False, "overwrite": True} | settings
    output = folder.parent / "out"
    return edgequant.quantize(folder, to=to, output=output, **flags).artifacts[0].path


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
    ("rope_theta", 0),
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


@pytest.mark.parametrize("key", ["normalizer", "pre_tokenizer", "added_tokens", "decoder"])
def test_a_tokenizer_without_a_part_is_read_or_refused(key: str, folder: Path) -> None:
    path = folder / "tokenizer.json"
    facts = json.loads(path.read_text())
    facts.pop(key)
    path.write_text(json.dumps(facts))
    edit(folder, "tokenizer_config.json", added_tokens_decoder={})
    try:
        made(folder, "gguf:Q8_0")
    except edgequant.EdgequantError as error:
        assert "\n" not in str(error)


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
        edgequant.plan(tmp_path / "model", to="gguf:Q8_0", method="rtn")
    made(tmp_path / "model", "onnx:int4")


def test_adapters_are_named(folder: Path) -> None:
    edit(folder, "adapter_config.json", peft_type="LORA")
    with pytest.raises(UnsupportedError, match=r"adapter beside its model .*merge it"):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedError, match="is a LoRA adapter, not a model; merge it"):
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


def test_tokens_that_other_files_add_reach_the_artifacts(folder: Path) -> None:
    names = ["<tool_0>", "<tool_1>"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "added_tokens.json").write_text(
        json.dumps({n: 4096 + i for i, n in enumerate(names)})
    )
    random_checkpoint(folder, SIZES | CONFIGS["qwen2-tied"] | {"vocab_size": 4098}, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    text = "a <tool_0> and<tool_1>"
    expected = open_checkpoint(folder).tokenizer.encode(text)
    assert {4096, 4097} <= set(expected)
    gguf_file, onnx_folder = made(folder, "gguf:Q8_0"), made(folder, "onnx:int4")
    found = open_gguf(gguf_file).tokenizer
    assert found is not None and found.encode(text) == expected
    alone = tokenizers.Tokenizer.from_file(str(onnx_folder / "tokenizer.json"))
    assert alone.encode(text, add_special_tokens=False).ids == expected


def test_a_token_with_another_id_than_its_file_says_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"]["4100"] = {"content": "<far>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedError, match="'<far>' the id 4100, but it has the id 4096"):
        open_checkpoint(folder)


@pytest.mark.parametrize("change", ["moved", "swapped", "far", "taken"])
def test_ids_of_tokenizer_json_that_nobody_reads_are_refused(change: str, folder: Path) -> None:
    path = folder / "tokenizer.json"
    facts = json.loads(path.read_text())
    tokens = facts["added_tokens"]
    if change == "moved":
        tokens[1]["id"] = 4096
    elif change == "swapped":
        tokens.reverse()
    else:
        tokens.append(tokens[0] | {"content": "<new>", "id": 4099 if change == "far" else 7})
    path.write_text(json.dumps(facts))
    edit(folder, "tokenizer_config.json", added_tokens_decoder={})
    message = r"gives the token '<.*>' the id \d+, but it has the id \d+, because ids before it"
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(folder)


TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("form", ["list", "mapping", "files"])
def test_templates_of_several_names_are_kept(form: str, folder: Path) -> None:
    templates = {"default": TEMPLATE, "tool_use": TEMPLATE + "!"}
    if form == "files":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(TEMPLATE + "!")
    else:
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        value = listed if form == "list" else templates
        edit(folder, "tokenizer_config.json", chat_template=value)
    fields = gguf.GGUFReader(made(folder, "gguf:Q8_0")).fields
    assert fields["tokenizer.chat_template"].contents() == TEMPLATE
    assert fields["tokenizer.chat_template.tool_use"].contents() == TEMPLATE + "!"
    assert fields["tokenizer.chat_templates"].contents() == ["tool_use"]
    written = json.loads((made(folder, "onnx:int4") / "tokenizer_config.json").read_text())
    if form != "files":
        assert written["chat_template"] == TEMPLATE


MESSAGES = [{"role": "user", "content": "<é>"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages[0].content | tojson(ensure_ascii=False) }}", '"<é>"'),
        ("{{ messages | tojson(indent=1, separators=(',', ':'), sort_keys=True) }}", None),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "user"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ tools is none and documents is none }}", "True"),
    ],
)
def test_templates_may_use_what_transformers_offers(template: str, text: str | None) -> None:
    found = chat.render(template, {"messages": MESSAGES})
    expected = json.dumps(
        MESSAGES, ensure_ascii=False, indent=1, separators=(",", ":"), sort_keys=True
    )
    assert found == (expected if text is None else text)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 // 0 }}",
        "{{ messages + 1 }}",
        "{% for %}",
        "{{ raise_exception('no system') }}",
        "{{ messages | tojson(wrong=1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content.encode('idna').nothing() }}",
    ],
)
def test_whatever_fails_in_a_template_is_one_sentence(template: str) -> None:
    with pytest.raises(ValueError, match="^the chat template refused the messages: .+") as caught:
        chat.render(template, {"messages": MESSAGES})
    assert "\n" not in str(caught.value)


def test_bos_is_there_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    edit(
        folder,
        "tokenizer_config.json",
        bos_token="<|endoftext|>",
        add_bos_token=True,
        chat_template="{{ bos_token }}" + TEMPLATE,
    )
    engine = edgequant.load(folder)._engine
    tokenizer = engine.tokenizer
    assert isinstance(tokenizer, Tokenizer)
    seen: list[list[int]] = []
    real = engine.logits

    def logits(ids: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
        seen.append(ids.reshape(-1).tolist())
        return real(ids, *rest, **more)

    monkeypatch.setattr(engine, "logits", logits)
    for prompt in (tokenizer.render(MESSAGES), "plain"):
        seen.clear()
        list(generate_text(engine, prompt, 1))
        assert seen[0].count(4093) == 1
        assert seen[0][0] == 4093


def test_windows_longer_than_the_context_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="length must be at most .* context of 256, not 512"):
        edgequant.plan(folder, to="gguf:Q4_0")


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


def test_rows_without_a_token_have_names_that_no_token_has(tmp_path: Path) -> None:
    config = SIZES | CONFIGS["qwen2-tied"] | {"vocab_size": 4100}
    random_checkpoint(tmp_path / "model", config, bundled())
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"]["4096"] = {"content": "[PAD4098]"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    fields = gguf.GGUFReader(made(tmp_path / "model", "gguf:Q8_0")).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[4096:] == ["[PAD4098]", "[PAD4097]", "[[PAD4098]]", "[PAD4099]"]
    assert len(set(tokens)) == 4100


def test_a_check_against_another_model_renames_nothing(folder: Path, tmp_path: Path) -> None:
    path = made(folder, "gguf:Q8_0")
    config = SIZES | CONFIGS["qwen2-tied"] | {"num_hidden_layers": 3}
    random_checkpoint(tmp_path / "other", config, bundled())
    with pytest.raises(InputError, match="2 layers .* and other 3 of .* another model; give that"):
        edgequant.check(path, against=tmp_path / "other", eval_rows=1, eval_length=64, reject=True)
    assert path.exists()


def test_what_is_no_artifact_is_never_renamed_or_deleted(folder: Path) -> None:
    diary = folder.with_name("model.rejected")
    diary.mkdir()
    (diary / "notes.txt").write_text("mine")
    gates: dict[str, Any] = {"max_kl": 0, "min_top1": 1, "max_ppl_ratio": 0}
    with pytest.raises(edgequant.GateError, match="gate failed") as caught:
        edgequant.check(folder, against=folder, eval_rows=1, eval_length=64, reject=True, **gates)
    assert folder.exists() and (diary / "notes.txt").read_text() == "mine"
    assert "keeps its name" in str(caught.value.result.results[0].notes)
    path = made(folder, "gguf:Q8_0")
    older = path.with_name(path.name + ".rejected")
    older.mkdir()
    (older / "notes.txt").write_text("mine")
    with pytest.raises(edgequant.GateError):
        edgequant.check(path, against=folder, eval_rows=1, eval_length=64, reject=True, **gates)
    assert path.exists() and (older / "notes.txt").exists()


def test_overwrite_replaces_artifacts_alone(folder: Path) -> None:
    out = folder.parent / "out"
    diary = out / "model-int4-onnx"
    diary.mkdir(parents=True)
    (diary / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no artifact, so it is not overwritten"):
        made(folder, "onnx:int4")
    assert (diary / "notes.txt").read_text() == "mine"
    (out / "model-Q8_0.gguf").mkdir()
    with pytest.raises(InputError, match="is a folder; move it away"):
        made(folder, "gguf:Q8_0")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_kl": float("nan")}, "max_kl must be at least 0, not nan"),
        ({"max_kl": float("inf")}, "max_kl must be at least 0, not inf"),
        ({"min_top1": 85}, "min_top1 must be at least 0 and at most 1, not 85"),
        ({"max_ppl_ratio": -1}, "max_ppl_ratio must be at least 0, not -1"),
    ],
)
def test_check_refuses_limits_before_it_measures(
    limits: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        edgequant.check(folder / "none.gguf", against=folder, **limits)


def test_a_report_folder_that_is_a_file_is_refused_before_work(folder: Path) -> None:
    (folder.parent / "report").write_text("")
    with pytest.raises(InputError, match="report is a file; choose another folder"):
        edgequant.check(folder / "none.gguf", against=folder, report=folder.parent / "report")


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
