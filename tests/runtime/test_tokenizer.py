"""The tokenizer, its special ids and its chat template, as the checkpoint's files say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from quantize.checkpoint import Checkpoint, bundled
from quantize.report.torture import TORTURE
from runtime.errors import EdgequantError
from runtime.json_files import read_json
from runtime.tokenizer import Tokenizer
from runtime.tokenizer_class import replaced_rules
from tests.tokenizers_made import put_around

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled tokenizer, whose files a test may change."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(bundled() / name, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def edit(folder: Path, name: str, **changes: Any) -> Tokenizer:
    """The tokenizer after some keys of a JSON file changed; ... removes one."""
    values = read_json(folder / name) | changes
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / name).write_text(json.dumps(kept))
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("text", TORTURE, ids=range(len(TORTURE)))
def test_torture_texts_survive_the_way_there_and_back(text: str, tiny: Checkpoint) -> None:
    ids = tiny.tokenizer.encode(text)
    assert tiny.tokenizer.decode(ids) == tiny.tokenizer.backend.normalizer.normalize_str(text)
    pieces = list(tiny.tokenizer.stream(ids))
    assert "".join(pieces) == tiny.tokenizer.decode(ids, skip_special=True)


def test_special_tokens_in_a_text_are_recognised_and_none_are_added(tiny: Checkpoint) -> None:
    end = tiny.tokenizer.backend.token_to_id("<|im_end|>")
    ids = tiny.tokenizer.encode("a<|im_end|>b")
    assert ids.count(end) == 1
    assert len(ids) == 3
    assert tiny.tokenizer.decode(ids, skip_special=True) == "ab"
    assert tiny.tokenizer.encode("") == []


def test_ids_that_end_a_text_come_in_order_of_authority(folder: Path) -> None:
    edit(folder, "config.json", eos_token_id=7)
    edit(folder, "tokenizer_config.json", eos_token="<|endoftext|>")
    found = edit(folder, "generation_config.json", eos_token_id=[5, 7])
    last = found.backend.token_to_id("<|endoftext|>")
    assert found.eos == (5, 7, last)
    assert found.separator == last
    assert edit(folder, "generation_config.json", eos_token_id=...).eos == (7, last)


def test_a_model_without_any_end_has_no_separator(folder: Path) -> None:
    edit(folder, "generation_config.json", eos_token_id=...)
    found = edit(folder, "tokenizer_config.json", eos_token=..., bos_token=...)
    assert found.eos == ()
    assert found.separator is None


def test_a_bos_token_may_be_text_or_an_object(folder: Path) -> None:
    text = edit(folder, "tokenizer_config.json", bos_token="<|endoftext|>")
    assert text.bos == text.backend.token_to_id("<|endoftext|>")
    item = {"content": "<|endoftext|>", "lstrip": False}
    assert edit(folder, "tokenizer_config.json", bos_token=item).bos == text.bos


START, END = 4094, 4093
AROUND: list[tuple[list[str], list[str]]] = [
    ([], []),
    (["<|endoftext|>"], []),
    (["<|im_start|>"], ["<|endoftext|>"]),
    (["<|endoftext|>", "<|im_start|>"], []),
    ([], ["<|im_start|>", "<|endoftext|>"]),
]


@pytest.mark.parametrize("named", [..., "<|endoftext|>"])
@pytest.mark.parametrize("said", [..., None, True, False])
@pytest.mark.parametrize(("before", "after"), AROUND)
def test_the_post_processor_says_what_stands_around_a_text(
    before: list[str], after: list[str], said: Any, named: Any, folder: Path
) -> None:
    """As in transformers 5, `add_bos_token` beside it says nothing."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    put_around(backend, before, after)
    backend.save(str(folder / "tokenizer.json"))
    keys = {"add_bos_token": said, "add_eos_token": said, "bos_token": named}
    found = edit(folder, "tokenizer_config.json", **keys)
    ids = {"<|endoftext|>": END, "<|im_start|>": START}
    assert found.prefix == tuple(ids[text] for text in before)
    assert found.suffix == tuple(ids[text] for text in after)
    assert found.bos == (END if named is not ... else found.prefix[0] if len(before) == 1 else None)
    assert found.separator == (found.prefix[0] if before else found.eos[-1])
    notes = replaced_rules(folder, {}, found)
    for key, there in (("add_bos_token", before), ("add_eos_token", after)):
        expected = isinstance(said, bool) and said != bool(there)
        assert any(f"{key} ({str(said).lower()})" in note for note in notes) == expected
    assert any("prompts go without" in note for note in found.notes()) == bool(after)
    assert found.encode("<|endoftext|>a") == [END, *found.encode("a")]


def test_a_post_processor_that_does_more_is_refused(folder: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <|endoftext|> $A", pair="$A $B:1", special_tokens=[("<|endoftext|>", END)]
    )
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(EdgequantError, match=r"no text between other tokens; set it to null"):
        Tokenizer.from_folder(folder)


def test_special_tokens_that_are_cut_are_refused(folder: Path) -> None:
    with pytest.raises(EdgequantError, match="sets split_special_tokens, .*; set it to false"):
        edit(folder, "tokenizer_config.json", split_special_tokens=True)
    assert edit(folder, "tokenizer_config.json", split_special_tokens=False).encode("a")


def test_a_chat_template_may_stand_in_three_places(folder: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    listed = edit(folder, "tokenizer_config.json", chat_template=several, bos_token="<s>")
    assert listed.render(messages) == "<s>[user] Hi\n"
    assert listed.render(messages, generate=True) == "<s>[user] Hi\n[assistant]"
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert Tokenizer.from_folder(folder).render(messages) == "Hi!"
    (folder / "chat_template.jinja").unlink()
    found = edit(folder, "tokenizer_config.json", chat_template=several[:1])
    assert found.chat_template is None


def test_templates_run_in_a_sandbox(folder: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    found = edit(folder, "tokenizer_config.json", chat_template=escape)
    with pytest.raises(ValueError, match="the chat template refused the messages"):
        found.render([])


def test_a_template_may_refuse_and_write_json(folder: Path) -> None:
    refusing = "{{ raise_exception('roles must alternate') }}"
    found = edit(folder, "tokenizer_config.json", chat_template=refusing)
    with pytest.raises(ValueError, match="refused the messages: roles must alternate"):
        found.render([])
    found = edit(folder, "tokenizer_config.json", chat_template="{{ messages | tojson(indent=1) }}")
    assert found.render([{"role": "é"}]) == '[\n {\n  "role": "é"\n }\n]'


def test_a_model_without_a_template_says_so(folder: Path) -> None:
    with pytest.raises(ValueError, match="no chat template; use plain text"):
        edit(folder, "tokenizer_config.json", chat_template=...).render([])


def test_a_missing_or_damaged_tokenizer_is_one_sentence(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(EdgequantError, match="tokenizer.json cannot be read: "):
        Tokenizer.from_folder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EdgequantError, match="has no tokenizer.json; save it there with"):
        Tokenizer.from_folder(folder)


def test_json_that_is_not_json_is_one_sentence(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}
    (tmp_path / "some.json").write_text("{")
    with pytest.raises(EdgequantError, match="some.json is not valid JSON .*; download it again"):
        read_json(tmp_path / "some.json")


def test_the_length_and_padding_of_a_training_are_not_those_of_texts(folder: Path) -> None:
    expected = Tokenizer.from_folder(folder).encode("one two three four five six")
    facts = json.loads((folder / "tokenizer.json").read_text())
    facts["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    facts["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    assert Tokenizer.from_folder(folder).encode("one two three four five six") == expected
