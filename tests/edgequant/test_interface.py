"""What a program can do with `edgequant`, through its public names only."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgequant
from tests.edgequant.quick import QUICK, TEXT

pytestmark = pytest.mark.slow


def test_a_run_gives_the_paths_and_bytes_of_the_artifacts_and_the_report(
    made: edgequant.Result,
) -> None:
    first, second = made.artifacts
    assert (first.target, second.target) == ("gguf:Q4_0", "onnx:int4")
    assert first.path.stat().st_size == first.bytes
    assert sum(file.stat().st_size for file in second.path.iterdir()) == second.bytes
    assert made.report is not None
    assert [result.label for result in made.report.results] == ["gguf:Q4_0", "onnx:int4"]
    written = json.loads((first.path.parent / "report.json").read_text(encoding="utf-8"))
    assert made.report.to_json() == written
    assert made.failures == []


def test_a_forecast_has_the_bytes_that_the_run_wrote(made: edgequant.Result) -> None:
    forecast = edgequant.plan(to=["gguf:Q4_0", "onnx:int4"], **QUICK)
    assert isinstance(forecast, edgequant.Forecast)
    assert [t.bytes for t in forecast.targets] == [a.bytes for a in made.artifacts]
    assert forecast.calibration_tokens == 2 * 64


def test_a_conversion_tells_what_became_of_every_weight(
    made: edgequant.Result, tmp_path: Path
) -> None:
    seen: list[str] = []
    source = made.artifacts[0].path
    found = edgequant.convert(
        source, to="onnx", output=tmp_path, progress=lambda stage, *told: seen.append(stage)
    )
    assert sum(file.stat().st_size for file in found.path.iterdir()) == found.bytes
    linears = [weight for weight in found.weights if weight.name.startswith("blk.")]
    assert {(w.source, w.type, w.exact) for w in linears} == {("Q4_0", "INT4_32_SYM", True)}
    assert "looking for grids" in seen and any("Q4_0" in note for note in found.notes)
    with pytest.raises(edgequant.InputError, match="exists; use overwrite"):
        edgequant.convert(source, to="onnx", output=tmp_path)
    with pytest.raises(edgequant.InputError, match="unknown container 'exe' in to; known: awq"):
        edgequant.convert(source, to="exe", output=tmp_path / "exe", exact=True)
    assert not (tmp_path / "exe").exists()


def test_a_check_measures_what_the_run_measured(made: edgequant.Result) -> None:
    seen: list[tuple[str, int, int]] = []
    report = edgequant.check(
        made.artifacts[0].path, progress=lambda *told: seen.append(told[:3]), **TEXT
    )
    assert made.report is not None
    assert report.results[0].metrics == made.report.results[0].metrics
    assert ("judging", 3, 3) in seen


def test_a_baseline_may_be_given_as_text(made: edgequant.Result) -> None:
    path = made.artifacts[0].path
    report = edgequant.check([path], baseline=str(path.parent / "report.json"), **TEXT)
    assert report.gates.baseline == "report.json"


def test_a_comparison_starts_with_the_smallest_and_names_the_frontier(
    made: edgequant.Result, tmp_path: Path
) -> None:
    larger_first = [artifact.path for artifact in reversed(made.artifacts)]
    report = edgequant.compare(larger_first, chart=tmp_path / "sizes.svg", **TEXT)
    assert [r.bytes for r in report.results] == sorted(a.bytes for a in made.artifacts)
    assert report.standings[0].frontier
    assert (tmp_path / "sizes.svg").exists()


@pytest.mark.parametrize("index", [0, 1], ids=["gguf", "onnx"])
def test_a_loaded_file_computes_logits_and_generates(made: edgequant.Result, index: int) -> None:
    model = edgequant.load(made.artifacts[index].path)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("The history of the city")
    row = model.logits(ids)
    assert row.shape == (len(ids), model.vocab_size)
    assert row.dtype == np.float32
    assert model.logits([ids, ids]).shape == (2, len(ids), model.vocab_size)
    np.testing.assert_allclose(model.logits(ids, last=True)[0], row[-1], atol=0.2)
    text = model.generate("The history of the city", count=8)
    assert text
    assert "".join(model.stream("The history of the city", count=8)) == text
    assert model.generate("The history of the city", count=8, stop=[text[2:4]]) == text[:2]


def test_sampling_is_repeated_by_its_seed(made: edgequant.Result) -> None:
    model = edgequant.load(made.artifacts[0].path)
    texts = [
        model.generate("The", count=12, temperature=1.5, top_k=50, seed=seed) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_messages_go_through_the_chat_template(made: edgequant.Result) -> None:
    model = edgequant.load(made.artifacts[0].path, backend="numpy")
    assert model.tokenizer is not None
    messages = [{"role": "user", "content": "Hi"}]
    prompt = model.tokenizer.render(messages, generate=True)
    assert model.generate(messages, count=4) == model.generate(prompt, count=4)


def test_options_reach_the_backend(made: edgequant.Result) -> None:
    path = made.artifacts[0].path
    ids = [1, 2, 3, 4]
    ours = edgequant.load(path, "torch", device="cpu").logits(ids)
    theirs = edgequant.load(path, "numpy").logits(ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    with pytest.raises(edgequant.InputError, match="unknown type of KV cache 'f8'"):
        edgequant.load(path, "native", kv="f8")


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    edgequant.quantize(
        to="gguf:Q4_K_M",
        output=tmp_path,
        progress=lambda stage, done, total, note: said.append(stage),
        **QUICK,
    )
    assert capfd.readouterr() == ("", "")
    assert "judging" in said


def test_a_failed_gate_raises_with_all_that_was_made(tmp_path: Path) -> None:
    with pytest.raises(edgequant.GateError, match="^gate failed: gguf:Q2_K: mean KL") as caught:
        edgequant.quantize(to="gguf:Q2_K", output=tmp_path, method="rtn", max_kl=1e-9, **QUICK)
    result = caught.value.result
    assert isinstance(result, edgequant.Result)
    assert caught.value.failures == tuple(result.failures)
    (artifact,) = result.artifacts
    assert artifact.path == tmp_path / "tiny-qwen2.5-Q2_K.gguf.rejected"
    assert artifact.path.stat().st_size == artifact.bytes


def test_a_failed_check_leaves_the_file_unless_it_is_to_be_rejected(
    made: edgequant.Result, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    shutil.copy(made.artifacts[0].path, path)
    with pytest.raises(edgequant.GateError) as caught:
        edgequant.check(path, min_top1=1.0, **TEXT)
    assert caught.value.result.results[0].file == "a.gguf"
    assert path.exists()
    with pytest.raises(edgequant.GateError):
        edgequant.check(path, min_top1=1.0, reject=True, **TEXT)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf.rejected"]


def test_an_unchecked_run_has_artifacts_and_notes_and_no_report(tmp_path: Path) -> None:
    made = edgequant.quantize(
        to="gguf:Q4_K_M", output=tmp_path, method="rtn", rules=["ffn_down=Q4_K"], check=False
    )
    (artifact,) = made.artifacts
    assert artifact.path.stat().st_size == artifact.bytes
    assert made.report is None
    assert made.failures == []
    assert isinstance(made.notes, tuple)


def test_a_plan_may_come_as_a_value_or_a_file_and_arguments_win_over_it(tmp_path: Path) -> None:
    job = edgequant.Plan(
        targets=(edgequant.Target.parse("gguf:Q8_0"),),
        rules=(edgequant.Rule.parse("attn_v=Q6_K"),),
        method="rtn",
        rows=3,
    )
    file = tmp_path / "plan.toml"
    text = 'to = ["gguf:Q8_0"]\nrules = ["attn_v=Q6_K"]\nmethod = "rtn"\nrows = 3\n'
    file.write_text(text, encoding="utf-8")
    forecasts = [edgequant.plan(plan=given) for given in (job, file, str(file))]
    assert forecasts[0].targets == forecasts[1].targets == forecasts[2].targets
    types = {tensor.name: tensor.type for tensor in forecasts[0].targets[0].tensors}
    assert (types["blk.0.attn_v.weight"], types["blk.0.attn_q.weight"]) == ("Q6_K", "Q8_0")
    changed = edgequant.plan(to="gguf:Q4_0", plan=job, rules=())
    assert {tensor.type for tensor in changed.targets[0].tensors} == {"Q4_0", "Q6_K"}
