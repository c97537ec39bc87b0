"""Models that score texts through the program: runs, reports, gates, and what they are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgequant
from quantize.checkpoint import bundled, open_checkpoint
from quantize.report.score_judge import texts_of
from runtime.engine import open_engine
from runtime.scores import scores, text_ids
from tests.quantize.runs import small_plan, walk
from tests.score_models import PAD, make_scorer

QUICK = ("--calib-rows", "4", "--calib-length", "64", "--eval-rows", "6", "--eval-length", "128")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scorer(tmp_path_factory.mktemp("scorer") / "rm", "math-rm")


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scorer(tmp_path_factory.mktemp("scorer") / "prm", "math-prm")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq", "rtn"])
def test_a_run_judges_scores_by_their_order(
    run: Any, folder: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    to = ("--to", "onnx:int8", "--to", "onnx:int4", "--min-rank", "0.5")
    code, printed, _ = run("run", folder, *to, *QUICK, "-o", out, "--method", method, "--json")
    assert code == 0
    report = json.loads(printed)
    assert report["kind"] == "scores"
    assert report["gates"] == {"min_rank": 0.5}
    assert json.loads((out / "report.json").read_text()) == report
    int8, int4 = (result["metrics"] for result in report["results"])
    assert int8["texts"] == len(report["scores"]) == 12
    assert int8["deviation"] < int4["deviation"]
    before = np.array(report["scores"])[:, 0]
    after = np.array(report["results"][0]["scores"])[:, 0]
    ranks = [np.argsort(np.argsort(values)) for values in (before, after)]
    assert int8["rank"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert int8["deviation"] == pytest.approx(np.abs(after - before).max(), rel=1e-6)
    heads = [t for r in report["results"] for t in r["tensors"] if t["name"].startswith("score")]
    assert {t["type"] for t in heads} == {"F32"}
    assert {t["error"] for t in heads} == {0.0}
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "flipped pairs" in page
    assert "KL" not in page
    card = (out / "README.md").read_text()
    assert "quantize score rm-int4-onnx" in card
    assert not (out / "rm-int4-onnx" / "genai_config.json").exists()


@pytest.mark.slow
def test_a_gate_on_the_order_fails_and_renames(run: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run(
        "run", folder, "--to", "onnx:int4", "--method", "rtn", *QUICK, "-o", out, "--no-check"
    )
    assert code == 0
    file = out / "rm-int4-onnx"
    flags = ("--against", folder, *QUICK[4:])
    chart = tmp_path / "scores.svg"
    code, printed, _ = run("compare", file, *flags, "--chart", chart)
    assert code == 0
    assert "flipped pairs" in printed
    assert "<svg" in chart.read_text()
    code, _, err = run("check", file, *flags, "--min-rank", "1")
    assert code == 1
    assert "below the limit of 1" in err
    assert (out / "rm-int4-onnx.rejected").exists()


@pytest.mark.slow
def test_a_process_reward_model_is_judged_at_markers(run: Any, steps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = run("run", steps, "--to", "onnx:int8", *QUICK, "-o", out, "--json")
    assert code == 0
    report = json.loads(printed)
    assert all(0 <= score <= 1 for (score,) in report["scores"])
    file = out / "prm-int8-onnx"
    code, printed, _ = run("score", file, "--text", "One.<extra_0>Two.<extra_0>", "--json")
    assert code == 0
    (found,) = json.loads(printed)
    original = edgequant.load(steps).score("One.<extra_0>Two.<extra_0>")
    assert original.shape == (2, 1)
    np.testing.assert_allclose(found["scores"], original, atol=0.02)


def test_the_windows_of_a_process_reward_model_have_markers_where_they_are_scored(
    steps: Path,
) -> None:
    head = open_checkpoint(steps).arch.score_head
    assert head is not None

    class Given:
        ids = np.arange(300, dtype=np.int32).reshape(2, 150)
        domains = ("a", "b")

    texts = texts_of(Given(), head, 7777)  # type: ignore[arg-type]
    assert texts.places.tolist() == [21, 85, 149]
    assert (texts.ids[:, texts.places] == 7777).all()
    rest = np.delete(np.arange(150), texts.places)
    assert (texts.ids[:, rest] == Given.ids[:, rest]).all()
    plain = texts_of(Given(), head, None)  # type: ignore[arg-type]
    assert (plain.ids == Given.ids).all()


def test_gradients_of_scores_shape_the_embedding_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    plan = small_plan(folder, "onnx:int4", effort="medium")
    found = walk(plan, tmp_path / "work")
    measured = found.work.statistics
    assert measured.facts["tables"] == ["token_embd.weight"]
    hessian = measured.load("token_embd.weight")
    assert np.isfinite(hessian).all()
    assert np.linalg.eigvalsh(hessian.astype(np.float64)).max() > 0
    tensors = found.tensors()
    source = found.checkpoint.tensors
    for name in ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias"):
        np.testing.assert_array_equal(tensors[name].decode(), source[name].decode())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--to", "gguf:Q4_K_M"), "llama.cpp loads no such head as this model scores texts with"),
        (("--to", "onnx:int4", "--effort", "high"), "--effort high tunes on predictions"),
        (("--to", "onnx:auto", "--target-bpw", "6"), "--to onnx:auto chooses types by predictions"),
        (("--to", "onnx:int4", "--calibration", "self"), "--calibration self is text that the"),
        (("--to", "onnx:int4", "--max-kl", "1"), "--max-kl measures predictions of next tokens"),
        (("--to", "onnx:int4", "--rule", "score=INT8_32"), "score=INT8_32 matches no tensor"),
        (
            ("--to", "onnx:int4", "--eval-rows", "1", "--eval-length", "64"),
            "1 window of 64 tokens is a single text to score, and an order takes two; use "
            "--eval-rows 2",
        ),
    ],
)
def test_what_a_model_that_scores_is_refused_is_told_before_any_work(
    run: Any, folder: Path, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    code, _, err = run("run", folder, *flags, "-o", tmp_path / "out")
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_gate_on_scores_is_refused_for_a_model_that_predicts(run: Any, tmp_path: Path) -> None:
    code, _, err = run(
        "run", bundled(), "--to", "onnx:int4", "--min-rank", "1", "-o", tmp_path / "o"
    )
    assert code == 2
    assert "--min-rank measures scores of texts, and this model predicts tokens" in err
    assert not list(tmp_path.iterdir())


def test_a_marker_that_the_tokenizer_lacks_is_told_before_any_work(
    run: Any, steps: Path, tmp_path: Path
) -> None:
    own = bundled() / "tokenizer.json"
    lost = tmp_path / "model"
    make_scorer(lost, "math-prm")
    (lost / "tokenizer.json").write_bytes(own.read_bytes())
    code, _, err = run("run", lost, "--to", "onnx:int4", "-o", tmp_path / "out")
    assert code == 2
    assert "the tokenizer has no token <extra_0>" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["generate", "bench", "score"])
def test_commands_for_the_other_kind_of_model_are_refused(
    run: Any, folder: Path, command: str
) -> None:
    more = {"generate": (folder, "Hi"), "bench": (folder,), "score": (bundled(), "--text", "Hi")}
    code, _, err = run(command, *more[command])
    assert code == 2
    assert ("predicts tokens and scores no texts" if command == "score" else "scores texts") in err


def test_scores_of_texts_and_conversations_are_printed(
    run: Any, folder: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(folder)
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    (tmp_path / "texts.jsonl").write_text(
        "\n".join(map(json.dumps, [{"text": "A plain text."}, {"messages": messages}]))
    )
    code, out, _ = run(
        "score", folder, "--text", "Hi", "--file", tmp_path / "texts.jsonl", "--json"
    )
    assert code == 0
    found = json.loads(out)
    expected = ["Hi", "A plain text.", checkpoint.tokenizer.render(messages)]
    assert [one["text"] for one in found] == expected
    engine = open_engine(checkpoint.model(), "numpy")
    for one in found:
        ids = text_ids(checkpoint.tokenizer, one["text"])
        assert one["tokens"] == len(ids)
        np.testing.assert_allclose(one["scores"], scores(engine, ids), atol=0.05)
    by_python = edgequant.load(folder).score(messages)
    np.testing.assert_allclose(by_python, found[2]["scores"], atol=1e-6)
    code, out, _ = run("score", folder, "--text", "Hi<|endoftext|>", "--text", "Hi")
    assert code == 0
    pad = checkpoint.tokenizer.encode("<|endoftext|>")
    assert pad == [PAD]
    assert "1 of the texts end with the padding token" in out
    assert run("score", folder)[0] == 2


def test_a_forecast_and_an_importance_matrix_leave_the_head_out(
    run: Any, folder: Path, tmp_path: Path
) -> None:
    code, out, _ = run("plan", folder, "--to", "onnx:int4", "-o", tmp_path / "out", "--json")
    assert code == 0
    (target,) = json.loads(out)["targets"]
    assert not [tensor for tensor in target["tensors"] if "score" in tensor["name"]]
    matrix = tmp_path / "i.gguf"
    small = ("--calib-rows", "1", "--calib-length", "32")
    assert run("imatrix", folder, "-o", matrix, *small)[0] == 0
    flags = ("--to", "onnx:int4", "--no-check", "-o", tmp_path / "out")
    code, out, _ = run("run", folder, *flags, "--imatrix", matrix, "--json")
    assert code == 0
    forecast = edgequant.plan(folder, "onnx:int4", imatrix=matrix)
    (made,) = json.loads(out)["artifacts"]
    assert made["bytes"] == forecast.targets[0].bytes


def test_scoring_in_an_onnx_folder_has_no_cache(folder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = edgequant.quantize(
        folder, "onnx:fp32", tmp_path / "o", check=False, method="rtn"
    ).artifacts[0]
    session = onnxruntime.InferenceSession(made.path / "model.onnx")
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [value.name for value in session.get_outputs()] == ["logits"]
    engine = open_engine(made.path, "onnxruntime")
    with pytest.raises(edgequant.UnsupportedError, match="has no cache; give a text as a whole"):
        engine.logits(np.array([[1, 2]]), engine.new_cache(1, 2))
    # rows of a batch may be padded on the right
    ids = np.array([[5, 6, 7, 8], [5, 6, 9, 9]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    (padded,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    alone = engine.logits(ids[1:, :2])
    np.testing.assert_allclose(padded[1, 1], alone[0, -1], rtol=1e-4, atol=1e-5)
