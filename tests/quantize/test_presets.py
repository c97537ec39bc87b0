"""The mixtures are llama.cpp's, tensor by tensor; make_golden_types.py recorded what it does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export import CONTAINERS
from quantize.plan import Target, assign, narrow
from runtime.archs import FAMILIES, Arch, family_of
from runtime.quant_types import QUANT_TYPES
from runtime.rope import Rope
from tests.moe_models import QWEN2
from tests.one_file_models import SIZES

GOLDEN = json.loads((Path(__file__).parent / "golden_types.json").read_text())


def arch(**sizes: Any) -> Arch:
    """Sizes of a model; those that do not matter here are filled in."""
    biased = FAMILIES[sizes["family"]].biased
    facts = {"vocab": 320, "eps": 1e-6, "context": 128, "rope": Rope(), "biased": biased}
    return Arch(**facts | sizes)


def qwen(layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, tied: bool) -> Arch:
    """A real Qwen2.5's sizes."""
    return arch(
        family="qwen2",
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        tied=tied,
    )


def golden_cases() -> Iterator[Any]:
    for entry in GOLDEN:
        model = entry["model"]
        for preset in entry["presets"]:
            label = f"{model['family']}-{model['layers']}-{model['hidden']}-{model['ffn']}"
            groups = model["heads"] // model["kv_heads"]
            yield pytest.param(entry, preset, id=f"{label}-gqa{groups}-{preset}")


@pytest.mark.parametrize(("entry", "preset"), list(golden_cases()))
def test_every_tensor_has_the_type_that_llamacpp_gives_it(
    entry: dict[str, Any], preset: str
) -> None:
    found: dict[str, list[str]] = {}
    for name, qtype in assign(Target("gguf", preset), arch(**entry["model"]), ()).types.items():
        found.setdefault(name.split(".")[-2], []).append(qtype.name)
    expected = {part: list(unfold(runs)) for part, runs in entry["presets"][preset].items()}
    assert found == expected


def unfold(runs: str) -> Iterator[str]:
    """ "2 Q6_K, 1 Q4_K" -> Q6_K, Q6_K, Q4_K."""
    for run in runs.split(", "):
        count, kind = run.split(" ")
        yield from [kind] * int(count)


def test_every_gguf_preset_was_recorded() -> None:
    assert set(CONTAINERS["gguf"].presets) == set(GOLDEN[0]["presets"])


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_preset_uses_types_that_its_container_holds(container: str) -> None:
    model = qwen(4, 512, 1024, 8, 2, tied=False)
    for preset in CONTAINERS[container].presets:
        for qtype in assign(Target(container, preset), model, ()).types.values():
            assert CONTAINERS[container].holds(qtype)


@pytest.mark.parametrize("container", CONTAINERS)
def test_narrowing_ends_at_a_type_that_divides_the_row(container: str) -> None:
    for qtype in QUANT_TYPES.values():
        if CONTAINERS[container].holds(qtype):
            for cols in (256, 896, 160, 48, 7):
                found = narrow(qtype.name, cols, CONTAINERS[container])
                assert found.fits(cols)
                assert CONTAINERS[container].holds(found)
                assert (found is qtype) == qtype.fits(cols)


def test_the_half_billion_model_says_which_of_its_tensors_do_not_fit() -> None:
    model = qwen(24, 896, 4864, 14, 2, tied=True)
    lines = assign(Target("gguf", "Q4_K_M"), model, ()).fallbacks
    assert any(
        "132 tensors with rows of 896 cannot be Q4_K (packs 256 at a time) and became Q5_0: "
        in line
        for line in lines
    )
    assert any("rows of 896 cannot be Q6_K" in line and "became Q8_0" in line for line in lines)


def test_the_largest_model_says_that_its_ffn_down_does_not_fit() -> None:
    model = qwen(80, 8192, 29568, 64, 8, tied=False)
    lines = assign(Target("gguf", "Q4_K_M"), model, ()).fallbacks
    assert {line.rpartition(": ")[2] for line in lines} == {"ffn_down"}
    assert all("rows of 29568" in line for line in lines)


def test_a_model_of_even_widths_has_nothing_to_say() -> None:
    model = qwen(28, 1536, 8960, 12, 2, tied=True)
    for container in CONTAINERS:
        for preset in CONTAINERS[container].presets:
            assert assign(Target(container, preset), model, ()).fallbacks == ()


def mixture_types(experts: int, preset: str) -> dict[str, list[str]]:
    """Linear -> its types in the layers of a model with experts whose widths 256 divides."""
    sizes = {"hidden_size": 256, "moe_intermediate_size": 256, "num_hidden_layers": 16}
    sizes |= {"num_experts": experts, "shared_expert_intermediate_size": 256}
    config = SIZES | QWEN2 | sizes
    found: dict[str, list[str]] = {}
    arch = family_of(config).arch(config)
    for name, qtype in assign(Target("gguf", preset), arch, ()).types.items():
        found.setdefault(name.split(".")[-2], []).append(qtype.name)
    return found


def test_experts_have_the_types_that_llamacpp_gives_them() -> None:
    dense = {
        name: list(unfold(runs))
        for name, runs in next(
            entry["presets"]["Q4_K_M"] for entry in GOLDEN if entry["model"]["layers"] == 16
        ).items()
    }
    found = mixture_types(60, "Q4_K_M")
    assert found["ffn_down_exps"] == found["ffn_down_shexp"] == dense["ffn_down"]
    assert found["attn_v"] == dense["attn_v"]
    assert set(found["ffn_gate_exps"] + found["ffn_up_exps"]) == {"Q4_K"}
    assert set(found["ffn_gate_inp"] + found["ffn_gate_inp_shexp"]) == {"F32"}


@pytest.mark.parametrize(
    ("preset", "value", "output"),
    [("Q4_K_M", "Q8_0", "Q5_K"), ("Q3_K_L", "Q8_0", "Q3_K"), ("Q4_0", "Q8_0", "Q4_0")]
    + [("Q6_K", "Q8_0", "Q6_K"), ("F16", "F16", "F16")],
)
def test_attention_beside_eight_experts_has_more_bits(preset: str, value: str, output: str) -> None:
    found = mixture_types(8, preset)
    assert set(found["attn_v"]) == set(found["attn_k"]) == {value}
    assert set(found["attn_output"]) == {output}
    assert set(found["attn_q"]) == {preset.split("_M")[0].split("_L")[0]}
