"""Disturb runs in every way of kill_cases.py, and print how many of each kind ended well.

    python -m tests.trust.kill_all [--trials 240] [--seed 0] [--seconds 600] [--json]

Each trial must end with the bytes of an undisturbed run and leave nothing behind. Exits 1 where
one does not, and keeps the folders of those.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from quantize.checkpoint import bundled
from quantize.run.version import code_version
from tests.random_checkpoint import random_checkpoint
from tests.trust.kill_cases import KINDS, Subject, Trial
from tests.trust.kill_mount import SMALL_DISK, can_mount

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "tie_word_embeddings": False,
    "rope_theta": 1e6,
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "eos_token_id": 4093,
    "torch_dtype": "bfloat16",
}
PLANS: dict[str, dict[str, Any]] = {
    "gguf": {"to": ["gguf:Q4_0"], "method": "rtn"},
    "calibrated": {"to": ["onnx:int4", "gguf:Q8_0"], "rows": 2, "length": 32},
    "overwritten": {"to": ["onnx:int8", "gptq:int4"], "method": "rtn", "overwrite": True},
}
"""What is run; the last one into a folder that has its artifacts already."""


def subjects(folder: Path) -> list[Subject]:
    """Every plan, run once undisturbed."""
    for name, seed in (("model", 0), ("before/model", 1)):
        random_checkpoint(folder / name, CONFIG, bundled(), seed)
    found = []
    for name, flags in PLANS.items():
        old = None
        if flags.get("overwrite"):
            before = Subject(name, folder / "before" / "model", flags, folder / f"{name}-before")
            before.prepare()
            old = before.folder / "whole" / "out"
        found.append(Subject(name, folder / "model", flags, folder / name, old))
        found[-1].prepare()
    return found


def trials(folder: Path, count: int, seed: int, until: float) -> list[dict[str, Any]]:
    """So many trials, every kind with every plan in turn, the last begun before `until`; what came
    of each."""
    plans, draw = subjects(folder), random.Random(seed)
    kinds, rows = list(KINDS), []
    if not can_mount(folder):
        kinds.remove(SMALL_DISK)
    for number in range(count):
        if time.monotonic() > until:
            break
        kind, plan = kinds[number % len(kinds)], plans[(number + number // len(kinds)) % len(plans)]
        trial = Trial(plan, str(number))
        KINDS[kind](trial, draw)
        row = {"kind": kind, "plan": plan.name, "number": number, "runs": trial.runs}
        rows.append(row | {"faults": trial.verdict()})
        if rows[-1]["faults"]:
            print(json.dumps(rows[-1], indent=1), file=sys.stderr)
    return rows


def main() -> None:
    """The counts by kind, and every fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial later")
    parser.add_argument("--json", action="store_true", help="print what came of each trial")
    asked = parser.parse_args()
    code_version()  # so that every module of it is imported before a fork
    folder = Path(tempfile.mkdtemp(prefix="edgequant-kill-"))
    rows = trials(folder, asked.trials, asked.seed, time.monotonic() + asked.seconds)
    if asked.json:
        print(json.dumps(rows))
    else:
        every = Counter(row["kind"] for row in rows)
        failed = Counter(row["kind"] for row in rows if row["faults"])
        for kind, count in every.items():
            print(f"{kind:32} {count - failed[kind]:4} of {count:4} ended well")
        print(f"{sum(row['runs'] for row in rows)} runs in {len(rows)} trials, seed {asked.seed}")
    if any(row["faults"] for row in rows):
        sys.exit(f"faults; their folders are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
