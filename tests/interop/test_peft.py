"""LoRA adapters as peft saves them: merged here, they compute what peft computes."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgequant
from quantize.checkpoint import bundled, open_checkpoint
from runtime.backends.numpy import NumpyOps
from runtime.engine import OpsEngine, open_engine
from tests.conftest import config
from tests.moe_models import QWEN2, moe
from tests.random_checkpoint import random_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    # peft speaks of ties, of copies of the embedding, of patterns that fit no module
    pytest.mark.filterwarnings("ignore"),
]

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FAMILIES = ["qwen2-tied", "qwen2-untied", "llama-tied", "llama-untied", "qwen3"]
IDS = torch.arange(3, 43).reshape(2, 20) * 31
CASES = 40


def drawn(seed: int) -> tuple[str, dict[str, Any]]:
    """A family and the settings of a LoRA, at random."""
    draw = random.Random(seed)
    family = draw.choice(FAMILIES)
    targets = draw.sample(LINEARS, draw.randint(1, 4))
    settings: dict[str, Any] = {"r": draw.choice([1, 4, 8]), "lora_alpha": draw.choice([4, 16, 7])}
    settings["use_rslora"] = draw.random() < 0.3
    settings["use_dora"] = draw.random() < 0.3
    settings["bias"] = draw.choice(["none", "none", "all", "lora_only"])
    settings["fan_in_fan_out"] = draw.random() < 0.2
    if draw.random() < 0.4:
        # peft sorts the patterns as it saves them, so that two for one module would change places
        settings["rank_pattern"] = {targets[0]: 2} | {rf"layers\.1\..*{t}": 3 for t in targets[1:]}
        settings["alpha_pattern"] = {f"model.layers.0.self_attn.{targets[-1]}": 5, "down_proj": 9}
    if draw.random() < 0.3:
        settings["layers_to_transform"] = [1]
    table = draw.choice(["", "", "targets", "saved", "tokens"])
    names = draw.choice([["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
    if table == "targets" and not settings.get("layers_to_transform"):
        targets += names
    if table == "saved":
        settings["modules_to_save"] = names
    if table == "tokens":
        settings["trainable_token_indices"] = [2, 77, 4000]
    return family, settings | {"target_modules": targets}


def trained(base: Path, folder: Path, settings: dict[str, Any], seed: int = 0) -> None:
    """Save an adapter of random factors, as a training leaves it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.requires_grad:
                scale = 0.02 if "saved" in name or "bias" in name else 0.1
                values.add_(torch.randn_like(values) * scale)
    model.save_pretrained(folder)


