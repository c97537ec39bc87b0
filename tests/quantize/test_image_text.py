"""Calibration on images with captions: what the rows hold, and who sees them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import edgequant
from calib_data.drawings import HELD_OUT, calibration_drawings, drawings
from quantize.calibration.fisher import fisher
from quantize.calibration.image_text import ImageText, image_rows, open_images, packed
from quantize.calibration.make_imatrix import ImatrixRequest, collect, make
from quantize.calibration.rows import RowPositions, Rows, placed, rows_of
from quantize.calibration.states import embed
from quantize.calibration.stream import Carried, OriginalLayers
from quantize.checkpoint import Checkpoint, bundled, open_checkpoint
from quantize.plan import EFFORTS, Plan
from quantize.run.job import Job
from quantize.tuning.divergence import Head
from quantize.tuning.tuning_model import Student, kl, kl_gradient, run_teacher, zeros
from runtime.backends.torch import TorchOps
from runtime.engine import OpsEngine, open_engine
from runtime.errors import CorruptFileError, InputError
from runtime.forward import Positions, decoder_layer
from runtime.vision.image import patches_of
from runtime.vision.seeing import SeeingEngine, SeenImages
from tests.one_file_models import edit, weights
from tests.vision_models import IMAGE, QWEN2, QWEN25, vision_model

LENGTH = 192
OPS = TorchOps()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_model(tmp_path_factory.mktemp("vision") / "x", QWEN25)


def source(folder: Path, spec: str = "builtin", rows: int = 16) -> tuple[Checkpoint, ImageText]:
    checkpoint = open_checkpoint(folder)
    images, _ = open_images(checkpoint, spec, rows, LENGTH, 0)
    assert images
    return checkpoint, images


def pictures(folder: Path, *sizes: tuple[int, int]) -> Path:
    """Images of so many rows and columns of pixels, each with a caption."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        pixels = np.full((*size, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"Picture {number} has one shade of grey.")
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2026])
def test_no_drawing_is_calibrated_on_that_judges(seed: int) -> None:
    judging = drawings(HELD_OUT)
    found = calibration_drawings(400, seed)
    assert not {one.caption for one in found} & {one.caption for one in judging}
    pixels = {one.pixels.tobytes() for one in judging}
    assert not pixels & {one.pixels.tobytes() for one in found}


def test_a_caption_that_judges_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = calibration_drawings(2)
    monkeypatch.setattr("calib_data.drawings.drawings", lambda count: [first])
    assert calibration_drawings(1)[0].caption == second.caption


def test_what_is_cut_off_begins_the_next_row() -> None:
    assert packed([4, 4, 4, 4], 6, 9) == ((0, 1), (1, 2), (2, 3), (3, 0))
    assert packed([3, 3, 3], 6, 9) == ((0, 1), (2, 0))
    assert packed([9, 2, 2], 6, 9) == ((0,), (1, 2, 0))
    assert packed([2], 6, 9) == ((0, 0, 0),)
    assert packed([4] * 9, 6, 2) == ((0, 1), (1, 2))


