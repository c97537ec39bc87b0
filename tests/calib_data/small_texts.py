"""A tokenizer of bytes and small documents, for the tests of calibration text."""

import json
from typing import Any

import pytest

from calib_data import CalibrationError, Windows, load
from calib_data.document import Messages, Tools, document


class ByteTokenizer:
    """A token is a byte, except <|im_start|> (256) and the separator (257)."""

    separator: int | None = 257

    def __init__(self, template: bool = True, tools: bool = False) -> None:
        self.template, self.tools = template, tools

    def encode(self, text: str) -> list[int]:
        first, *others = text.split("<|im_start|>")
        ids = list(first.encode())
        for piece in others:
            ids += [256, *piece.encode()]
        return ids

    def render(self, messages: Messages, *, tools: Tools | None = None) -> str:
        if not self.template:
            raise ValueError("the tokenizer has no chat template.")
        offered = f"<|im_start|>{json.dumps(tools)}\n" if tools and self.tools else ""
        return offered + "".join(
            f"<|im_start|>{turn['role']}\n{turn['content']}\n" for turn in messages
        )


def sentences(windows: Windows) -> set[bytes]:
    """The documents in windows of one document each."""
    return {bytes(int(token) for token in row) for row in windows.ids}


def texts(count: int, part: str = "calibration") -> list[str]:
    """Different documents of 20 bytes that all fall in one part."""
    made: list[str] = []
    number = 0
    while len(made) < count:
        text = f"This is document {number:03d}"[-20:]
        number += 1
        if document(text).falls_in_heldout == (part == "heldout"):
            made.append(text)
    return made


def refused(*args: Any, kind: type[Exception] = CalibrationError, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        load(*args, **kwargs)
    message = str(caught.value)
    assert message[-1] in ".'" or message.endswith("}.")
    assert "\n" not in message
    return message
