"""Make peer_golden.json: what other projects compute of the folders written here.

    make interop-peers
    PYTHONPATH=. python tests/export/make_peer_golden.py NEW OLD    (what that runs)

NEW is a Python with gptqmodel 7.7.0, optimum 2.3.0 and transformers 5.23.0; OLD one with auto-gptq
0.7.1, autoawq 0.2.9 and transformers 4.51.3. Kept are the sha256 of each folder's weights and some
logits of each peer (peers.py); test_peer_golden.py compares without any of these packages.
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

from tests.export import peers
from tests.export.test_packed import written

PATH = Path(__file__).with_name("peer_golden.json")
GPTQ = ("INT4_128_SYM_F16", "INT4_32_F16", "INT8_32_SYM_F16", "INT4_64_SYM_F16_ACT")
CASES = tuple(
    (peer, container, kind)
    for peer, container, kinds in (
        ("gptqmodel", "gptq", GPTQ),
        ("gptqmodel", "awq", ("INT4_64_F16",)),
        ("auto-gptq", "gptq", GPTQ),
        ("autoawq", "awq", ("INT4_64_F16",)),
    )
    for kind in kinds
)
"""Who reads, which container, and the type of the linears of the bundled model."""


def digest(folder: Path) -> str:
    """sha256 of the weights' file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Write the folders, have them computed, and keep what came out."""
    new, old = sys.argv[1:]
    golden = {}
    env = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        for peer, container, kind in CASES:
            folder = Path(temporary, f"{container}-{kind}")
            if not folder.exists():
                written(container, kind, folder)
            python = new if peer == "gptqmodel" else old
            command = [python, str(Path(peers.__file__).resolve()), peer, str(folder)]
            subprocess.run(command, check=True, env=env)
            logits = np.load(folder / f"{peer}.npy")
            data = base64.b64encode(logits.tobytes()).decode()
            golden[f"{peer} {container} {kind}"] = {"sha256": digest(folder), "logits": data}
    PATH.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