@pytest.mark.parametrize("config", [QWEN2, QWEN25], ids=["qwen2", "qwen2.5"])
def test_rows_go_through_the_layers_as_a_prompt_with_images_does(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """The states behind every layer against one run of the engine that `generate` uses."""
    checkpoint, images = source(vision_model(tmp_path / "x", config), rows=8)
    rows, vision = image_rows(images, checkpoint), images.vision
    seen = rows.images[0]
    assert rows.shape == (1, LENGTH)
    engine = open_engine(checkpoint.model(), "torch")
    assert isinstance(engine, OpsEngine)
    whole = [images.pictures[n] for n in images.order[0]]
    patches = [patches_of(p.pixels(), vision.tower, vision.preparation) for p in whole]
    prompt = SeenImages(vision.tower, vision.tensors, patches, IMAGE)
    # the engine reads whole images: what the row cuts off is put back
    rest = len(prompt.values) - len(seen.images.rows)
    ids = np.append(rows.ids[0], [IMAGE] * rest if rows.ids[0, -1] == IMAGE else [])
    if rest and rows.ids[0, -1] != IMAGE:
        prompt = SeenImages(vision.tower, vision.tensors, patches[:-1], IMAGE)
    expected = SeeingEngine(engine, prompt).logits(ids[None].astype(np.int64))[0, :LENGTH]
    teacher = run_teacher(checkpoint, rows, OPS, lambda name, shape: np.zeros(shape, np.float32))
    head = checkpoint.tensors[checkpoint.arch.head].decode()
    np.testing.assert_allclose(teacher.states[0] @ head.T, expected, rtol=1e-3, atol=1e-4)


def test_a_row_holds_images_and_their_captions(folder: Path) -> None:
    checkpoint, images = source(folder)
    rows = image_rows(images, checkpoint)
    assert rows.shape == (2, LENGTH)
    for number, row in enumerate(rows.ids):
        assert row[0] == 4096
        at = rows.images[number].images.rows
        np.testing.assert_array_equal(at, np.flatnonzero(row == IMAGE))
        np.testing.assert_array_equal(rows.text[number], row != IMAGE)
        told = images.pictures[images.order[number][0]].caption
        assert told in checkpoint.tokenizer.decode(row.tolist())
    kept = rows.arrays()
    again = rows_of(checkpoint.arch, kept.__getitem__, 2)
    for number, there in rows.images.items():
        found = again.images[number]
        np.testing.assert_array_equal(found.places, there.places)
        np.testing.assert_array_equal(found.images.values, there.images.values)
        np.testing.assert_array_equal(found.images.rows, there.images.rows)


def test_rows_stand_where_each_of_them_does(folder: Path) -> None:
    """Batches of rows with images and without against each row alone."""
    checkpoint, images = source(folder)
    made, ids = image_rows(images, checkpoint), np.arange(LENGTH, dtype=np.int32)
    rows = Rows(
        np.stack([ids, made.ids[0], ids, made.ids[1]]), {1: made.images[0], 3: made.images[1]}
    )
    layer = OriginalLayers(checkpoint, OPS.device).layer(0)
    states = np.zeros((*rows.shape, 64), np.float32)
    embed(checkpoint.arch, checkpoint.tensors["token_embd.weight"], rows, states)
    found = states.copy()
    Carried(found, images=rows.images, tokens=3 * LENGTH).advance(OPS, layer)
    for row, before in enumerate(states):
        where = rows.images.get(row, Positions(0, LENGTH))
        alone = decoder_layer(OPS, layer, torch.from_numpy(before[None]), where)[0]
        np.testing.assert_allclose(found[row], alone.numpy(), rtol=1e-5, atol=1e-6)
    parts = list(placed(4, LENGTH, 3 * LENGTH, {0: made.images[0]}))
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 3), (3, 4)]
    assert isinstance(parts[0][1], RowPositions) and type(parts[1][1]) is Positions


def seen_and_blind(folder: Path) -> tuple[Checkpoint, Rows, Rows]:
    """Rows with images, and the same tokens without."""
    checkpoint, images = source(folder)
    rows = image_rows(images, checkpoint)
    return checkpoint, rows, Rows(rows.ids)


def zeros_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_gradients_come_from_predictions_of_text_alone(folder: Path) -> None:
    checkpoint, rows, blind = seen_and_blind(folder)
    found = {}
    for name, of in (("seen", rows), ("blind", blind)):
        sizes: dict[int, np.ndarray] = {}

        def visit(index: int, layer: Any, sizes: dict[int, np.ndarray] = sizes) -> None:
            sizes[index] = layer.tokens["ffn_down"]

        tables = fisher(checkpoint, of, OPS, zeros_of, visit)
        found[name] = (sizes, tables.tables["token_embd.weight"].rows.numpy())
    last = checkpoint.arch.layers - 1
    # behind the last attention only predictions are left, and none is made within images
    assert not found["seen"][0][last][~rows.text].any()
    assert found["blind"][0][last][~rows.text].all()
    assert found["seen"][0][0][:, 1].all()  # but text looks back at images: the first one's token
    assert found["seen"][1][IMAGE] == 0 < found["blind"][1][IMAGE]


def test_an_importance_matrix_is_made_of_images_as_well(folder: Path, tmp_path: Path) -> None:
    checkpoint, rows, blind = seen_and_blind(folder)
    means = []
    for of in (rows, blind):
        hidden = np.zeros((*of.shape, 64), np.float32)
        means.append({name: (mean, count) for name, mean, count in collect(checkpoint, of, hidden)})
    name = "blk.0.attn_q.weight"
    assert not np.allclose(means[0][name][0], means[1][name][0], rtol=1e-2)
    assert means[0][name][1] == means[1][name][1] == rows.size
    assert means[0]["output.weight"][1] == rows.text.sum() < means[1]["output.weight"][1]
    said: list[str] = []
    asked = ImatrixRequest(tmp_path / "x.gguf", str(folder), rows=8, length=LENGTH)
    made = make(asked, say=said.append)
    assert (made.chunks, made.datasets) == (9, ("builtin", "images builtin"))
    assert "1 of 9 calibration windows are images with captions" in said


