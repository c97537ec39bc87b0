"""The folders that are written here are what other projects read (make_peer_golden.py)."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from quantize.checkpoint import open_checkpoint
from runtime.engine import open_engine
from tests.export.make_peer_golden import CASES, PATH, digest
from tests.export.peers import IDS, KEPT, PEERS
from tests.export.test_packed import written

GOLDEN = json.loads(PATH.read_text())
NEAR = {"gptqmodel": 3e-3, "auto-gptq": 5e-6, "autoawq": 3e-3}
"""Of the largest logit: auto-gptq computes in float32, the others in float16."""


def test_every_case_and_peer_is_there() -> None:
    assert list(GOLDEN) == [" ".join(case) for case in CASES]
    assert {peer for peer, _, _ in CASES} == PEERS.keys() == NEAR.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("container", "kind"), sorted({case[1:] for case in CASES}))
def test_bytes_and_logits_are_those_of_the_peers(container: str, kind: str, tmp_path: Path) -> None:
    folder = written(container, kind, tmp_path / "x")
    found = open_engine(open_checkpoint(folder).model(), "numpy").logits(IDS)[0][KEPT]
    peers = [peer for peer, *case in CASES if case == [container, kind]]
    assert peers
    for peer in peers:
        golden = GOLDEN[f"{peer} {container} {kind}"]
        assert digest(folder) == golden["sha256"]
        expected = np.frombuffer(base64.b64decode(golden["logits"]), np.float32)
        far = np.abs(found.reshape(-1) - expected).max()
        assert far < NEAR[peer] * np.abs(expected).max(), peer
