"""Chat templates run in a process of their own, with limits of time, memory and output."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime import chat

MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"


def process() -> int:
    """The number of the process that renders."""
    return chat.RUNNING[os.getpid()].pid


def test_one_process_renders_many_texts() -> None:
    assert chat.render(TEMPLATE, MESSAGES) == "Hi"
    first = process()
    for count in range(50):
        text = "日\n\ud83d\u2028" * count
        messages = [{"role": "user", "content": text}]
        assert chat.render(TEMPLATE, {"messages": messages}) == text
    assert process() == first != os.getpid()


def test_a_template_that_computes_for_ever_is_stopped_and_the_next_one_is_not() -> None:
    with pytest.raises(ValueError, match=r"refused .* stopped after 0.2 seconds of computing"):
        chat.render(ENDLESS, MESSAGES, seconds=0.2)
    assert chat.render(TEMPLATE, MESSAGES) == "Hi"


def test_the_time_is_that_of_one_text() -> None:
    short = "{% for a in range(20000) %}{% endfor %}"
    chat.render(TEMPLATE, MESSAGES)
    first = process()
    for _ in range(100):
        chat.render(short, MESSAGES, seconds=1)
    assert process() == first


def test_a_text_has_a_greatest_length() -> None:
    long = "{% for a in range(30) %}0123456789{% endfor %}"
    assert len(chat.render(long, MESSAGES, characters=300)) == 300
    with pytest.raises(ValueError, match="it writes more than 299 characters"):
        chat.render(long, MESSAGES, characters=299)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's addresses")
def test_a_template_has_a_limit_of_memory() -> None:
    with pytest.raises(ValueError, match="it needs more than 1 GiB of memory"):
        chat.render("{{ 'x' * 3000000000 }}", MESSAGES)
    assert chat.render(TEMPLATE, MESSAGES) == "Hi"


def test_a_process_that_ends_is_told_and_replaced() -> None:
    chat.render(TEMPLATE, MESSAGES)
    threading.Timer(0.2, chat.RUNNING[os.getpid()].kill).start()
    with pytest.raises(ValueError, match="the process that renders it ended with code"):
        chat.render(ENDLESS, MESSAGES, seconds=600)
    assert chat.render(TEMPLATE, MESSAGES) == "Hi"


def test_a_process_that_ended_between_two_texts_is_replaced() -> None:
    chat.render(TEMPLATE, MESSAGES)
    chat.RUNNING[os.getpid()].kill()
    chat.RUNNING[os.getpid()].wait()
    assert chat.render(TEMPLATE, MESSAGES) == "Hi"


def test_messages_are_json_values() -> None:
    with pytest.raises(ValueError, match="they are no JSON values"):
        chat.render(TEMPLATE, {"messages": [object()]})


def test_threads_get_their_own_texts() -> None:
    def one(number: int) -> str:
        return chat.render(TEMPLATE, {"messages": [{"content": str(number)}]})

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(40))) == [str(number) for number in range(40)]
