"""Make peer_golden.json: what transformers with GPTQModel computes of the folders written here.

    make interop-peers
    PYTHONPATH=. python tests/export/make_peer_golden.py PYTHON    (what that runs)

PYTHON is an interpreter with gptqmodel 7.7.0, optimum 2.3.0 and transformers 5.23.0. With --logits
FOLDER... this file runs there. Kept are the sha256 of each folder's weights and some logits, as
float16; test_peer_golden.py compares without any of these packages.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("peer_golden.json")
CASES = (
    ("gptq", "INT4_128_SYM_F16"),
    ("gptq", "INT4_32_F16"),
    ("gptq", "INT8_32_SYM_F16"),
    ("gptq", "INT4_64_SYM_F16_ACT"),
    ("awq", "INT4_64_F16"),
)
"""Container and type of the linears of the bundled model."""
IDS = np.arange(7, 31)[None]
KEPT = (slice(20, 24), slice(0, 128))
"""Places and tokens of the logits that are kept."""


def digest(folder: Path) -> str:
    """sha256 of the weights' file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def logits(folders: list[str]) -> None:
    """Print the logits of each folder (runs where gptqmodel is installed)."""
    import torch
    from transformers import AutoModelForCausalLM

    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu")
        with torch.no_grad():
            found = model(torch.from_numpy(IDS)).logits[0].half().numpy()[KEPT]
        data = base64.b64encode(np.ascontiguousarray(found).tobytes()).decode()
        Path(folder, "logits.txt").write_text(data)


def main() -> None:
    """Write the folders, have them computed, and keep what came out."""
    if sys.argv[1] == "--logits":
        logits(sys.argv[2:])
        return
    from tests.export.test_packed import written

    with tempfile.TemporaryDirectory() as temporary:
        folders = {
            f"{container} {kind}": written(container, kind, Path(temporary, f"{container}-{kind}"))
            for container, kind in CASES
        }
        command = [sys.argv[1], str(Path(__file__).resolve()), "--logits"]
        env = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
        subprocess.run([*command, *map(str, folders.values())], check=True, env=env)
        golden = {
            case: {"sha256": digest(folder), "logits": (folder / "logits.txt").read_text()}
            for case, folder in folders.items()
        }
    PATH.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
