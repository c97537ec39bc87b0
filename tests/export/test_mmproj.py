"""The vision tower as a GGUF file, read by the gguf package."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from export import mmproj
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.cli.program import app
from quantize.mmproj import make
from runtime.errors import InputError, UnsupportedError
from runtime.gguf_file import open_gguf
from runtime.quant_types import QUANT_TYPES
from runtime.vision.tower import Tower, tower_of
from tests.one_file_models import weights
from tests.vision_models import MODELS, QWEN25, vision_model


@pytest.fixture(params=MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return open_checkpoint(vision_model(tmp_path / "model", MODELS[request.param]))


def tensors_of(path: Path) -> dict[str, Any]:
    """Tensors of a file by name."""
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def stored(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """A tower's tensor as the checkpoint has it."""
    array = checkpoint.beside[name]
    return QUANT_TYPES[array.dtype].decode(array.read().reshape(1, -1)).reshape(array.shape)


def test_every_value_comes_back_under_llama_cpp_s_names(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    make(tmp_path / "x.gguf", str(checkpoint.folder), "F32")
    found = {n: t.data.reshape(t.shape[::-1]) for n, t in tensors_of(tmp_path / "x.gguf").items()}
    patches = stored(checkpoint, "patch_embed.proj.weight")
    qkv = stored(checkpoint, "blocks.1.attn.qkv.weight")
    bias = stored(checkpoint, "blocks.1.attn.qkv.bias")
    expected = {
        "v.patch_embd.weight": patches[:, :, 0],
        "v.patch_embd.weight.1": patches[:, :, 1],
        "v.blk.1.attn_q.weight": qkv[:32],
        "v.blk.1.attn_k.weight": qkv[32:64],
        "v.blk.1.attn_v.weight": qkv[64:],
        "v.blk.1.attn_k.bias": bias[32:64],
        "v.blk.0.attn_out.weight": stored(checkpoint, "blocks.0.attn.proj.weight"),
        "v.blk.0.ln2.weight": stored(checkpoint, "blocks.0.norm2.weight"),
        "v.post_ln.weight": stored(checkpoint, "merger.ln_q.weight"),
        "mm.0.weight": stored(checkpoint, "merger.mlp.0.weight"),
        "mm.2.bias": stored(checkpoint, "merger.mlp.2.bias"),
    }
    if "blocks.0.mlp.fc1.weight" in checkpoint.beside:
        expected["v.blk.0.ffn_up.bias"] = stored(checkpoint, "blocks.0.mlp.fc1.bias")
        expected["v.blk.0.ln2.bias"] = stored(checkpoint, "blocks.0.norm2.bias")
    else:
        expected["v.blk.0.ffn_gate.weight"] = stored(checkpoint, "blocks.0.mlp.gate_proj.weight")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    count = sum(value.size for value in found.values())
    assert count == sum(np.prod(array.shape) for array in checkpoint.beside.values())


def test_what_the_file_says_of_the_tower(checkpoint: Checkpoint, tmp_path: Path) -> None:
    make(tmp_path / "x.gguf", str(checkpoint.folder))
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    said = {key: field.contents() for key, field in fields.items()}
    tower = tower_of(checkpoint.config)
    assert tower
    assert said["general.architecture"] == "clip"
    assert said["general.type"] == "mmproj"
    assert said["general.file_type"] == 1
    assert said["clip.vision.block_count"] == tower.depth
    assert said["clip.vision.projection_dim"] == 64
    assert said["clip.vision.image_std"] == pytest.approx([0.26862954, 0.26130258, 0.27577711])
    assert said["edgequant.fingerprint"] == checkpoint.fingerprint()
    modern = {"clip.use_silu": True, "clip.vision.n_wa_pattern": 2}
    if tower.modern:
        assert said["clip.projector_type"] == "qwen2.5vl_merger"
        assert {key: said[key] for key in modern} == modern
    else:
        assert said["clip.projector_type"] == "qwen2vl_merger"
        assert not modern.keys() & said.keys()


def test_rows_that_blocks_do_not_divide_get_channels_of_zeros_aloud(tmp_path: Path) -> None:
    folder, told = vision_model(tmp_path / "x", QWEN25), []
    make(tmp_path / "x.gguf", str(folder), "Q8_0", say=told.append)
    assert told == [
        "the tower's MLPs are 64 wide in place of 44, with channels of zeros, so that Q8_0's "
        "blocks divide their rows"
    ]
    found = tensors_of(tmp_path / "x.gguf")
    for name, tensor in found.items():
        if "patch_embd" in name:
            assert tensor.tensor_type.name == "F16"
        else:
            matrix = name.endswith(".weight") and len(tensor.shape) == 2
            assert tensor.tensor_type.name == ("Q8_0" if matrix else "F32")
    down, up = (found[f"v.blk.2.ffn_{part}.weight"] for part in ("down", "up"))
    assert (down.shape.tolist(), up.shape.tolist()) == ([64, 32], [32, 64])
    values = gguf.quants.dequantize(down.data, down.tensor_type)
    np.testing.assert_array_equal(values[:, 44:], 0)
    assert not found["v.blk.2.ffn_gate.bias"].data[44:].any()
    plain = stored(open_checkpoint(folder), "blocks.2.mlp.down_proj.weight")
    assert np.abs(values[:, :44] - plain).max() < np.abs(plain).max() / 200


@pytest.mark.parametrize(
    ("kind", "name", "largest", "kept"),
    [
        ("F16", "blocks.1.mlp.gate_proj.weight", 1e7, 65504),
        ("F16", "patch_embed.proj.weight", 1e7, 65504),
        ("Q8_0", "blocks.1.mlp.gate_proj.weight", 1e9, 127 * 65504),
        ("Q8_0", "blocks.1.mlp.gate_proj.weight", 1e6, 1e6),
        ("F32", "blocks.1.mlp.gate_proj.weight", 1e9, 1e9),
    ],
)
def test_values_beyond_a_type_are_clipped_aloud(
    kind: str, name: str, largest: float, kept: float, tmp_path: Path
) -> None:
    folder, told = vision_model(tmp_path / "x", QWEN25), []
    weights(folder, lambda v: v[f"visual.{name}"].view(-1).__setitem__(0, -largest))
    make(tmp_path / "x.gguf", str(folder), kind, say=told.append)
    new = mmproj.names(name)[0]
    found = tensors_of(tmp_path / "x.gguf")[new]
    values = gguf.quants.dequantize(found.data, found.tensor_type).reshape(-1)
    assert values[0] == pytest.approx(-kept, rel=1e-2)
    clipped = [line for line in told if "clipped" in line]
    if kept == largest:
        assert not clipped
    else:
        assert len(clipped) == 1
        assert clipped[0].startswith(f"{new}: {kind} cannot hold 1 values, the largest ")
        assert clipped[0].endswith("they were clipped: --type F32 holds them")


def test_other_rows_that_blocks_do_not_divide_are_f16_aloud(tmp_path: Path) -> None:
    vision = QWEN25["vision_config"] | {"hidden_size": 40, "out_hidden_size": 64}
    folder, told = vision_model(tmp_path / "x", QWEN25 | {"vision_config": vision}), []
    make(tmp_path / "x.gguf", str(folder), "Q8_0", say=told.append)
    assert "attn_q is F16 in 3 tensors: its rows of 40 are not divided" in told[1]
    types = {n: t.tensor_type.name for n, t in tensors_of(tmp_path / "x.gguf").items()}
    assert types["v.blk.0.attn_q.weight"] == types["v.blk.0.ffn_up.weight"] == "F16"
    assert types["v.blk.0.ffn_down.weight"] == types["mm.0.weight"] == "Q8_0"


def test_a_released_tower_fits_q8_0_with_four_channels_more() -> None:
    assert mmproj.widened(3420, "Q8_0") == 3424
    assert mmproj.widened(3420, "F16") == 3420


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"window": 56}, "window_size 56, and llama.cpp's windows have 112"),
        ({"full": (0, 1)}, r"fullatt_block_indexes \[0, 1\]"),
        ({"full": (2, 1)}, "fullatt_block_indexes"),
        ({"merge": 1}, "spatial_merge_size 1"),
        ({"temporal": 1}, "temporal_patch_size 1"),
    ],
)
def test_towers_that_llama_cpp_computes_otherwise_are_refused(
    change: dict[str, Any], sentence: str
) -> None:
    tower = tower_of(QWEN25)
    assert tower
    with pytest.raises(UnsupportedError, match=sentence):
        mmproj.refuse_unlike(replace(tower, **change))