@pytest.mark.numeric
@pytest.mark.slow
def test_tuning_follows_the_gradient_of_rows_with_images(folder: Path) -> None:
    """A step along the gradient moves the KL by as much as the gradient says."""
    checkpoint, images = source(folder)
    made = image_rows(images, checkpoint)
    text = np.random.default_rng(0).integers(0, 4096, (1, LENGTH)).astype(np.int32)
    rows = Rows(np.concatenate([made.ids, text]), made.images)
    teacher = run_teacher(checkpoint, rows, OPS, zeros_of)
    tensors = checkpoint.tensors
    head = Head(tensors[checkpoint.arch.head], OPS.device)
    student = Student(checkpoint.arch, OPS, tensors.__getitem__, head)
    deltas = {n: d + 0.02 * (i % 3 - 1) for i, (n, d) in enumerate(zeros(student).items())}
    which = np.arange(3)
    loss, gradient = kl_gradient(student, deltas, rows, teacher, which)
    each = kl(student, deltas, rows, teacher, which, zeros_of)
    counts = rows.text.sum(1)
    assert loss == pytest.approx(float(each @ counts / counts.sum()), rel=1e-3)
    for name in ("blk.0.attn_norm.weight", "blk.1.ffn_norm.weight", "output_norm.weight"):
        sides = []
        for sign in (1, -1):
            moved = deltas | {name: deltas[name] + sign * 1e-3 * gradient[name].sign()}
            sides.append(kl_gradient(student, moved, rows, teacher, which)[0])
        slope = (sides[0] - sides[1]) / 2e-3
        assert slope == pytest.approx(float(gradient[name].abs().sum()), rel=0.05)


