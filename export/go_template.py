"""A chat template as the Go template that ollama's TEMPLATE is, found by trying it out.

Most chat templates put fixed texts around each message, and nothing else. What stands between two
messages is read off a few renderings; then it is tried whether these texts alone make what the
template makes of other messages. https://pkg.go.dev/text/template has Go's syntax.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runtime.tokenizer import Tokenizer

Said = tuple[str, str]
"""A role and what it says."""

TURNS = ("system", "user", "assistant", "user")
MARKS = ("<first>", "<second>", "<third>", "<fourth>")

TRIED = (
    "Hi",
    'Two\nlines, "one" & <b>another</b>',
    "{{ .Role }} {% if 1 %}",
    "<think>\nWhy?\n</think>\n\nYes.",
)
"""What is said when a Go template is tried."""

ROOMY = " \n Hi \n "
"""Many templates cut white space around what is said, and Go templates cannot."""


@dataclass(frozen=True)
class GoTemplate:
    """The texts around messages."""

    before: Mapping[tuple[str, str], str]
    """Role of the message before, "" at the start, and of the message -> text before it."""
    after: Mapping[str, str]
    """Role -> text after a message; a role that is missing says nothing."""
    opening: str
    """What opens the answer."""
    cuts: bool = False
    """Whether the chat template cuts white space around what is said, which this does not."""

    def render(self, messages: Sequence[Said]) -> str:
        """What the Go template makes of messages."""
        text, last = "", ""
        for role, content in messages:
            text += self.before[last, role] + content + self.after[role]
            last = role
        return text + self.opening

    def text(self) -> str:
        """The Go template."""
        usual = self.before["assistant", "user"]
        firsts = {last: self.before.get((last, "user"), usual) for last in ("", "system")}
        cases = [
            f'{{{{ if eq $last "{last}" }}}}{text}{{{{ else }}}}'
            for last, text in firsts.items()
            if text != usual
        ]
        before = {
            "system": self.before.get(("", "system"), ""),
            "user": "".join(cases) + usual + "{{ end }}" * len(cases),
            "assistant": self.before["user", "assistant"],
        }
        declared, kept = ('{{ $last := "" }}', "{{ $last = .Role }}") if cases else ("", "")
        body = "{{ else ".join(
            f'if eq .Role "{role}" }}}}{before[role]}{{{{ .Content }}}}{after}{kept}'
            for role, after in self.after.items()
        )
        loop = "{{ range .Messages }}{{ " + body + "{{ end }}{{ end }}"
        return declared + loop + self.opening


def go_template(tokenizer: Tokenizer) -> GoTemplate | None:
    """A chat template in Go, None for one that is more than texts around messages.

    What a tokenizer puts before every text is left out, since ollama's runner puts it there.
    """
    # the day that some templates name is another one tomorrow
    if not tokenizer.chat_template or "strftime_now" in tokenizer.chat_template:
        return None
    return _tried(tokenizer, TURNS if _hears_system(tokenizer) else TURNS[1:])


def _hears_system(tokenizer: Tokenizer) -> bool:
    """Whether the text has what a system message says; some leave it out, or refuse it."""
    try:
        said = list(zip(TURNS, MARKS, strict=True))[:2]
        return MARKS[0] in _rendered(tokenizer, said)
    except ValueError:
        return False


def _tried(tokenizer: Tokenizer, turns: Sequence[str]) -> GoTemplate | None:
    """That of chats that begin with these roles."""
    try:
        found = _read(tokenizer, turns)
        if found is None or not _holds(tokenizer, found, turns):
            return None
        roomy = [(role, ROOMY) for role in turns]
        theirs, ours = _rendered(tokenizer, roomy), found.render(roomy)
    except ValueError:  # refused
        return None
    if theirs == ours:
        return found
    same = "".join(theirs.split()) == "".join(ours.split())
    return replace(found, cuts=True) if same else None


def _read(tokenizer: Tokenizer, turns: Sequence[str]) -> GoTemplate | None:
    """The texts between messages; None where a message does not stand in the text once."""
    whole = _gaps(tokenizer, turns)
    alone, unopened = (_gaps(tokenizer, ("user",), opened) for opened in (True, False))
    answered = _gaps(tokenizer, ("user", "assistant"), opened=False)
    if whole is None or alone is None or unopened is None or answered is None:
        return None
    *starts, answering, asking, end = whole
    after_user = unopened[-1] if _all_start(unopened[-1], end, answering) else ""
    after_answer = answered[-1] if asking.startswith(answered[-1]) else ""
    again = asking.removeprefix(after_answer)
    before = {
        ("", "user"): alone[0],
        ("user", "assistant"): answering.removeprefix(after_user),
        ("assistant", "user"): again,
    }
    after = {"user": after_user, "assistant": after_answer}
    if "system" in turns:
        after_system = starts[1].removesuffix(again) if starts[1].endswith(again) else ""
        before["", "system"] = starts[0]
        before["system", "user"] = starts[1].removeprefix(after_system)
        after = {"system": after_system} | after
    return GoTemplate(before, after, end.removeprefix(after_user))


def _all_start(text: str, *texts: str) -> bool:
    return all(other.startswith(text) for other in texts)


def _gaps(tokenizer: Tokenizer, roles: Sequence[str], opened: bool = True) -> list[str] | None:
    """What stands before, between and after messages of these roles."""
    marks = MARKS[: len(roles)]
    rest, gaps = _rendered(tokenizer, list(zip(roles, marks, strict=True)), opened), []
    for mark in marks:
        if rest.count(mark) != 1:
            return None
        gap, _, rest = rest.partition(mark)
        gaps.append(gap)
    return [*gaps, rest]


def _rendered(tokenizer: Tokenizer, said: Sequence[Said], opened: bool = True) -> str:
    """The chat template's text, without what is put before every text anyway."""
    messages = [{"role": role, "content": content} for role, content in said]
    text = tokenizer.render(messages, generate=opened)
    return text.removeprefix(tokenizer.decode(tokenizer.prefix))


def _holds(tokenizer: Tokenizer, found: GoTemplate, turns: Sequence[str]) -> bool:
    """Whether both make the same of other messages."""
    asked = turns.index("user") + 1
    for roles in (turns[:asked], turns, (*turns, "assistant", "user"), TURNS[1:2], TURNS[1:]):
        for shift in range(len(TRIED)):
            said = [(role, TRIED[(at + shift) % len(TRIED)]) for at, role in enumerate(roles)]
            if _rendered(tokenizer, said) != found.render(said):
                return False
    return True
