"""Automatic targets: what is asked for is reached, in files of exactly the bytes announced."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import CONTAINERS
from quantize.allocation.budget import CAUTION, Goal, Size, Types, allocate, choices_of
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.plan import Assignment, Plan, Rule
from quantize.run import pipeline
from runtime.errors import EdgequantError
from runtime.gguf_file import open_gguf
from runtime.quant_types import QUANT_TYPES
from runtime.tensor import file_bytes
from tests.quantize.runs import small_plan

Predictions = dict[str, dict[str, float]]


def predictions(checkpoint: Checkpoint, container: str) -> Predictions:
    """A loss for every type that fits: less with every bit, and more in the first layers."""
    found: Predictions = {}
    for at, (name, shape) in enumerate(checkpoint.tensors.shapes.items()):
        if len(shape) == 2:
            found[name] = {
                qtype.name: 4.0**-qtype.bits / (1 + at) if qtype.bits < 16 else 0.0
                for qtype in QUANT_TYPES.values()
                if CONTAINERS[container].holds(qtype) and qtype.fits(shape[1])
            }
    return found


def exact(checkpoint: Checkpoint, container: str) -> Size:
    """Bytes of an artifact without provenance."""

    def size(types: Types) -> int:
        return CONTAINERS[container].size(checkpoint.arch, types, checkpoint.folder, {})

    return size


def allocated(checkpoint: Checkpoint, to: str = "gguf:auto", **changes: Any) -> Assignment:
    """Types by `predictions`."""
    plan = Plan.from_flags(None, {"to": [to], **changes})
    target, container = plan.targets[0], plan.targets[0].container
    known = predictions(checkpoint, container)
    goal, size = Goal(plan.target_size, plan.target_bpw, plan.max_kl), exact(checkpoint, container)
    return allocate(goal, target, checkpoint.arch, plan.rules, known, size)


def range_of(checkpoint: Checkpoint, to: str = "gguf:auto") -> tuple[int, int]:
    """Least and most bytes."""
    found = allocated(checkpoint, to, target_bpw=6).allocation
    assert found is not None
    limits = [found.frontier[at][1] * 1.001 / CAUTION for at in (0, -1)]
    ends = [allocated(checkpoint, to, max_kl=limit) for limit in limits]
    least, most = (end.allocation.bytes for end in ends if end.allocation)
    return least, most


@pytest.mark.parametrize("to", ["gguf:auto", "onnx:auto"])
def test_a_size_out_of_reach_is_refused_with_the_range(to: str, tiny: Checkpoint) -> None:
    least, most = range_of(tiny, to)
    for size in (least - 1, most + 1):
        with pytest.raises(EdgequantError) as caught:
            allocated(tiny, to, target_size=size)
        assert str(caught.value) == (
            f"--target-size {size:,} bytes is out of reach: {to} of this model takes "
            f"{least:,} to {most:,} bytes; choose a size from there."
        )
    ends = [allocated(tiny, to, target_size=size).allocation for size in (least, most)]
    # at the upper end a step of one tensor to float32 is 2% of the ONNX folder
    assert [end.bytes for end in ends if end] == [least, pytest.approx(most, rel=0.03)]
    assert all(end.bytes <= most for end in ends if end)


def test_bits_out_of_reach_are_refused_with_the_range(tiny: Checkpoint) -> None:
    message = "is out of reach: gguf:auto of this model takes 2.63 to 16.0 bits a weight; choose"
    for bits in (1.5, 17):
        with pytest.raises(EdgequantError, match=f"--target-bpw {bits} {message} from there."):
            allocated(tiny, target_bpw=bits)
    for bits in (2.63, 16.0):
        allocated(tiny, target_bpw=bits)


def test_a_loss_out_of_reach_is_refused_with_the_least(tiny: Checkpoint) -> None:
    with pytest.raises(EdgequantError) as caught:
        allocated(tiny, max_kl=1e-5, rules=["token_embd=Q4_K"])
    least = 4.0**-4.5
    assert str(caught.value).startswith(
        "--max-kl 1e-05 is out of reach: gguf:auto of this model is predicted to lose up to "
        f"{1.005 * least / CAUTION:.3g} nats a token even at "
    )
    assert str(caught.value).endswith(" bytes; allow more.")
    named = float(str(caught.value).split("up to ")[1].split()[0])
    assert allocated(tiny, max_kl=named, rules=["token_embd=Q4_K"]).allocation


def test_a_loss_is_reached_with_fewer_bytes_than_a_lower_one(tiny: Checkpoint) -> None:
    sizes = []
    for limit in (0.0, 1e-4, 1e-3, 1e-2):
        found = allocated(tiny, max_kl=limit).allocation
        assert found is not None
        assert found.kl <= CAUTION * limit
        sizes.append(found.bytes)
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize("bits", [2.7, 4.25, 6.0])
def test_bits_a_weight_are_those_of_the_tensors(bits: float, tiny: Checkpoint) -> None:
    types = allocated(tiny, target_bpw=bits).types
    cells = {name: math.prod(tiny.tensors.shapes[name]) for name in types}
    taken = sum(cells[name] * qtype.bits for name, qtype in types.items()) / sum(cells.values())
    assert 0.99 * bits <= taken <= bits


def test_few_bits_take_blocks_of_two_bits_in_onnx(tiny: Checkpoint) -> None:
    types = allocated(tiny, "onnx-f16:auto", target_bpw=3).types.values()
    assert {"INT2", "INT4"} <= {qtype.name[:4] for qtype in types}


def test_every_type_is_one_that_fits_and_that_the_container_holds(tiny: Checkpoint) -> None:
    for to in ("gguf:auto", "onnx:auto"):
        plan = small_plan(tiny.folder, to, target_bpw=6)
        choices = choices_of(
            plan.targets[0], tiny.arch, (), predictions(tiny, plan.targets[0].container)
        )
        container = CONTAINERS[plan.targets[0].container]
        for name, options in choices.items():
            rows, cols = tiny.tensors.shapes[name]
            assert len(options) > 10
            for option in options:
                qtype = QUANT_TYPES[option.type_name]
                assert container.holds(qtype)
                assert option.bytes == file_bytes(qtype, (rows, cols))


def test_rules_are_kept_and_the_last_one_wins(tiny: Checkpoint) -> None:
    rules = ["attn_v=Q6_K", "blk.0.attn_v=Q8_0", "attn_q=INT8_32"]  # GGUF holds no INT8_32
    types = allocated(tiny, target_bpw=4, rules=rules).types
    assert types["blk.0.attn_v.weight"].name == "Q8_0"
    assert {types[f"blk.{at}.attn_v.weight"].name for at in range(1, 6)} == {"Q6_K"}
    assert all(types[f"blk.{at}.attn_q.weight"].name.startswith(("Q", "IQ")) for at in range(6))


def test_a_rule_whose_type_does_not_fit_is_told(random_models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(random_models["qwen2-tied"])  # rows of 96 and 160
    found = allocated(checkpoint, target_bpw=6, rules=["attn_v=Q6_K"])
    assert {found.types[f"blk.{at}.attn_v.weight"].name for at in range(2)} == {"Q8_0"}
    assert found.fallbacks == (
        "2 tensors with rows of 96 cannot be Q6_K (packs 256 at a time) and became Q8_0: attn_v",
    )
    assert allocated(checkpoint, target_bpw=6, rules=["attn_v=Q5_0"]).fallbacks == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": ["gguf:auto"]}, "--to gguf:auto needs something to reach; add --target-size 350MB"),
        (
            {"to": ["gguf:Q4_K_M"], "target_size": "3MB"},
            "--target-size works with an automatic target; add --to gguf:auto or --to onnx:auto",
        ),
        (
            {"to": ["gguf:Q4_K_M"], "target_bpw": 4.0},
            "--target-bpw works with an automatic target; add --to gguf:auto or --to onnx:auto",
        ),
        (
            {"to": ["gguf:auto"], "target_size": 3, "target_bpw": 4.0},
            "--target-size and --target-bpw say the same; give one of them",
        ),
        (
            {"to": ["onnx:auto"], "target_bpw": 4.0, "method": "rtn"},
            "--to onnx:auto predicts the loss of methods that calibrate, and rtn does not; use",
        ),
        (
            {"to": ["gguf:auto"], "target_size": "3 apples"},
            "'3 apples' is not a size; write it like",
        ),
        ({"to": ["gguf:auto"], "target_size": "-3MB"}, "'-3MB' is not a size; write it like 350MB"),
        ({"to": ["gguf:auto"], "target_size": 0}, "target_size must be at least 1, not 0"),
        ({"to": ["gguf:auto"], "target_bpw": 40.0}, "target_bpw must be at least 0.1 and at most"),
        ({"to": ["gguf:auto"], "max_kl": 1.0, "effort": "some"}, "unknown effort 'some'; known:"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgequantError) as caught:
        Plan.from_flags(None, changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("350MB", 350_000_000),
        ("300 MiB", 300 * 2**20),
        ("1.5gb", 1_500_000_000),
        ("7_000", 7000),
        ("12kB", 12_000),
        (5_000, 5_000),
    ],
)
def test_a_size_is_read_with_its_unit(text: str | int, size: int, tmp_path: Path) -> None:
    flags = {"to": ["gguf:auto"], "target_size": text}
    assert Plan.from_flags(None, flags).target_size == size
    spelled = f'"{text}"' if isinstance(text, str) else text
    (tmp_path / "plan.toml").write_text(f'to = ["gguf:auto"]\ntarget_size = {spelled}\n')
    assert Plan.from_flags(tmp_path / "plan.toml", {}).target_size == size


def test_the_recipe_holds_what_types_were_chosen_by_and_not_a_gate() -> None:
    sized, gated, lossy = (
        Plan.from_flags(None, {"to": ["gguf:auto"], **flags}).recipe()
        for flags in (
            {"target_size": "3MB"},
            {"target_size": "3MB", "max_kl": 0.1},
            {"max_kl": 0.0},
        )
    )
    assert sized == gated
    assert sized["target_size"] == 3_000_000
    assert lossy["max_kl"] == 0.0
    assert not {"target_size", "target_bpw"} & lossy.keys()
    preset = Plan.from_flags(None, {"to": ["gguf:Q8_0"], "max_kl": 0.1}).recipe()
    assert "max_kl" not in preset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint) -> Callable[..., Any]:
    """Run a plan of the bundled model: bytes on disk, lines said, the path."""

    def make(to: str, **changes: Any) -> tuple[int, list[str], Path]:
        folder, said = tmp_path_factory.mktemp("made"), []
        plan = small_plan(tiny.folder, to, check=False, output=str(folder), **changes)
        pipeline.run(plan, say=said.append)
        found = pipeline.artifacts(plan)[0]
        return found["bytes"], said, Path(found["path"])

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "size"),
    [
        ("gguf:auto", 2_200_000),
        ("gguf:auto", 3_100_000),
        ("gguf:auto", 4_500_000),
        ("gguf:auto", 9_000_000),
        ("onnx:auto", 4_400_000),
        ("onnx:auto", 8_000_000),
        ("onnx-f16:auto", 3_200_000),
    ],
)
def test_a_file_has_the_bytes_announced_and_hardly_fewer_than_were_asked_for(
    to: str, size: int, made: Any
) -> None:
    taken, said, _ = made(to, target_size=size)
    assert 0.99 * size <= taken <= size
    notes = ("onnx: ", "onnx-f16: ")  # on readers
    (line,) = (line for line in said if not line.startswith(notes))
    assert line.startswith(f"{to}: {taken:,} bytes, predicted KL 0.")


@pytest.mark.slow
def test_a_file_of_the_original_s_floats_has_the_bytes_announced(made: Any) -> None:
    taken, said, path = made("gguf:auto", max_kl=0.0)
    assert said == [f"gguf:auto: {taken:,} bytes, predicted KL 0.00000"]
    kinds = {t.qtype.name for t in open_gguf(path).tensors.values() if len(t.shape) == 2}
    assert kinds <= {"BF16", "F16"}


@pytest.mark.slow
def test_told_fallbacks_count_in_the_bytes_announced(
    random_models: dict[str, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    plan = small_plan(
        random_models["llama-untied"],
        "onnx:auto",
        target_bpw=6,
        rules=["attn_v=INT4_128", "blk.1.ffn_down=INT8_32"],
        check=False,
        output=str(tmp_path),
    )
    pipeline.run(plan, say=said.append)
    taken = pipeline.artifacts(plan)[0]["bytes"]
    fallback, chosen = (line for line in said if not line.startswith("onnx: "))
    assert "2 tensors with rows of 96 cannot be INT4_128" in fallback
    assert chosen.startswith(f"onnx:auto: {taken:,} bytes, ")
    tensors = CONTAINERS["onnx"].reader.open(tmp_path / "llama-untied-auto-onnx").tensors
    assert tensors["blk.1.ffn_down.weight"].qtype.name == "INT8_32"
    assert tensors["blk.0.attn_v.weight"].qtype is tensors["blk.1.attn_v.weight"].qtype


def test_rule_parse_takes_types_of_either_container() -> None:
    assert Rule.parse("attn_v=q6_k") == Rule("attn_v", "Q6_K")
