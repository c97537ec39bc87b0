"""The folders that are written here are what GPTQModel read (make_peer_golden.py), and computed."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import open_checkpoint
from runtime.engine import open_engine
from tests.export.make_peer_golden import CASES, IDS, KEPT, PATH, digest
from tests.export.test_packed import written

GOLDEN = json.loads(PATH.read_text())


def test_every_case_is_there() -> None:
    assert list(GOLDEN) == [f"{container} {kind}" for container, kind in CASES]


@pytest.mark.slow
@pytest.mark.parametrize(("container", "kind"), CASES)
def test_bytes_and_logits_are_those_of_the_peer(container: str, kind: str, tmp_path: Path) -> None:
    golden = GOLDEN[f"{container} {kind}"]
    folder = written(container, kind, tmp_path / "x")
    assert digest(folder) == golden["sha256"]
    expected = np.frombuffer(base64.b64decode(golden["logits"]), np.float16).astype(np.float32)
    found = open_engine(open_checkpoint(folder).model(), "numpy").logits(IDS)[0][KEPT]
    # the peer computes in float16
    assert np.abs(found.reshape(-1) - expected).max() < 3e-3 * np.abs(expected).max()
