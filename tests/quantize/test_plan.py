"""A plan is made from flags or TOML, refuses what it cannot do, and gives each tensor its type."""

from pathlib import Path
from typing import Any

import pytest

from quantize.plan import Plan, Rule, Target, assign, check_rules, window_length
from quantize.run.key import key_of
from runtime.archs import FAMILIES, Arch
from runtime.errors import EdgequantError
from tests.conftest import config


def flags(**changes: Any) -> dict[str, Any]:
    """The least flags of a run, and some more."""
    return {"to": ["onnx:int4"]} | changes


@pytest.fixture
def arch() -> Arch:
    return FAMILIES["qwen2"].arch(config("qwen2-untied", num_hidden_layers=3))


def toml(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_become_a_plan_with_the_defaults_of_the_rest() -> None:
    plan = Plan.from_flags(None, flags(rows=8, rules=["attn_v=INT8_32"], output="out"))
    assert plan.targets == (Target("onnx", "int4"),)
    assert plan.rules == (Rule("attn_v", "INT8_32"),)
    assert (plan.rows, plan.length, plan.output) == (8, None, Path("out"))


def test_presets_and_types_may_be_spelled_in_any_case() -> None:
    assert Target.parse("gguf:q4_k_m") == Target("gguf", "Q4_K_M")
    assert Rule.parse("attn_q=int8_32").type_name == "INT8_32"


def test_a_rule_may_hold_an_equals_sign_in_its_expression() -> None:
    assert Rule.parse("(?=.*attn)v=INT8_32") == Rule("(?=.*attn)v", "INT8_32")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = toml(tmp_path, 'to = ["onnx:int8"]\nrows = 4\ndamp = 1\nbaseline = "old.json"\n')
    plan = Plan.from_flags(path, {"rows": 6})
    assert (plan.rows, plan.damp, plan.baseline) == (6, 1, Path("old.json"))
    assert plan.targets == (Target("onnx", "int8"),)


WRONG_FILES = {
    "rws = 4": r"unknown key 'rws'; known: .*rows",
    "targets = []": "unknown key 'targets'; known: .*to",
    'rows = "4"': "rows must be a whole number, not '4'",
    "rows = true": "rows must be a whole number, not True",
    "imatrix = true": "imatrix must be a string, not True",
    "rows = 4.5": "rows must be a whole number, not 4.5",
    'damp = "low"': "damp must be a number, not 'low'",
    'overwrite = "yes"': "overwrite must be true or false, not 'yes'",
    "output = 3": "output must be a string, not 3",
    'to = "onnx:int4"': "to must be a list of strings, not 'onnx:int4'",
    "rules = [3]": "rules must be a list of strings",
    "rows = ": "plan .* cannot be read",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_wrong_plan_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(EdgequantError, match=WRONG_FILES[text]) as caught:
        Plan.from_flags(path, flags())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_undecodable_plan_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    with pytest.raises(EdgequantError, match="plan .* cannot be read: .*No such file"):
        Plan.from_flags(path, flags())
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(EdgequantError, match="plan .* cannot be read: .*codec"):
        Plan.from_flags(path, flags())


def test_with_an_imatrix_the_method_is_rtn_unless_another_is_named(tmp_path: Path) -> None:
    assert Plan.from_flags(None, flags(imatrix="a.gguf")).method == "rtn"
    path = toml(tmp_path, 'imatrix = "a.gguf"\nto = ["onnx:int4"]\n')
    plan = Plan.from_flags(path, {})
    assert (plan.method, plan.imatrix) == ("rtn", Path("a.gguf"))
    with pytest.raises(EdgequantError, match="gptq needs the whole Hessian; use --method rtn, or"):
        Plan.from_flags(path, {"method": "gptq"})


WRONG_FLAGS: list[tuple[dict[str, Any], str]] = [
    ({"to": []}, "name a target with --to, like gguf:Q4_K_M"),
    ({"to": ["onnx:int4", "onnx:INT4"]}, "a target is given twice"),
    ({"to": ["onnx"]}, "there is no preset in --to onnx; known for onnx: int4"),
    (
        {"to": ["exe:int4"]},
        "unknown container 'exe' in --to exe:int4; known: awq, gguf, gptq, onnx, onnx-f16",
    ),
    ({"to": ["onnx:auto"]}, "--to onnx:auto needs something to reach; add --target-size 350MB, "),
    ({"to": ["gguf:Q4_K_X"]}, "unknown preset 'Q4_K_X' .*Q4_K_M"),
    ({"method": "magic"}, "unknown method 'magic'; known: .*gptq"),
    ({"method": "awq", "imatrix": "a.gguf"}, "only the mean squared inputs, and awq needs the"),
    ({"calibration": "a.txt", "imatrix": "a.gguf"}, "give it or --calibration, not both"),
    ({"rules": ["attn_v"]}, r"has no '='; write REGEX=TYPE"),
    ({"rules": ["attn_(=INT8_32"]}, "is not a valid regular expression: .*unterminated"),
    ({"rules": ["attn_v=INT3_7"]}, "unknown type 'INT3_7'; known: .*INT4_32"),
    ({"rows": 0}, "rows must be at least 1, not 0"),
    ({"rows": 10**20}, "rows must be at least 1 and at most 2147483647, not 1000"),
    ({"max_ram": 1e308}, "max_ram must be at least 0 and at most 1073741824, not 1e"),
    ({"length": 15}, "^length must be at least 16, not 15"),
    ({"damp": 0.0}, "damp must be at least 1e-09 and at most 1, not 0"),
    ({"damp": float("nan")}, "damp must be at least"),
    ({"max_ram": -1.0}, "max_ram must be at least 0, not -1"),
    ({"eval_rows": -1}, "eval_rows must be at least 0"),
    ({"eval_length": 8}, "eval_length must be at least 16"),
    ({"max_kl": -0.1}, "max_kl must be at least 0"),
    ({"min_top1": 95.0}, "min_top1 must be at least 0 and at most 1, not 95"),
    ({"max_ppl_ratio": -2.0}, "max_ppl_ratio must be at least 0"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_FLAGS, ids=lambda v: str(v)[:40])
def test_a_wrong_flag_is_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgequantError, match=message) as caught:
        Plan.from_flags(None, flags(**wrong))
    assert "\n" not in str(caught.value)


def types(arch: Arch, *rules: str, target: str = "onnx:int4") -> dict[str, str]:
    parsed = tuple(map(Rule.parse, rules))
    return {n: b.name for n, b in assign(Target.parse(target), arch, parsed).types.items()}


def test_a_rule_changes_exactly_the_tensors_it_matches(arch: Arch) -> None:
    plain, ruled = types(arch), types(arch, r"blk\.[02]\.ffn_(up|gate)=INT8_32")
    changed = {name for name in plain if plain[name] != ruled[name]}
    assert changed == {f"blk.{i}.ffn_{p}.weight" for i in (0, 2) for p in ("up", "gate")}
    assert {ruled[name] for name in changed} == {"INT8_32"}


def test_the_last_matching_rule_wins(arch: Arch) -> None:
    found = types(arch, "attn=INT8_32", "attn_v=F32")
    assert found["blk.1.attn_v.weight"] == "F32"
    assert found["blk.1.attn_q.weight"] == "INT8_32"


def test_a_rule_for_a_type_of_another_container_leaves_this_one_alone(arch: Arch) -> None:
    assert types(arch, "attn_v=BF16") == types(arch)


def test_a_ruled_type_is_narrowed_and_said_aloud(arch: Arch) -> None:
    found = assign(Target("onnx", "int4"), arch, (Rule("ffn_up", "INT4_128"),))
    assert found.types["blk.0.ffn_up.weight"].name == "INT4_32"
    assert found.fallbacks == (
        "3 tensors with rows of 96 cannot be INT4_128 (packs 128 at a time) "
        "and became INT4_32: ffn_up",
    )


def test_norms_and_biases_have_no_type(arch: Arch) -> None:
    assert all(not name.endswith(".bias") and "norm" not in name for name in types(arch))


def plan(*rules: str) -> Plan:
    return Plan.from_flags(None, flags(rules=list(rules)))


def test_a_rule_that_matches_nothing_is_refused(arch: Arch) -> None:
    with pytest.raises(EdgequantError, match="attn_w=INT8_32 matches no tensor; names look like"):
        check_rules(plan("attn_w=INT8_32"), arch)


def test_a_type_that_no_target_holds_is_refused(arch: Arch) -> None:
    with pytest.raises(EdgequantError, match="can hold Q6_K, which goes into gguf; choose"):
        check_rules(Plan.from_flags(None, flags(to=["onnx:int4"], rules=["attn_v=Q6_K"])), arch)


def test_good_rules_pass(arch: Arch) -> None:
    check_rules(plan("attn_v=INT8_32", "token_embd=F32"), arch)


CHANGED: dict[str, Any] = {
    "seed": 1,
    "rows": 3,
    "length": 32,
    "damp": 0.02,
    "method": "rtn",
    "calibration": "builtin:code",
    "allow_fallback": True,
    "device": "cuda",
    "rules": ["attn_v=INT8_32"],
    "to": ["onnx:int8"],
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_key_follows_all_that_changes_the_bytes(name: str) -> None:
    changed = Plan.from_flags(None, flags(**{name: CHANGED[name]}))
    assert key_of(changed, "model", "code") != key_of(plan(), "model", "code")


def test_the_key_follows_model_and_code_and_not_the_judging() -> None:
    key = key_of(plan(), "model", "code")
    other = flags(max_ram=1.0, eval_rows=3, max_kl=0.1, output="there", overwrite=True)
    assert key_of(Plan.from_flags(None, other), "model", "code") == key
    assert key_of(plan(), "another", "code") != key
    assert key_of(plan(), "model", "newer") != key


def test_the_key_follows_the_content_of_the_users_text(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("one")
    made = Plan.from_flags(None, flags(calibration=str(text)))
    key = key_of(made, "model", "code")
    text.write_text("two")
    assert key_of(made, "model", "code") != key
    assert made.recipe()["calibration"] == "notes.txt"  # a file says nothing about the machine


def test_the_key_follows_the_content_of_the_imatrix(tmp_path: Path) -> None:
    made = Plan.from_flags(None, flags(imatrix=str(tmp_path / "a.gguf"), method="rtn"))
    key = key_of(made, "model", "code", "sha256 of one")
    assert key != key_of(Plan.from_flags(None, flags(method="rtn")), "model", "code")
    assert key_of(made, "model", "code", "sha256 of two") != key
    assert made.recipe()["imatrix"] == "a.gguf"
    assert not made.recipe().keys() & {"calibration", "rows", "length", "seed"}  # no text is read


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"max_kl": 0.1}, "--max-kl"),
        ({"min_top1": 0.9}, "--min-top1"),
        ({"max_ppl_ratio": 1.1, "baseline": "report.json"}, "--max-ppl-ratio, --baseline"),
        ({"to": "gguf:auto", "target_bpw": 5.0, "max_kl": 0.1}, "--max-kl"),
        ({"to": "gguf:auto", "max_kl": 0.1, "min_top1": 0.9}, "--min-top1"),
    ],
)
def test_a_gate_that_nobody_would_check_is_refused(flags: dict[str, Any], named: str) -> None:
    flags = {"to": "gguf:Q4_0"} | flags
    with pytest.raises(EdgequantError, match=f"^--no-check measures nothing, .* {named}; leave"):
        Plan.from_flags(None, flags | {"check": False})
    Plan.from_flags(None, flags)


