"""Chat templates, rendered as transformers renders them: jinja2's sandbox with its extensions.

https://huggingface.co/docs/transformers/chat_templating says what a template may use.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """`{% generation %}`: marks what the model says, for training; the text stays as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a call that gives its text back."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("text_of"), [], [], body).set_lineno(line)

    def text_of(self, caller: Macro) -> str:
        """The block's text."""
        return str(caller())


REFUSED = "the chat template refused the messages: "
"""How the error of a template begins."""


def render(template: str, variables: Mapping[str, Any]) -> str:
    """A chat template's text. Raises ValueError, in one line, for whatever goes wrong in it."""
    try:
        given = {"tools": None, "documents": None} | dict(variables)
        return environment().from_string(template).render(given)
    except Exception as error:  # a template is a program of somebody else's
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{REFUSED}{reason}") from error


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with what templates may call."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _now
    made.filters["tojson"] = _to_json
    return made


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
