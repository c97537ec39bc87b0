"""One small run through the public interface, shared by the tests of this folder."""

import pytest

import edgequant
from tests.edgequant.quick import QUICK


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> edgequant.Result:
    """A GGUF file and an ONNX folder of the bundled model; nobody may change them."""
    output = tmp_path_factory.mktemp("dist")
    return edgequant.quantize(to=["gguf:Q4_0", "onnx:int4"], output=output, **QUICK)
