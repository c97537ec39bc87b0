"""The process that renders chat templates; `runtime/chat.py` starts and asks it.

    python -m runtime.chat_sandbox

Each line of JSON on its input is one job, `{"template": ..., "variables": ..., "seconds": ...,
"characters": ...}`, and is answered by one line, `{"text": ...}` or `{"error": ...}`. A template is
a program of somebody else's: it runs in jinja2's sandbox, and what it takes is bounded. A job that
computes for more than its seconds of processor time ends the process with SIGPROF.
"""

import json
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 30
"""Bytes of addresses that the process may have, where the system counts them."""


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


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with what templates may call."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _now
    made.filters["tojson"] = _to_json
    return made


@lru_cache(maxsize=8)
def compiled(template: str) -> Template:
    """A template, compiled once for many texts. Raises TemplateError."""
    return SANDBOX.from_string(template)


def rendered(template: str, variables: Mapping[str, Any], characters: int) -> str:
    """The text. Raises whatever the template raises, and ValueError for a longer text."""
    pieces, size = [], 0
    for piece in compiled(template).generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > characters:
            raise ValueError(f"it writes more than {characters:,} characters")
    return "".join(pieces)


def answer(line: bytes) -> str:
    """One line for one job."""
    try:
        asked = json.loads(line)
        text = rendered(asked["template"], asked["variables"], asked["characters"])
        return json.dumps({"text": text})
    except MemoryError:
        return json.dumps({"error": f"it needs more than {MEMORY >> 30} GiB of memory"})
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return json.dumps({"error": reason})


def bound_memory() -> None:
    """Limit the process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve() -> None:
    """Answer every line until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    bound_memory()
    for line in sys.stdin.buffer:
        seconds = json.loads(line)["seconds"]
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, seconds)
        told = answer(line)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(told + "\n")
        sys.stdout.flush()


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


SANDBOX = environment()

if __name__ == "__main__":
    serve()
