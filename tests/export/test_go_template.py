"""Chat templates in Go: what they say, and which are left alone."""

from dataclasses import replace

import pytest

from export.go_template import TURNS, go_template
from quantize.checkpoint import bundled
from runtime.tokenizer import Tokenizer
from tests.chat_templates_made import BRACKETS, CHATML, CUT, SAID, UNSAID

ROOMY = "  what is said \n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Tokenizer.from_folder(bundled())
    return replace(found, special={"bos_token": "<|im_start|>", "eos_token": "</s>"})


@pytest.mark.parametrize("name", SAID)
def test_it_makes_of_a_long_chat_what_the_chat_template_makes(
    name: str, tokenizer: Tokenizer
) -> None:
    template = replace(tokenizer, chat_template=SAID[name])
    found = go_template(template)
    assert found is not None
    turns = (*TURNS, "assistant", "user", "assistant", "user")
    roles = turns if "system" in found.after else turns[1:]
    chat = [(role, f"{number}: {{% raw %}} \n{role}") for number, role in enumerate(roles)]
    messages = [{"role": role, "content": content} for role, content in chat]
    assert found.render(chat) == template.render(messages, generate=True)
    assert found.cuts == ("trim" in SAID[name])


@pytest.mark.parametrize("name", UNSAID)
def test_a_template_that_does_more_is_not_said(name: str, tokenizer: Tokenizer) -> None:
    assert go_template(replace(tokenizer, chat_template=UNSAID[name])) is None


def test_a_model_without_a_template_has_none(tokenizer: Tokenizer) -> None:
    assert go_template(replace(tokenizer, chat_template=None)) is None


def test_the_text_is_plain_go(tokenizer: Tokenizer) -> None:
    found = go_template(replace(tokenizer, chat_template=CHATML))
    assert found is not None
    assert found.text() == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n'
        "{{ .Content }}<|im_end|>\n"
        '{{ else if eq .Role "user" }}<|im_start|>user\n'
        "{{ .Content }}<|im_end|>\n"
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n'
        "{{ .Content }}<|im_end|>\n"
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )


def test_what_is_put_before_every_text_is_left_out(tokenizer: Tokenizer) -> None:
    bos = tokenizer.backend.token_to_id("<|im_start|>")
    for template in (CUT, BRACKETS):
        with_bos = go_template(replace(tokenizer, chat_template=template))
        without = go_template(replace(tokenizer, chat_template=template, prefix=(bos,)))
        assert with_bos is not None and without is not None
        starts = [with_bos.before["", "user"], without.before["", "user"]]
        assert starts[0] == "<|im_start|>" + starts[1]
