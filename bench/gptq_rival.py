"""KL of our GPTQ folders and of those of GPTQModel and auto-round, from the same calibration rows.

    python bench/gptq_rival.py [--gptqmodel PYTHON] [--auto-round PYTHON] [--effort medium]

Each PYTHON is an interpreter that has gptqmodel (7.7) with optimum, or auto-round (0.16), and
transformers. All give 4 bits in groups of 128, symmetric; auto-round takes its usual 200 steps a
layer. Their folders and ours, with and without act-order, are opened by our reader and judged by
`quantize check` on held-out text. With --quantize NAME FOLDER ROWS this file runs in that Python.
Writes results/gptq_rival.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MODEL = ROOT / "models" / "tiny-qwen2.5"
ROWS, LENGTH = 64, 512
"""Windows of calibration, those of `quantize run`, and their tokens."""


def gptqmodel(folder: Path, windows: list[list[int]]) -> None:
    """GPTQModel's folder from windows of token ids (runs where gptqmodel is installed)."""
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=128, sym=True, desc_act=False)
    model = GPTQModel.load(str(MODEL), config, device="cpu")
    items = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in windows]
    model.quantize(items, batch_size=1, backend=BACKEND.TORCH)
    model.save(str(folder))


def auto_round(folder: Path, windows: list[list[int]]) -> None:
    """auto-round's folder, in GPTQ's format (runs where auto-round is installed)."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = AutoRound(
        AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        AutoTokenizer.from_pretrained(MODEL),
        bits=4,
        group_size=128,
        sym=True,
        iters=200,
        nsamples=len(windows),
        seqlen=LENGTH,
        dataset=[torch.tensor([ids]) for ids in windows],
        device_map="cpu",
    )
    made.quantize_and_save(str(folder), format="auto_gptq")


RIVALS = {"gptqmodel": gptqmodel, "auto-round": auto_round}


def theirs(name: str, python: str, folder: Path) -> Path:
    """The folder of a rival, whose Python is given."""
    import calib_data
    from quantize.checkpoint import open_checkpoint

    ids = calib_data.load("builtin", open_checkpoint(None).tokenizer, ROWS, LENGTH).ids
    rows = folder / "rows.json"
    rows.write_text(json.dumps(ids.tolist()))
    place = folder / name
    command = [python, str(Path(__file__).resolve()), "--quantize", name, str(place), str(rows)]
    env = os.environ | {"GPTQMODEL_CPU_WORKERS": "3", "PYTHONPATH": ""}
    subprocess.run(command, check=True, env=env, stdout=sys.stderr)
    return next(place.rglob("config.json")).parent  # auto-round's lies in a folder within


def judged(name: str, path: Path) -> dict[str, Any]:
    """KL of a folder against the bundled model."""
    import edgequant

    (result,) = edgequant.check(path, against=MODEL).results
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return {"made by": name, "bytes": size, "KL": result.metrics.kl, "top-1": result.metrics.top1}


def main() -> None:
    """Make both, judge both, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in RIVALS:
        parser.add_argument(f"--{name}", metavar="PYTHON", dest=name)
    parser.add_argument("--effort", default="medium")
    parser.add_argument("--quantize", nargs=3, metavar=("NAME", "FOLDER", "ROWS"))
    flags = parser.parse_args()
    if flags.quantize:
        name, place, rows_file = flags.quantize
        RIVALS[name](Path(place), json.loads(Path(rows_file).read_text()))
        return
    import edgequant
    from bench import common

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = []
        for target in ("gptq:int4", "gptq:int4-act"):  # apart, as each is then walked by itself
            made = edgequant.quantize(
                to=target, output=folder / "ours", effort=flags.effort, rows=ROWS, check=False
            )
            path = made.artifacts[0].path
            rows.append(judged(f"edgequant {target}, {flags.effort}", path))
        for name in RIVALS:
            if python := vars(flags)[name]:
                rows.append(judged(name, theirs(name, python, folder)))
                rows[0][f"of {name}"] = round(rows[0]["KL"] / rows[-1]["KL"], 3)
    columns = {column: "-" for row in rows for column in row}
    rows = [columns | row for row in rows]
    print(common.table(rows))
    common.write("gptq_rival", rows)


if __name__ == "__main__":
    main()