@pytest.mark.parametrize("full", [(), (2,), (0, 1, 2), (7, 15, 23, 31)])
def test_towers_with_full_blocks_at_equal_distances_are_written(full: tuple[int, ...]) -> None:
    tower = tower_of(QWEN25)
    assert tower
    depth = 32 if len(full) == 4 else 3
    mmproj.refuse_unlike(replace(tower, full=full, depth=depth))


def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    with pytest.raises(InputError, match="not stored as 'Q4_0'; choose F32, F16, Q8_0"):
        make(tmp_path / "y.gguf", str(folder), "Q4_0")
    with pytest.raises(InputError, match="has no vision tower"):
        make(tmp_path / "y.gguf", str(bundled()))
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        make(tmp_path / "there.gguf", str(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.gguf", "x"]


def test_the_command_tells_what_it_wrote(tmp_path: Path) -> None:
    folder, out = vision_model(tmp_path / "x", QWEN25), tmp_path / "y.gguf"
    words = ["mmproj", str(folder), "-o", str(out), "--type", "Q8_0", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert (result["path"], result["bytes"]) == (str(out), out.stat().st_size)
    assert "channels of zeros" in result["notes"][0]


def test_a_tower_is_not_taken_for_a_model(tmp_path: Path) -> None:
    make(tmp_path / "x.gguf", str(vision_model(tmp_path / "x", QWEN25)))
    with pytest.raises(InputError, match="is the vision tower of a model and not the model"):
        open_gguf(tmp_path / "x.gguf")


def test_the_names_cover_every_tensor_once() -> None:
    tower = tower_of(QWEN25)
    assert isinstance(tower, Tower)
    names = [name for part in tower.shapes() for name in mmproj.names(part)]
    assert len(set(names)) == len(names)
    assert list(mmproj.file_shapes(tower)) == names


def test_where_a_tower_goes_is_a_gguf_file_in_a_folder_that_is_made(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    with pytest.raises(InputError, match="out is no name of a GGUF file; give -o NAME.gguf"):
        make(tmp_path / "out", str(folder))
    with pytest.raises(InputError, match="has no vision tower"):
        make(tmp_path / "new" / "y.gguf", str(bundled()))
    assert not (tmp_path / "new").exists()
    make(tmp_path / "new" / "y.gguf", str(folder))
    assert (tmp_path / "new" / "y.gguf").exists()
