"""Open damaged files for a while, and count what is not told in one sentence.

    python tests/trust/mutate.py --minutes 60 [--seed 7] [--only config --only gguf]

Each kind of file has a process of its own, so that one that dies or hangs is counted too.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.trust.readers import SUBJECTS  # noqa: E402
from tests.trust.trial import Trial  # noqa: E402

PIECE = 60.0
"""Seconds of one process."""


def worker(name: str, seed: int, seconds: float) -> None:
    """One line of JSON before each opening, and one after it."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(SUBJECTS[name], Path(folder))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            print(json.dumps({"seed": seed}), flush=True)
            print(json.dumps(trial.once(seed)._asdict()), flush=True)
            seed += 1


def piece(name: str, seed: int, seconds: float) -> tuple[int, list[dict[str, Any]]]:
    """The next seed, and what one process told; a death or a hang is one of its results."""
    command = [sys.executable, __file__, "--worker", name, "--seed", str(seed)]
    command += ["--minutes", str(seconds / 60)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds + 120, check=False)
        out, ended = done.stdout, f"died with {done.returncode}: {done.stderr[-300:]!r}"
        code = done.returncode
    except subprocess.TimeoutExpired as late:
        out, ended, code = late.stdout or b"", "hangs", 1
    lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    results = [line for line in lines if "place" in line]
    last = max((line["seed"] for line in lines), default=seed)
    if code:
        results.append({"seed": last, "what": "", "refused": False, "place": ended[:400]})
    return last + 1, results


def main() -> None:
    """Take turns until the time is over, then print counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=SUBJECTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        worker(asked.worker, asked.seed, asked.minutes * 60)
        return
    names = asked.only or list(SUBJECTS)
    share = asked.minutes * 60 / len(names)
    for name in names:
        seed, end, results = asked.seed, time.monotonic() + share, []
        while (left := end - time.monotonic()) > 1:
            seed, more = piece(name, seed, min(left, PIECE))
            results += more
        bad = [line for line in results if line["place"]]
        places = collections.Counter(line["place"] for line in bad)
        refused = sum(line["refused"] for line in results)
        print(f"{name}: {len(results)} opened, {refused} refused, {len(bad)} raw at {len(places)}")
        for place, count in places.most_common():
            first = next(line for line in bad if line["place"] == place)
            print(f"    {count} x {place}\n        seed {first['seed']}: {first['what'][:200]}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
