"""`quantize bench`: what it counts, what it prints, what it refuses. No test asserts a speed."""

import importlib.util
import json
import statistics
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import CONTAINERS
from quantize import loading
from quantize.bench import bandwidth, client, show, speed, worker
from quantize.bench.speed import BenchRequest, BenchResult, Samples
from quantize.checkpoint import Checkpoint, open_checkpoint
from runtime.engine import open_engine
from runtime.errors import InputError, UnsupportedError
from tests.moe_models import QWEN2, moe
from tests.small_models import rounded

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("--threads", "1", "--prompt", "16", "--generate", "2", "--context", "5", "--repeat", "2")

needs_kernels = pytest.mark.skipif(
    importlib.util.find_spec("runtime._native") is None,
    reason="the kernels are not compiled; run `pip install -e .`",
)


def write(checkpoint: Checkpoint, container: str, kind: str, path: Path) -> Path:
    """A checkpoint rounded to one block layout, as an artifact."""
    tensors = rounded(checkpoint, kind)
    CONTAINERS[container].write(path, checkpoint.arch, tensors, checkpoint.folder, {})
    return path


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, random_models: dict[str, Path]) -> Path:
    """A small GGUF file."""
    path = tmp_path_factory.mktemp("bench") / "small.gguf"
    return write(open_checkpoint(random_models["qwen2-tied"]), "gguf", "Q8_0", path)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory, random_models: dict[str, Path]) -> Path:
    """A small ONNX folder."""
    path = tmp_path_factory.mktemp("bench") / "small-onnx"
    return write(open_checkpoint(random_models["qwen2-tied"]), "onnx", "INT8_32", path)


def made_speed(*engines: Samples) -> BenchResult:
    """A result with chosen figures: 2 GB/s of memory, and weights of 10 MB."""
    asked = BenchRequest(Path("a.gguf"), 2, "llama.cpp" if len(engines) > 1 else None, repeat=3)
    return BenchResult(asked, 11_000_000, 10_000_000, [2e9, 2e9, 2e9], list(engines))


def samples(backend: str, *speeds: float, sets: tuple[str, ...] = ()) -> Samples:
    """An engine whose every figure is one of `speeds`; it took a fiftieth of that to load."""
    share = [value * 1e7 / 2e9 for value in speeds]
    own = list(speeds)
    loads = [value / 50 for value in speeds]
    return Samples(backend, own, own, loads, share, {"resident": 3 << 20}, list(sets))


def test_a_tied_embedding_is_read_for_every_token_and_an_untied_one_is_not(
    random_models: dict[str, Path],
) -> None:
    tied = open_checkpoint(random_models["qwen2-tied"]).model()
    untied = open_checkpoint(random_models["qwen2-untied"]).model()
    assert speed.weight_bytes(tied) == sum(tied.tensors[name].nbytes for name in tied.tensors)
    every = sum(untied.tensors[name].nbytes for name in untied.tensors)
    table = untied.tensors["token_embd.weight"]
    assert speed.weight_bytes(untied) == every - table.nbytes
    assert table.nbytes == 2 * 4096 * 96


def test_of_a_mixture_a_token_reads_the_experts_that_it_chooses(tmp_path: Path) -> None:
    model = open_checkpoint(moe(tmp_path / "model", QWEN2)).model()
    parts = {name: tensor.nbytes for name, tensor in model.tensors.items()}
    experts = sum(size for name, size in parts.items() if "_exps" in name)
    rest = sum(parts.values()) - experts - parts["token_embd.weight"]
    assert speed.weight_bytes(model) == rest + experts * 2 // 6


def test_ratios_are_medians_within_rounds_and_loading_faster_counts_as_faster() -> None:
    ours, theirs = samples("native", 2.0, 90.0, 20.0), samples("llamacpp", 1.0, 10.0, 40.0)
    ratios = made_speed(ours, theirs).ratios
    assert ratios == {"prompt": 2.0, "generate": 2.0, "load": 0.5}
    assert made_speed(ours).ratios is None


def test_the_portable_path_is_said_in_a_sentence_and_a_better_one_is_not() -> None:
    portable = made_speed(samples("native", 1.0, sets=("baseline", "avx2", "baseline")))
    (note,) = portable.notes
    assert note.startswith("The kernels ran on the portable path (baseline), which is slow")
    assert made_speed(samples("native", 1.0, sets=("baseline", "avx2", "avx2"))).notes == []
    assert made_speed(samples("onnxruntime", 1.0)).notes == []


def test_reading_memory_covers_an_array_of_bounded_size() -> None:
    memory = bandwidth.Memory(1000, threads=3)
    assert len(memory.parts) == 3
    assert sum(part.nbytes for part in memory.parts) == bandwidth.LEAST
    assert memory.read() > 0


def test_a_file_is_opened_as_generate_opens_it(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, int]] = []

    def note(model: Any, resident: bool = False, threads: int = 0) -> None:
        asked.append((resident, threads))

    backend = "runtime.backends.numpy"
    monkeypatch.setattr(f"{backend}.open", note)
    options = {"generation": {"resident": True}}
    monkeypatch.setattr(f"{backend}.PURPOSES", options, raising=False)
    worker.opener(gguf, "numpy", 2)()
    loading.open_any(gguf, "numpy", purpose="generation")
    assert asked == [(True, 2), (True, 0)]