def run_in_peft(base: Path, *adapters: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits with the last adapter running beside the model, and after its merge."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
        with torch.no_grad():
            running = model(IDS).logits.numpy()
        model = model.merge_and_unload()
    with torch.no_grad():
        return running, model(IDS).logits.numpy()


def ours(base: Path, *adapters: Path) -> np.ndarray:
    model = open_checkpoint(base, adapters).model()
    return np.asarray(OpsEngine(model, NumpyOps()).logits(IDS.numpy()))


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether logits differ by no more than float32 sums in another order do."""
    return bool(np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    for seed, name in enumerate(FAMILIES):
        random_checkpoint(root / name, config(name), bundled(), seed)
    return {name: root / name for name in FAMILIES}


@pytest.mark.parametrize("seed", range(CASES))
def test_random_adapters_compute_what_they_compute_in_peft(
    seed: int, bases: dict[str, Path], tmp_path: Path
) -> None:
    family, settings = drawn(seed)
    trained(bases[family], tmp_path / "adapter", settings, seed)
    running, merged = run_in_peft(bases[family], tmp_path / "adapter")
    found = ours(bases[family], tmp_path / "adapter")
    assert same(found, running)
    assert not same(found, ours(bases[family]))
    tables = {"embed_tokens", "lm_head"} & set(settings["target_modules"])
    if not ("-tied" in family and tables):  # see the next test
        assert same(found, merged)


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("together", [False, True])
def test_a_tied_pair_gets_what_was_trained_where_peft_merges_into_both(
    targets: list[str], together: bool, bases: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"target_modules": targets, "ensure_weight_tying": together}
    trained(bases["qwen2-tied"], tmp_path / "adapter", settings)
    running, merged = run_in_peft(bases["qwen2-tied"], tmp_path / "adapter")
    assert not same(running, merged)
    assert same(ours(bases["qwen2-tied"], tmp_path / "adapter"), running)
    found = open_checkpoint(bases["qwen2-tied"], [tmp_path / "adapter"])
    assert found.arch.tied == together
    told = "merge_and_unload would put every change into both"
    assert any(told in note for note in found.notes)


def test_adapters_are_merged_in_their_order(bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["qwen2-untied"]
    folders = [tmp_path / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        settings = {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "r": 4 + seed}
        trained(base, folder, settings, seed)
    assert same(ours(base, *folders), run_in_peft(base, *folders)[1])
    assert not same(ours(base, *folders), run_in_peft(base, *reversed(folders))[1])


def test_a_trained_bias_of_the_factors_is_added(bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["qwen2-untied"]
    trained(base, tmp_path, {"target_modules": ["q_proj"], "lora_bias": True})
    assert same(ours(base, tmp_path), run_in_peft(base, tmp_path)[1])


@pytest.mark.parametrize("family", ["qwen2-tied", "qwen2-untied"])
def test_new_tokens_come_with_their_rows_and_their_tokenizer(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base, folder = bases[family], tmp_path / "adapter"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<tool>", "</tool>"])
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    model.resize_token_embeddings(4098)
    settings = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, settings)
    with torch.no_grad():
        expected = model.eval()(IDS).logits.numpy()
    model.save_pretrained(folder, save_embedding_layers=True)
    tokenizer.save_pretrained(folder)
    assert same(ours(base, folder), expected)
    found = open_checkpoint(base, [folder])
    assert found.arch.vocab == 4098
    text = "a <tool>b</tool>"
    assert found.tokenizer.encode(text) == tokenizer(text, add_special_tokens=False).input_ids
    assert any("the tokenizer of the adapter adapter is used" in note for note in found.notes)
    shutil.rmtree(folder)
    assert found.tokenizer.encode(text)


@pytest.mark.parametrize("count", [1, 2])
def test_adapters_are_judged_as_they_run(
    count: int, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["qwen2-tied"]
    folders = [tmp_path / f"adapter-{at}" for at in range(count)]
    for at, folder in enumerate(folders):
        targets = ["embed_tokens"] if at == count - 1 else ["q_proj", "down_proj"]
        trained(base, folder, {"target_modules": targets}, seed=at)
    judged = {"reference": "transformers", "eval_rows": 2, "eval_length": 32}
    made = edgequant.quantize(
        base, "gguf:F32", tmp_path / "out", adapter=folders, method="rtn", check=False
    ).artifacts[0]
    found = edgequant.check(made.path, base, adapter=folders, **judged)
    assert found.results[0].metrics.kl < 1e-6
    with pytest.raises(edgequant.GateError):
        edgequant.check(made.path, base, max_kl=1e-3, **judged)


@pytest.mark.parametrize(
    ("targets", "modules", "told"),
    [
        (["q_proj"], ["self_attn.q_proj"], ""),
        (["up_proj"], ["mlp.shared_expert.up_proj"], ""),
        (["q_proj"], ["mlp.gate"], "finds no place for base_model.*mlp.gate.lora_A.weight of"),
        (["gate"], ["mlp.gate"], "does not run the adapter .*Router"),
        (
            ["gate_proj", "up_proj", "down_proj"],
            [f"mlp.experts.{at}.{part}_proj" for at in range(6) for part in ("gate", "up", "down")],
            "finds no place for .*experts",
        ),
    ],
)
def test_an_adapter_that_peft_would_leave_out_is_no_reference(
    targets: list[str], modules: list[str], told: str, tmp_path: Path
) -> None:
    base = moe(tmp_path / "base", QWEN2)
    arrays = {name: array.shape for name, array in open_checkpoint(base).tensors.arrays.items()}
    torch.manual_seed(0)
    tensors = {}
    for module in modules:
        name = f"model.layers.1.{module}"
        outputs, inputs = arrays[f"{name}.weight"]
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, inputs) * 0.3
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, 4) * 0.3
    adapter = tmp_path / "adapter"
    peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets
    ).save_pretrained(adapter)
    save_file(tensors, adapter / "adapter_model.safetensors")
    if told:
        with pytest.raises(edgequant.UnsupportedError, match=f"{told}.*judge without it as ref"):
            open_engine(base, "transformers", purpose="judging", adapters=[adapter])
        return
    reference = open_engine(base, "transformers", purpose="judging", adapters=[adapter])
    assert same(ours(base, adapter), reference.logits(IDS.numpy()))


def test_a_scoring_head_is_merged_into_the_base_that_the_sentence_names(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    auto = transformers.AutoModelForSequenceClassification
    plain, base, adapter = bases["qwen2-tied"], tmp_path / "base", tmp_path / "adapter"
    model = auto.from_pretrained(plain, num_labels=1, dtype=torch.float32)
    model.save_pretrained(base)
    shutil.copy(plain / "tokenizer.json", base)
    model = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.requires_grad:
                values.add_(torch.randn_like(values) * (0.02 if "score" in name else 0.1))
    model.save_pretrained(adapter)
    with pytest.raises(edgequant.UnsupportedError, match="AutoModelForSequenceClassification"):
        open_checkpoint(plain, [adapter])
    reference = open_engine(base, "transformers", purpose="judging", adapters=[adapter])
    assert same(ours(base, adapter), reference.logits(IDS.numpy()))
