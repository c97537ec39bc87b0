"""Tokenizers and chat templates as people have them: the right ids and texts, or one sentence."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers

import edgequant
from edgequant import CorruptFileError, UnsupportedError
from quantize.checkpoint import bundled, open_checkpoint
from runtime import chat
from runtime.generate import generate_text
from runtime.gguf_file import open_gguf
from runtime.tokenizer import Tokenizer
from tests import tokenizers_made
from tests.conftest import CONFIGS, SIZES
from tests.quantize.inputs import edit, made
from tests.random_checkpoint import random_checkpoint


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
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizers_made.put_around(backend, ["<|endoftext|>"])
    backend.save(str(folder / "tokenizer.json"))
    edit(
        folder,
        "tokenizer_config.json",
        bos_token="<|endoftext|>",
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


def test_an_added_token_that_is_searched_in_normalized_text_is_refused_for_gguf(
    tmp_path: Path,
) -> None:
    backend = tokenizers_made.sentencepiece()
    backend.add_tokens([tokenizers.AddedToken("<tool>", normalized=True)])
    made_folder = tokenizers_made.save(backend, tmp_path / "tokenizer", eos_token="</s>")
    config = SIZES | CONFIGS["llama-tied"] | {"vocab_size": backend.get_vocab_size()}
    random_checkpoint(tmp_path / "model", config, made_folder)
    with pytest.raises(UnsupportedError, match=r"'<tool>' is searched for in normalized text"):
        edgequant.plan(tmp_path / "model", to="gguf:Q8_0", method="rtn")


BROKEN = "{{ messages[0]['content'] + 1 }}"
REASON = 'can only concatenate str (not "int") to str'
PICKY = "{% if messages | length > 1 and messages[0].role == 'system' %}{{ raise_exception('x') }}"


@pytest.mark.slow
def test_a_template_that_fails_is_told_on_the_screen(folder: Path, run: Any) -> None:
    edit(folder, "tokenizer_config.json", chat_template=BROKEN)
    out = folder.parent / "out"
    brief = ("--calib-rows", 4, "--calib-length", 64, "--eval-rows", 1, "--eval-length", 64)
    code, _, err = run("run", folder, "--to", "gguf:Q4_0", "-o", out, *brief)
    assert code == 0
    lines = err.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("layers"))
    assert f"the chat template refuses even a question and its answer: {REASON}" in lines[:first]
    told = f"conversations left out, the chat template refused the messages: {REASON}"
    assert any(line.startswith("heldout text: ") and told in line for line in lines[:first])
    assert any(line.startswith("calibration text: ") and told in line for line in lines)
    notes = json.loads((out / "report.json").read_text())["notes"]
    for kind in ("heldout", "calibration"):
        assert any(told in note and note.startswith(kind) for note in notes)
    facts = gguf.GGUFReader(out / "model-Q4_0.gguf").fields["edgequant.plan"].contents()
    assert "refuses even a question" in facts
    code, _, err = run("generate", folder, "Hi", "--chat", "-n", 1)
    assert (code, " ".join(err.split())) == (2, f"error {chat.REFUSED}{REASON}")
    code, _, err = run("imatrix", folder, "-o", out / "x.gguf", *brief[:4])
    assert code == 0 and told in err


def test_a_template_that_is_picky_is_no_note(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", chat_template=PICKY + "{% endif %}" + TEMPLATE)
    assert open_checkpoint(folder).notes == ()


def test_what_training_left_in_tokenizer_json_changes_no_ids(folder: Path) -> None:
    expected = open_checkpoint(folder).tokenizer.encode("one two three four five")
    path = folder / "tokenizer.json"
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    filled = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    filled |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    edit(folder, "tokenizer.json", truncation=cut, padding=filled)
    assert tokenizers.Tokenizer.from_file(str(path)).encode("one two three").ids[2:] == [0] * 7
    assert open_checkpoint(folder).tokenizer.encode("one two three four five") == expected
    found = open_gguf(made(folder, "gguf:Q8_0")).tokenizer
    assert found is not None and found.encode("one two three four five") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 0.1}, "sets a dropout of 0.1, which gives other ids each time"),
        ({"merges": []}, "has no merges, and llama.cpp opens no GGUF without"),
    ],
)
def test_models_of_a_tokenizer_that_gguf_cannot_say(
    change: dict[str, Any], message: str, folder: Path
) -> None:
    path = folder / "tokenizer.json"
    facts = json.loads(path.read_text())
    facts["model"] |= change
    path.write_text(json.dumps(facts))
    with pytest.raises(UnsupportedError, match=message):
        edgequant.plan(folder, to="gguf:Q8_0", method="rtn")


def test_more_tokens_than_rows_are_told_with_the_last_one(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", pad_token="<pad>")
    with pytest.raises(CorruptFileError, match=r"4097 tokens \(the last is '<pad>'\) but"):
        edgequant.plan(folder, to="gguf:Q8_0", method="rtn")


def test_a_template_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptFileError, match="chat_template.jinja is not UTF-8 text"):
        open_checkpoint(folder)