def test_generation_goes_on_where_the_last_round_ended(tiny: Checkpoint) -> None:
    bench = worker.Bench(open_engine(tiny.model(), "numpy"), "numpy")
    assert bench.fill(5, 9) > 0
    assert bench.cache.length == 5
    assert bench.generate(2) > 0
    assert bench.generate(2) > 0
    assert bench.cache.length == 9


def test_two_engines_are_given_the_same_tokens_in_pieces_of_512(tiny: Checkpoint) -> None:
    engine = open_engine(tiny.model(), "numpy")
    seen: list[list[np.ndarray]] = [[], []]
    for kept in seen:
        bench = worker.Bench(engine, "numpy")
        original = engine.logits

        def listen(
            ids: np.ndarray,
            cache: Any,
            last: bool,
            kept: list[np.ndarray] = kept,
            original: Any = original,
        ) -> Any:
            kept.append(ids)
            return original(ids[:, :1], cache, last)  # the rest would only take time

        bench.engine = type("Listening", (), {"arch": engine.arch, "logits": staticmethod(listen)})
        bench.feed(engine.new_cache(1, 2), 515, worker.STEP)
    assert [ids.shape for ids in seen[0]] == [(1, 512), (1, 3)]
    assert all((a == b).all() for a, b in zip(*seen, strict=True))


@pytest.mark.slow
def test_an_onnx_folder_is_measured_and_its_json_is_what_the_formats_page_says(
    run: Any, onnx: Path
) -> None:
    code, out, err = run("bench", onnx, *SMALL, "--json")
    assert code == 0
    result = json.loads(out)
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = page.split("\n## JSON of bench\n")[1].split("\n## ")[0]
    (engine,) = result["engines"]
    assert all(f"`{key}`" in section for key in result | engine | engine["memory_bytes"])
    files = sum(file.stat().st_size for file in onnx.rglob("*") if file.is_file())
    assert (result["file"], result["file_bytes"]) == (onnx.name, files)
    assert (engine["engine"], engine["instruction_set"]) == ("onnxruntime", None)
    assert result["ratios"] is None
    assert "loading: 2/2" in err


@pytest.mark.slow
def test_the_share_of_the_bandwidth_is_of_the_same_round(run: Any, onnx: Path) -> None:
    result = json.loads(run("bench", onnx, *SMALL, "--json")[1])
    (engine,) = result["engines"]
    speeds = engine["generate_tokens_per_second"]["rounds"]
    limits = result["bandwidth_bytes_per_second"]["rounds"]
    expected = [
        a * result["weight_bytes_per_token"] / b for a, b in zip(speeds, limits, strict=True)
    ]
    assert engine["bandwidth_share"]["rounds"] == expected
    assert engine["bandwidth_share"]["median"] == statistics.median(expected)


@needs_kernels
def test_a_gguf_file_is_measured_on_our_kernels_with_a_chart(
    run: Any, gguf: Path, tmp_path: Path
) -> None:
    chart = tmp_path / "speed.svg"
    code, out, _ = run("bench", gguf, *SMALL, "--chart", chart)
    assert code == 0
    head = out.splitlines()[0].split()
    assert head[:4] == ["small.gguf,", "1", "threads", "native"]
    for line in ("prompt of 16, tokens/s", "generation after 5 tokens, tokens/s", "load to first"):
        assert line in out
    text = chart.read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    assert "memory's limit" in text


def test_a_chart_has_a_bar_and_a_name_for_each_engine() -> None:
    result = made_speed(samples("native", 1.0, sets=("a", "a")), samples("llamacpp", 2.0))
    figure = show.draw(result)
    for axes in figure.axes:
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert names == ["native (a)", "llama.cpp"]
        assert [bar.get_width() for bar in axes.patches] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--threads", "0"), "--threads is 0; give 1 or more."),
        (("--prompt", "0"), "--prompt is 0; give 1 or more."),
        (("--generate", "-1"), "--generate is -1; give 1 or more."),
        (("--context", "-1"), "--context is -1; give 0 or more."),
        (("--repeat", "0"), "--repeat is 0; give 1 or more."),
        (("--against", "vllm"), "cannot compare with 'vllm'; --against knows llama.cpp."),
        (("--against", "llama.cpp"), "is none; leave out --against."),
        (("--chart", "a.pdf"), "a chart cannot be a.pdf; end its name in .svg or .png."),
        (("--context", "300"), "628 tokens are needed at once, and the model's context is 256;"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(
    run: Any, onnx: Path, flags: tuple[str, ...], sentence: str
) -> None:
    code, out, err = run("bench", onnx, *flags)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_a_file_that_is_no_model_is_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"no model")
    code, _, err = run("bench", tmp_path / "a.gguf")
    assert code == 2
    assert "is not a GGUF file" in err


def test_the_sentence_of_an_engine_comes_through_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(InputError, match="empty has no genai_config.json; give a folder"):
        client.Worker(folder, "onnxruntime", 1)
    (folder / "genai_config.json").write_text('{"model": {}}', encoding="utf-8")
    with pytest.raises(UnsupportedError, match="has no 'decoder'; only text models"):
        client.Worker(folder, "onnxruntime", 1)


def test_an_engine_that_dies_is_told_from_one_that_fails(onnx: Path) -> None:
    with closing(client.Worker(onnx, "onnxruntime", 1)) as started:
        assert started.load_seconds > 0
        started.process.kill()
        started.process.wait()
        with pytest.raises(UnsupportedError, match="the onnxruntime engine ended with code -9"):
            started.ask("memory")
