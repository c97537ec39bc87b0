"""GPTQ and AWQ folders: every word is what a loop over the format's definition says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import edgequant
from export import CONTAINERS
from export.joined import join, of_checkpoint
from export.packed import Modules
from quantize.checkpoint import bundled, open_checkpoint
from quantize.plan import Target, assign
from runtime.containers import recognise
from runtime.errors import InputError, UnsupportedError
from runtime.quant_types import QUANT_TYPES
from runtime.quant_types.onnx_int import OnnxInt
from runtime.tensor import Tensor
from tests.moe_models import QWEN3, moe
from tests.small_models import rounded

LINEAR = "model.layers.1.mlp.down_proj"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

KINDS = [
    (container, name)
    for container in ("gptq", "awq")
    for name, qtype in QUANT_TYPES.items()
    if isinstance(qtype, OnnxInt) and CONTAINERS[container].holds(qtype)
    if not qtype.ordered or qtype.size == 32
]


def codes_of(tensor: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, OnnxInt]:
    """Codes (N, K), zero points and scales (N, groups) of a tensor."""
    qtype = tensor.qtype
    assert isinstance(qtype, OnnxInt)
    codes, params = qtype.unpack(tensor.data)
    zeros = params.get("zero", np.full(params["scale"].shape, qtype.middle))
    return codes, zeros.astype(int), params["scale"], qtype


def word(numbers: list[int], bits: int) -> int:
    """Numbers in one int32, the first in the lowest bits."""
    total = sum(int(number) << bits * at for at, number in enumerate(numbers))
    return total - (1 << 32) * (total >> 31)


def gptq_twin(tensor: Tensor) -> dict[str, np.ndarray]:
    """The arrays of a GPTQ linear, a number at a time."""
    packed, zeros, scales, qtype = codes_of(tensor)
    rows, cols = packed.shape
    codes, group_of = np.zeros_like(packed), [0] * cols
    for at, col in enumerate(range(cols) if tensor.order is None else tensor.order):
        codes[:, col], group_of[col] = packed[:, at], at // qtype.size
    bits, each = qtype.code_bits, 32 // qtype.code_bits
    groups = cols // qtype.size
    qweight = [
        [word(codes[n, r * each : (r + 1) * each], bits) for n in range(rows)]
        for r in range(cols // each)
    ]
    qzeros = [
        [word([zeros[n, g] - 1 for n in range(c * each, (c + 1) * each)], bits)
         for c in range(rows // each)]
        for g in range(groups)
    ]  # fmt: skip
    return {
        "qweight": np.array(qweight, np.int32),
        "qzeros": np.array(qzeros, np.int32),
        "scales": scales.T.astype(np.float16),
        "g_idx": np.array(group_of, np.int32),
    }


def awq_twin(tensor: Tensor) -> dict[str, np.ndarray]:
    """The arrays of an AWQ linear, a number at a time."""
    codes, zeros, scales, _ = codes_of(tensor)

    def along_rows(numbers: np.ndarray) -> np.ndarray:
        return np.array(
            [
                [word([line[8 * c + at] for at in AWQ_ORDER], 4) for c in range(len(line) // 8)]
                for line in numbers
            ],
            np.int32,
        )

    return {
        "qweight": along_rows(codes.T),
        "qzeros": along_rows(zeros.T),
        "scales": scales.T.astype(np.float16),
    }


def written(container: str, kind: str, path: Path, **more: int) -> Path:
    """The bundled model in a container, with every decoder linear in one type."""
    checkpoint = open_checkpoint(None)
    tensors = (
        tensor
        if tensor.name.startswith("blk.") or not tensor.is_matrix
        else Tensor.dense(tensor.name, tensor.decode(), "F16")
        for tensor in rounded(checkpoint, kind)
    )
    write = CONTAINERS[container].write
    write(path, checkpoint.arch, tensors, checkpoint.folder, {"method": "rtn"}, **more)
    return path


@pytest.mark.parametrize(("container", "kind"), KINDS)
def test_words_are_those_of_the_definition(container: str, kind: str, tmp_path: Path) -> None:
    found = load_file(written(container, kind, tmp_path / "x") / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in rounded(open_checkpoint(None), kind)}
    tensor = tensors["blk.1.ffn_down.weight"]
    twin = (gptq_twin if container == "gptq" else awq_twin)(tensor)
    own = {name.removeprefix(f"{LINEAR}."): a for name, a in found.items() if LINEAR in name}
    assert own.keys() == twin.keys()
    for name, array in twin.items():
        np.testing.assert_array_equal(own[name], array)
        assert own[name].dtype == array.dtype


def test_several_files_hold_what_one_does(tmp_path: Path) -> None:
    one = load_file(written("gptq", "INT4_128_SYM_F16", tmp_path / "one") / "model.safetensors")
    several = written("gptq", "INT4_128_SYM_F16", tmp_path / "several", largest=1_000_000)
    files = sorted(several.glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    found = {name: array for file in files for name, array in load_file(file).items()}
    assert found.keys() == one.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(found[name], array)
    table = json.loads((several / "model.safetensors.index.json").read_text())
    assert table["weight_map"].keys() == one.keys()
    assert table["metadata"]["total_size"] == sum(array.nbytes for array in one.values())
    assert CONTAINERS["gptq"].provenance(several) == {"method": "rtn"}


@pytest.mark.parametrize("container", ["gptq", "awq"])
def test_a_folder_is_told_by_its_config(container: str, tmp_path: Path) -> None:
    folder = written(container, "INT4_64_F16", tmp_path / "x")
    assert recognise(folder).name == container
    assert recognise(bundled()).name == "checkpoint"
    assert CONTAINERS[container].maker(folder) == "edgequant"
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"]) == (container, 4, 64)
    assert (folder / "tokenizer.json").read_bytes() == (bundled() / "tokenizer.json").read_bytes()


def test_linears_that_differ_have_a_line_of_their_own() -> None:
    types = {
        "blk.0.attn_q.weight": QUANT_TYPES["INT4_128_SYM_F16"],
        "blk.0.attn_k.weight": QUANT_TYPES["INT4_128_SYM_F16"],
        "blk.0.attn_v.weight": QUANT_TYPES["INT8_128_SYM_F16"],
        "blk.0.ffn_down.weight": QUANT_TYPES["F16"],
    }
    modules = {name: f"model.layers.0.{name}" for name in types}
    config = CONTAINERS["gptq"].write.__self__.config(types, Modules(modules), "1")  # type: ignore[attr-defined]
    assert (config["bits"], config["sym"]) == (4, True)
    assert config["dynamic"] == {
        r"+:model\.layers\.0\.blk\.0\.attn_v\.weight$": {
            "bits": 8, "group_size": 128, "sym": True
        },
        r"-:model\.layers\.0\.blk\.0\.ffn_down\.weight$": {},
    }  # fmt: skip
    awq = CONTAINERS["awq"].write.__self__.config  # type: ignore[attr-defined]
    mixed = types | {"blk.0.attn_v.weight": QUANT_TYPES["INT4_64_SYM_F16"]}
    with pytest.raises(UnsupportedError, match="groups of 64 and 128"):
        awq(mixed, Modules(modules), "1")
    with pytest.raises(InputError, match="no linear is packed"):
        awq({"blk.0.ffn_down.weight": QUANT_TYPES["F16"]}, Modules(modules), "1")


def test_a_vision_tower_is_not_dropped(tmp_path: Path) -> None:
    config = json.loads((bundled() / "config.json").read_text()) | {"vision_config": {"depth": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arch = open_checkpoint(None).arch
    with pytest.raises(UnsupportedError, match="has a vision_config, but no tower"):
        CONTAINERS["gptq"].size(arch, {}, tmp_path, {})


def test_a_group_that_does_not_fit_some_linear_shrinks_for_all_in_awq(
    random_models: dict[str, Path],
) -> None:
    arch = open_checkpoint(random_models["qwen3"]).arch

    def types(container: str) -> dict[str, str]:
        found = assign(Target(container, "int4-64"), arch, ()).types
        return {name.removeprefix("blk.0."): t.name for name, t in found.items()}

    # rows of 96 and of 192
    assert types("awq")["attn_q.weight"] == types("awq")["attn_output.weight"] == "INT4_32_F16"
    assert types("gptq")["attn_q.weight"] == "INT4_32_SYM_F16"
    assert types("gptq")["attn_output.weight"] == "INT4_64_SYM_F16"
    told = assign(Target("awq", "int4-64"), arch, ()).fallbacks
    assert any("rows of 192 cannot be INT4_64_F16 (others do not fit it" in line for line in told)


@pytest.mark.parametrize(
    ("container", "kind"),
    [("gptq", "INT4_32_SYM_F16"), ("gptq", "INT4_32_SYM_F16_ACT"), ("awq", "INT4_32_F16")],
)
def test_linears_that_a_checkpoint_stores_as_one_are_packed_as_one(
    container: str, kind: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(random_models["phi3"])
    tensors = {tensor.name: tensor for tensor in rounded(checkpoint, kind)}
    tensors |= {
        name: Tensor.dense(name, tensor.decode(), "F16")
        for name, tensor in tensors.items()
        if tensor.is_matrix and not name.startswith("blk.")
    }
    path, write = tmp_path / "x", CONTAINERS[container].write
    write(path, checkpoint.arch, tensors.values(), checkpoint.folder, {"method": "rtn"})
    stored = load_file(path / "model.safetensors")
    parts = [f"blk.0.attn_{part}.weight" for part in "qkv"]
    scales = stored["model.layers.0.self_attn.qkv_proj.scales"]
    assert scales.shape[1] == sum(tensors[name].rows for name in parts)
    assert not [name for name in stored if ".q_proj" in name or ".up_proj" in name]
    again = open_checkpoint(path).tensors
    for name, tensor in tensors.items():
        if name.startswith("blk."):
            np.testing.assert_array_equal(again[name].decode(), tensor.decode(), name)


def test_orders_of_columns_that_disagree_within_one_linear_are_refused(
    random_models: dict[str, Path],
) -> None:
    checkpoint = open_checkpoint(random_models["phi3"])
    names = [f"blk.0.attn_{part}.weight" for part in "qkv"]
    found = [t for t in rounded(checkpoint, "INT4_32_SYM_F16_ACT") if t.name in names]
    turned = [replace(found[0], order=np.roll(found[0].order, 1)), *found[1:]]
    table = of_checkpoint(checkpoint.arch)
    with pytest.raises(UnsupportedError, match="columns are packed in several orders"):
        list(join(table, turned))
    assert len(list(join(table, found))) == 1


@pytest.mark.parametrize("container", ["gptq", "awq"])
def test_readers_that_leave_experts_at_random_are_told_of(
    container: str, random_models: dict[str, Path], tmp_path: Path
) -> None:
    model = moe(tmp_path / "m", QWEN3)
    plan = edgequant.plan(model, to=f"{container}:int4-32", output=tmp_path / "x", method="rtn")
    assert [n for n in plan.notes if "transformers 5 does not read packed experts" in n]
    dense = open_checkpoint(random_models["qwen2-tied"]).arch
    assert CONTAINERS[container].model_notes(dense) == ()