def test_max_kl_as_an_aim_needs_no_check() -> None:
    Plan.from_flags(None, {"to": "gguf:auto", "max_kl": 0.1, "check": False})


def test_windows_are_as_long_as_the_context_allows_unless_a_length_is_asked_for() -> None:
    assert [window_length(None, context) for context in (128, 512, 4096)] == [128, 512, 512]
    assert window_length(1024, 128) == 1024  # which is refused, not shortened


@pytest.mark.parametrize("value", ["10%", "0.1", 0.1, " 10 % "])
def test_an_increase_is_a_share_in_any_spelling(value: str | float, tmp_path: Path) -> None:
    flags = {"to": ["gguf:Q4_0"], "baseline": "r.json"}
    assert Plan.from_flags(None, flags | {"max_kl_increase": value}).max_kl_increase == 0.1
    written = f'"{value}"' if isinstance(value, str) else value
    file = tmp_path / "plan.toml"
    file.write_text(f'to = ["gguf:Q4_0"]\nbaseline = "r.json"\nmax_kl_increase = {written}\n')
    assert Plan.from_flags(file, {}).max_kl_increase == 0.1


@pytest.mark.parametrize("value", ["-10%", "ten", "10%%", "1e-1", "nan", ""])
def test_an_increase_that_is_no_share_is_refused(value: str) -> None:
    flags = {"to": ["gguf:Q4_0"], "baseline": "r.json", "max_kl_increase": value}
    with pytest.raises(EdgequantError, match="max_kl_increase must be a share like 10% or 0.1"):
        Plan.from_flags(None, flags)


def test_an_increase_needs_a_baseline() -> None:
    with pytest.raises(EdgequantError, match="--max-kl-increase is measured from an earlier"):
        Plan.from_flags(None, {"to": ["gguf:Q4_0"], "max_kl_increase": 0.1})
