"""KL of our GPTQ folders and of GPTQModel's own, from the same calibration rows.

    python bench/gptq_rival.py --gptqmodel PYTHON [--effort medium]

PYTHON is an interpreter that has gptqmodel (7.7), optimum and transformers. Both give 4 bits in
groups of 128, symmetric, without act-order. Both folders are opened by our reader and judged by
`quantize check` on held-out text. With --quantize FOLDER ROWS this file runs in that Python.
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


def quantize(folder: Path, rows: Path) -> None:
    """GPTQModel's folder from windows of token ids (runs where gptqmodel is installed)."""
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=128, sym=True, desc_act=False)
    model = GPTQModel.load(str(MODEL), config, device="cpu")
    windows = json.loads(rows.read_text())
    items = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in windows]
    model.quantize(items, batch_size=1, backend=BACKEND.TORCH)
    model.save(str(folder))


def theirs(python: str, folder: Path) -> Path:
    """Their folder."""
    import calib_data
    from quantize.checkpoint import open_checkpoint

    ids = calib_data.load("builtin", open_checkpoint(None).tokenizer, ROWS, LENGTH).ids
    rows = folder / "rows.json"
    rows.write_text(json.dumps(ids.tolist()))
    place = folder / "gptqmodel"
    command = [python, str(Path(__file__).resolve()), "--quantize", str(place), str(rows)]
    env = os.environ | {"GPTQMODEL_CPU_WORKERS": "3", "PYTHONPATH": ""}
    subprocess.run(command, check=True, env=env, stdout=sys.stderr)
    return place


def judged(name: str, path: Path) -> dict[str, Any]:
    """KL of a folder against the bundled model."""
    import edgequant

    (result,) = edgequant.check(path, against=MODEL).results
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return {"made by": name, "bytes": size, "KL": result.metrics.kl, "top-1": result.metrics.top1}


def main() -> None:
    """Make both, judge both, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gptqmodel", metavar="PYTHON")
    parser.add_argument("--effort", default="medium")
    parser.add_argument("--quantize", nargs=2, metavar=("FOLDER", "ROWS"))
    flags = parser.parse_args()
    if flags.quantize:
        quantize(*map(Path, flags.quantize))
        return
    import edgequant
    from bench import common

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours = edgequant.quantize(
            to="gptq:int4", output=folder / "ours", effort=flags.effort, rows=ROWS, check=False
        )
        rows = [judged(f"edgequant, {flags.effort}", ours.artifacts[0].path)]
        if flags.gptqmodel:
            rows.append(judged("GPTQModel", theirs(flags.gptqmodel, folder)))
            rows[0]["of theirs"] = round(rows[0]["KL"] / rows[1]["KL"], 3)
    print(common.table([{"of theirs": "-"} | row for row in rows]))
    common.write("gptq_rival", rows)


if __name__ == "__main__":
    main()
