"""Types that are read and never written: what their bytes mean, and that nothing writes them."""

import subprocess
import sys

import gguf
import numpy as np
import pytest

from export import CONTAINERS
from quantize.inspection import rows
from quantize.plan.rule import Rule
from runtime.errors import EdgequantError
from runtime.gguf_types import layout
from runtime.quant_types import QUANT_TYPES, QuantType
from runtime.quant_types.nvfp4 import NVFP4, SCALED
from runtime.quant_types.read_only import READ_ONLY, signs_of_7
from runtime.tensor import Tensor

OF_GGUF = [qtype for qtype in READ_ONLY.values() if qtype.ggml_type is not None]
IN_PACKAGE = [name for name in READ_ONLY if name in gguf.quants.__dict__ and name != "Q1_0"]


def random_rows(name: str, cols: int = 512) -> np.ndarray:
    shape = (20, READ_ONLY[name].row_bytes(cols))
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def test_all_types_of_the_issue_are_read() -> None:
    assert {q.name for q in OF_GGUF} == {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"} | {
        f"IQ{kind}" for kind in ("1_S", "1_M", "2_XXS", "2_XS", "2_S", "3_XXS", "3_S")
    }


@pytest.mark.parametrize("name", IN_PACKAGE)
def test_random_bytes_decode_as_the_gguf_package_decodes_them(name: str) -> None:
    data = random_rows(name)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data, gguf.GGMLQuantizationType[name])
        found = READ_ONLY[name].decode(data)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_the_gguf_package_reads_all_but_two_of_them() -> None:
    assert {q.name for q in OF_GGUF} - set(IN_PACKAGE) == {"Q1_0", "Q2_0"}


@pytest.mark.parametrize(("name", "bits"), [("Q1_0", 1), ("Q2_0", 2)])
def test_each_field_of_few_bits_is_a_weight(name: str, bits: int) -> None:
    data = random_rows(name)
    data[:, 0::18], data[:, 1::18] = 0x00, 0x38  # every scale is 0.5
    found = READ_ONLY[name].decode(data)
    for row in range(len(data)):
        at = 0
        for block in data[row].reshape(-1, 18)[:, 2:]:
            for byte in block:
                for shift in range(0, 8, bits):
                    code = int(byte) >> shift & ((1 << bits) - 1)
                    assert found[row, at] == 0.5 * (2 * code - 1 if bits == 1 else code - 1)
                    at += 1
        assert at == found.shape[1]


def test_every_byte_of_seven_signs_has_an_even_number_of_them() -> None:
    found = signs_of_7(np.arange(128))
    assert (np.unpackbits(found[:, None], axis=1).sum(axis=1) % 2 == 0).all()
    assert (found & 127 == np.arange(128)).all()


@pytest.mark.parametrize("qtype", READ_ONLY.values(), ids=lambda qtype: qtype.name)
def test_codes_lie_between_the_least_and_the_greatest(qtype: QuantType) -> None:
    with np.errstate(all="ignore"):
        codes, params = qtype.unpack(random_rows(qtype.name))
    assert (codes.min(), codes.max()) == (qtype.low, qtype.high)
    assert params["scale"].dtype == np.float32


def test_no_container_writes_one_and_no_rule_names_one() -> None:
    assert not QUANT_TYPES.keys() & READ_ONLY.keys()
    for qtype in OF_GGUF:
        assert not any(container.holds(qtype) for container in CONTAINERS.values())
        assert layout(qtype.ggml_type or 0, "") is qtype
        with pytest.raises(
            EdgequantError, match=f"asks for {qtype.name}, which is read and never written; "
        ):
            Rule.parse(f"ffn_down={qtype.name.lower()}")


def test_the_list_of_types_says_which_are_read_only() -> None:
    found = {row["name"]: row for row in rows("types")}
    assert found["IQ2_XXS"] == {
        "name": "IQ2_XXS",
        "block": 256,
        "bits": 2.0625,
        "in": "gguf, read only",
    }
    assert found.keys() == {*QUANT_TYPES, *(qtype.name for qtype in OF_GGUF)}


def test_a_scaled_tensor_is_each_expert_times_its_scale() -> None:
    data = np.random.default_rng(6).integers(0, 256, (6, 72), dtype=np.uint8)
    scales = np.array([0.25, 3.0, 1e-3], np.float32)
    tensor = Tensor("w", (3, 2, 128), READ_ONLY["NVFP4"], data, scales)
    plain = NVFP4().decode(data)
    expected = plain * np.repeat(scales, 2)[:, None]
    np.testing.assert_allclose(tensor.decode(), expected, rtol=3e-7)
    np.testing.assert_array_equal(tensor.decode(3, 5), tensor.decode()[3:5])
    inside = tensor.scaled()
    assert (inside.qtype, inside.scales, inside.data.shape) == (SCALED, None, (6, 80))
    np.testing.assert_array_equal(inside.decode(), tensor.decode())
    assert tensor.nbytes == data.size


def test_the_codebooks_are_loaded_when_they_are_needed() -> None:
    program = (
        "import sys, numpy as np\n"
        "from runtime.quant_types.read_only import READ_ONLY\n"
        "READ_ONLY['MXFP4'].decode(np.zeros((1, 17), np.uint8))\n"
        "assert 'gguf' not in sys.modules\n"
        "READ_ONLY['IQ3_S'].decode(np.zeros((1, 110), np.uint8))\n"
        "assert 'gguf' in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