def test_a_model_without_images_has_no_such_rows(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(bundled())
    assert open_images(checkpoint, "builtin", 64, LENGTH, 0) == (None, ())
    with pytest.raises(InputError, match="reads no images, which --calib-images is about"):
        open_images(checkpoint, str(pictures(tmp_path / "p", (56, 56))), 64, LENGTH, 0)


def test_rows_of_images_can_be_turned_off_and_need_room(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert open_images(checkpoint, "none", 64, LENGTH, 0) == (None, ())
    images, notes = open_images(checkpoint, "builtin", 64, 32, 0)
    assert images is None
    assert notes == ("no images to calibrate on: windows of 32 tokens are too short",)


def test_a_folder_of_the_user_is_read_whole(folder: Path, tmp_path: Path) -> None:
    mine = pictures(tmp_path / "p", (112, 112), (140, 168), (56, 56))
    (mine / "notes.md").write_text("not read")
    checkpoint, images = source(folder, str(mine))
    assert images.rows == 1 and images.seen == 3
    rows = image_rows(images, checkpoint)
    text = checkpoint.tokenizer.decode(rows.ids[0].tolist())
    assert all(f"Picture {number} has one shade" in text for number in range(3))
    _, notes = open_images(checkpoint, str(mine), 16, LENGTH, 0)
    assert notes == (
        f"1 files of {mine} are no images or captions: not read",
        "1 of 17 calibration windows are images with captions",
    )
    many = pictures(tmp_path / "many", *[(112, 112)] * 12)
    images, notes = open_images(checkpoint, str(many), 8, LENGTH, 0)
    assert images and images.seen < 12
    assert f"{images.seen} of 12 images of {many} have room in them" in notes[-1]


def test_bad_folders_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)

    def said(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            open_images(checkpoint, str(path), 8, LENGTH, 0)
        return str(caught.value)

    assert "is no folder; give a folder of images" in said(tmp_path / "none")
    mine = pictures(tmp_path / "p", (112, 112))
    (mine / "0.txt").unlink()
    assert "0.png has no caption; write one into 0.txt" in said(mine)
    (mine / "0.txt").write_text(" \n")
    assert "0.txt is empty; write what 0.png shows" in said(mine)
    (mine / "0.txt").write_bytes(b"\xff\xfe\xff")
    assert "0.txt is no UTF-8 text" in said(mine)
    (mine / "0.txt").write_text("An <|image_pad|> in words.")
    assert "0.png has <|image_pad|>, which stands for an image; take it out" in said(mine)
    (mine / "0.txt").write_text("Grey.")
    (mine / "1.txt").write_text("Nothing.")
    assert "1.txt is the caption of no image" in said(mine)
    (mine / "1.png").write_text("no image")
    assert "1.png does not open as an image" in said(mine)
    Image.fromarray(np.zeros((560, 560, 3), np.uint8)).save(mine / "1.png")
    assert "takes 402 tokens, and calibration windows have 192; use a smaller" in said(mine)
    Image.fromarray(np.zeros((1, 560, 3), np.uint8)).save(mine / "1.png")
    assert "1.png: an image of 560 x 1 pixels is not read" in said(mine)
    (tmp_path / "empty").mkdir()
    assert "empty has no images; give a folder" in said(tmp_path / "empty")
    with pytest.raises(InputError, match="calib_images=.*gone. is no folder; give a folder of"):
        edgequant.quantize(folder, "gguf:Q4_0", tmp_path / "out", calib_images=tmp_path / "gone")
    assert not list(tmp_path.glob("out/*"))


def test_images_are_not_asked_for_where_nothing_is_calibrated(folder: Path, tmp_path: Path) -> None:
    mine = pictures(tmp_path / "p", (112, 112))
    with pytest.raises(InputError, match="calib_images is for calibration, and rtn reads nothing"):
        edgequant.plan(folder, "gguf:Q4_0", method="rtn", calib_images=mine)


def test_a_plan_says_how_many_rows_have_images(folder: Path, tmp_path: Path) -> None:
    flags: Any = {"rows": 16, "length": LENGTH, "check": False}
    found = edgequant.plan(folder, "gguf:Q4_0", tmp_path / "out", **flags)
    assert (found.image_rows, found.calibration_tokens) == (2, 18 * LENGTH)
    assert "2 of 18 calibration windows are images with captions" in found.notes
    off = edgequant.plan(folder, "gguf:Q4_0", tmp_path / "out", calib_images="none", **flags)
    assert (off.image_rows, off.calibration_tokens) == (0, 16 * LENGTH)
    assert found.disk > off.disk


def test_a_broken_tower_is_told_before_work(tmp_path: Path) -> None:
    folder = vision_model(tmp_path / "x", QWEN25)
    weights(folder, lambda v: {n: x for n, x in v.items() if n != "visual.merger.ln_q.weight"})
    with pytest.raises(CorruptFileError, match="merger.ln_q.weight of the vision tower"):
        edgequant.quantize(folder, "gguf:Q4_0", tmp_path / "out", check=False)
    assert not list(tmp_path.glob("out/*"))
    edit(folder, "config.json", vision_config=...)


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["medium", "high"])
def test_a_run_sees_images_and_says_so(
    effort: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "high", replace(EFFORTS["high"], steps=2))
    flags: Any = {"rows": 8, "length": LENGTH, "effort": effort, "check": False}
    made, said = {}, {}
    for spec in ("builtin", "none"):
        done = edgequant.quantize(
            folder, "gguf:Q3_K_M", tmp_path / spec, calib_images=spec, **flags
        )
        made[spec], said[spec] = done.artifacts[0].path.read_bytes(), done.notes
    assert made["builtin"] != made["none"]
    line = "1 of 9 calibration windows are images with captions"
    assert line in said["builtin"] and line not in said["none"]
    assert b'"image_rows": 1' in made["builtin"]
    assert b'"calib_images": "none"' in made["none"]


@pytest.mark.slow
def test_a_report_says_how_many_rows_have_images(folder: Path, tmp_path: Path) -> None:
    flags: Any = {"rows": 8, "length": LENGTH, "eval_rows": 2, "eval_length": 32}
    edgequant.quantize(folder, "gguf:Q4_0", tmp_path, effort="low", **flags)
    line = "1 of 9 calibration windows are images with captions"
    assert line in json.loads((tmp_path / "report.json").read_text())["notes"]
    assert line in (tmp_path / "report.html").read_text()


class Stop(Exception):
    """Stands for a crash inside the process."""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_images(folder: Path, tmp_path: Path) -> None:
    flags: Any = {"rows": 8, "length": LENGTH, "check": False}

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("layers") and done == 1:
            raise Stop

    with pytest.raises(Stop):
        edgequant.quantize(folder, "gguf:Q2_K", tmp_path / "killed", progress=stop, **flags)
    again = edgequant.quantize(folder, "gguf:Q2_K", tmp_path / "killed", **flags)
    assert any("continuing after" in note for note in again.notes)
    whole = edgequant.quantize(folder, "gguf:Q2_K", tmp_path / "whole", **flags)
    assert again.artifacts[0].path.read_bytes() == whole.artifacts[0].path.read_bytes()


def test_other_images_are_another_run(folder: Path, tmp_path: Path) -> None:
    mine, flags = pictures(tmp_path / "p", (112, 112)), {"rows": 8, "length": LENGTH}
    key: list[str] = []
    for text in ("Grey.", "A wall."):
        (mine / "0.txt").write_text(text)
        plan = Plan.from_flags(
            None, {"to": "gguf:Q4_0", "model": str(folder), "calib_images": mine, **flags}
        )
        key.append(Job.resolve(plan, folder=tmp_path / "work").store.key)
    assert key[0] != key[1]
