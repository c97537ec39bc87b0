"""A program's end waits for a thread to leave what it is in, and for no longer."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = """
import time
from runtime import background

def work():
    try:
        while True:
            time.sleep(0.01)
            background.stop_if_ending()
    finally:
        print("left", flush=True)

background.start(work)
print("done", flush=True)
"""


def test_a_thread_ends_before_the_interpreter_does() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, ["done", "left"], "")
