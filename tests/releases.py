"""The released models: what of each config.json decides how it is computed and stored.

Sizes are those of the config.json of each release on the Hugging Face hub. docs/models.md says what
becomes of each, as tests/small_releases.py measures it.
"""

from dataclasses import dataclass, field
from typing import Any

EQUAL = ""


@dataclass(frozen=True)
class Release:
    """A released model, and the sentence with which a container refuses it, EQUAL if none."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool = False
    head_dim: int = 128
    facts: dict[str, Any] = field(default_factory=dict)
    """The rest of config.json."""
    layers: int = 2
    """Of the small one."""
    gguf: str = EQUAL
    onnx: str = EQUAL
    length: int = 64
    """Tokens of the text that a GGUF is judged on."""
    scores: str = ""
    """Of a model that scores texts, whether transformers has its "class" or "no class"."""


def qwen2(theta: float = 1e6, context: int = 32768, **facts: Any) -> dict[str, Any]:
    rope = {"rope_theta": theta, "max_position_embeddings": context}
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]} | rope | facts


def llama(theta: float = 5e5, factor: float = 0, **facts: Any) -> dict[str, Any]:
    out = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": theta}
    if factor:
        scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0}
        scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        out |= {"rope_scaling": scaling, "max_position_embeddings": 131072}
    return out | {"rms_norm_eps": 1e-5} | facts


def qwen3(**facts: Any) -> dict[str, Any]:
    own = {"rope_theta": 1e6, "max_position_embeddings": 40960, "head_dim": 128}
    return {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]} | own | facts


def experts(family: str, count: int, top_k: int, width: int, **facts: Any) -> dict[str, Any]:
    own = {"num_experts": count, "num_experts_per_tok": top_k, "moe_intermediate_size": width}
    name = {"qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}[family]
    return {"model_type": family, "architectures": [name], "rope_theta": 1e6} | own | facts


def mistral(theta: float, context: int, **facts: Any) -> dict[str, Any]:
    own = {"rope_theta": theta, "max_position_embeddings": context, "rms_norm_eps": 1e-5}
    return {"model_type": "mistral", "architectures": ["MistralForCausalLM"]} | own | facts


def gemma3(window: int) -> dict[str, Any]:
    own = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "max_position_embeddings": 32768}
    own |= {"sliding_window": window, "query_pre_attn_scalar": 256, "head_dim": 256}
    own |= {"hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 6}
    return {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]} | own


def vision(family: str, name: str) -> dict[str, Any]:
    own = {"rope_theta": 1e6, "max_position_embeddings": 32768, "rope_scaling": SECTIONS}
    own |= {"vision_start_token_id": 4096, "vision_end_token_id": 4097}
    own |= {"image_token_id": 4098, "video_token_id": 4099}
    return {"model_type": family, "architectures": [name]} | own


def scoring(name: str, labels: int, theta: float, context: int) -> dict[str, Any]:
    named = {str(label): f"LABEL_{label}" for label in range(labels)}
    return qwen2(theta, context, architectures=[name], id2label=named, pad_token_id=4093)


def phi3(context: int, pairs: int = 0, **facts: Any) -> dict[str, Any]:
    own = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "rope_theta": 1e4}
    own |= {"max_position_embeddings": context, "rms_norm_eps": 1e-5, "pad_token_id": 4093}
    own |= {"original_max_position_embeddings": 4096}
    if pairs:
        tables = {
            "short_factor": [1 + pair / 40 for pair in range(pairs)],
            "long_factor": [1 + pair for pair in range(pairs)],
        }
        own |= {"rope_scaling": {"type": "longrope"} | tables}
    return own | facts


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SECTIONS = {"type": "mrope", "mrope_section": [16, 24, 24]}
MILLION = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
NO_SCORES = "llama.cpp loads no such head"

RELEASES = [
    Release("Qwen2.5-0.5B, -Coder-0.5B", 896, 14, 2, 4864, True, 64, qwen2()),
    Release("Qwen2.5-1.5B, -Coder-1.5B", 1536, 12, 2, 8960, True, 128, qwen2()),
    Release("Qwen2.5-3B, -Coder-3B", 2048, 16, 2, 11008, True, 128, qwen2()),
    Release("Qwen2.5-7B, -Coder-7B", 3584, 28, 4, 18944, False, 128, qwen2()),
    Release("Qwen2.5-14B, -Coder-14B", 5120, 40, 8, 13824, False, 128, qwen2()),
    Release("Qwen2.5-32B, -Coder-32B", 5120, 40, 8, 27648, False, 128, qwen2()),
    Release("Qwen2.5-72B", 8192, 64, 8, 29568, False, 128, qwen2()),
    Release("Qwen2.5-7B with YaRN", 3584, 28, 4, 18944, False, 128, qwen2(rope_scaling=YARN)),
    Release("Qwen2.5-Math-1.5B", 1536, 12, 2, 8960, True, 128, qwen2(1e4, 4096)),
    Release("Qwen2.5-Math-7B", 3584, 28, 4, 18944, False, 128, qwen2(1e4, 4096)),
    Release("QwQ-32B", 5120, 40, 8, 27648, False, 128, qwen2(context=40960)),
    Release("DeepSeek-R1-Distill-Qwen-1.5B", 1536, 12, 2, 8960, False, 128, qwen2(1e4, 131072)),
    Release("DeepSeek-R1-Distill-Qwen-7B", 3584, 28, 4, 18944, False, 128, qwen2(1e4, 131072)),
    Release("DeepSeek-R1-Distill-Qwen-14B", 5120, 40, 8, 13824, False, 128, qwen2(context=131072)),
    Release("DeepSeek-R1-Distill-Qwen-32B", 5120, 40, 8, 27648, False, 128, qwen2(context=131072)),
    Release("DeepSeek-R1-Distill-Llama-8B", 4096, 32, 8, 14336, False, 128, llama(factor=8.0)),
    Release("Llama-3-8B", 4096, 32, 8, 14336, False, 128, llama(max_position_embeddings=8192)),
    Release("Llama-3.1-8B", 4096, 32, 8, 14336, False, 128, llama(factor=8.0)),
    Release("Llama-3.1-70B, -3.3-70B", 8192, 64, 8, 28672, False, 128, llama(factor=8.0)),
    Release("Llama-3.1-405B", 16384, 128, 8, 53248, False, 128, llama(factor=8.0)),
    Release("Llama-3.2-1B", 2048, 32, 8, 8192, True, 64, llama(factor=32.0)),
    Release("Llama-3.2-3B", 3072, 24, 8, 8192, True, 128, llama(factor=32.0)),
    Release("TinyLlama-1.1B", 2048, 32, 4, 5632, False, 64, llama(1e4)),
    Release("SmolLM2-135M", 576, 9, 3, 1536, True, 64, llama(1e5)),
    Release("SmolLM2-360M", 960, 15, 5, 2560, True, 64, llama(1e5)),
    Release("Qwen3-0.6B", 1024, 16, 8, 3072, True, 128, qwen3()),
    Release("Qwen3-1.7B", 2048, 16, 8, 6144, True, 128, qwen3()),
    Release("Qwen3-4B", 2560, 32, 8, 9728, True, 128, qwen3()),
    Release("Qwen3-8B", 4096, 32, 8, 12288, False, 128, qwen3()),
    Release("Qwen3-14B", 5120, 40, 8, 17408, False, 128, qwen3()),
    Release("Qwen3-32B", 5120, 64, 8, 25600, False, 128, qwen3()),
    Release(
        "Qwen1.5-MoE-A2.7B",
        2048, 16, 16, 5632, False, 128,
        experts("qwen2_moe", 60, 4, 1408, shared_expert_intermediate_size=5632),
    ),
    Release(
        "Qwen2-57B-A14B",
        3584, 28, 4, 18944, False, 128,
        experts("qwen2_moe", 64, 8, 2560, shared_expert_intermediate_size=20480),
    ),
    Release(
        "Qwen3-30B-A3B",
        2048, 32, 4, 6144, False, 128,
        experts("qwen3_moe", 128, 8, 768, norm_topk_prob=True, head_dim=128),
    ),
    Release(
        "Qwen3-235B-A22B",
        4096, 64, 4, 12288, False, 128,
        experts("qwen3_moe", 128, 8, 1536, norm_topk_prob=True, head_dim=128),
    ),
    Release(
        "Qwen2.5-7B-Instruct-1M",
        3584, 28, 4, 18944, False, 128,
        qwen2(1e7, 1010000, dual_chunk_attention_config=MILLION),
    ),
    Release(
        "Qwen2.5-14B-Instruct-1M",
        5120, 40, 8, 13824, False, 128,
        qwen2(1e7, 1010000, dual_chunk_attention_config=MILLION),
    ),
    Release(
        "Qwen2-VL-2B",
        1536, 12, 2, 8960, True, 128,
        vision("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    ),
    Release(
        "Qwen2-VL-7B",
        3584, 28, 4, 18944, False, 128,
        vision("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    ),
    Release(
        "Qwen2.5-VL-3B",
        2048, 16, 2, 11008, True, 128,
        vision("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    ),
    Release(
        "Qwen2.5-VL-7B",
        3584, 28, 4, 18944, False, 128,
        vision("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    ),
    Release(
        "Qwen2.5-VL-72B",
        8192, 64, 8, 29568, False, 128,
        vision("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    ),
    Release(
        "Qwen2.5-Math-RM-72B",
        8192, 64, 8, 29568, False, 128,
        scoring("Qwen2ForRewardModel", 1, 1e4, 4096),
        gguf=NO_SCORES,
        scores="no class",
    ),
    Release(
        "Qwen2.5-Math-PRM-7B",
        3584, 28, 4, 18944, False, 128,
        scoring("Qwen2ForProcessRewardModel", 2, 1e4, 4096),
        gguf=NO_SCORES,
        scores="no class",
    ),
    Release(
        "Qwen2.5 reward models and classifiers of one linear, 1.5B",
        1536, 12, 2, 8960, True, 128,
        scoring("Qwen2ForSequenceClassification", 1, 1e6, 32768),
        gguf=NO_SCORES,
        scores="class",
    ),
    Release(
        "Mistral-7B-v0.1",
        4096, 32, 8, 14336, False, 128,
        mistral(1e4, 32768, sliding_window=4096),
        length=24,
    ),
    Release(
        "Mistral-7B-v0.3", 4096, 32, 8, 14336, False, 128, mistral(1e6, 32768, sliding_window=None)
    ),
    Release(
        "Mistral-Small-24B",
        5120, 32, 8, 32768, False, 128,
        mistral(1e8, 32768, sliding_window=None, head_dim=128),
    ),
    Release("Gemma-3-270M", 640, 4, 1, 2048, True, 256, gemma3(512), layers=6),
    Release("Gemma-3-1B", 1152, 4, 1, 6912, True, 256, gemma3(512), layers=6),
    Release("Gemma-3-4B, the language model", 2560, 8, 4, 10240, True, 256, gemma3(1024), layers=6),
    Release(
        "Phi-3-mini-4k",
        3072, 32, 32, 8192, False, 96,
        phi3(4096, sliding_window=2047),
        length=24,
    ),
    Release("Phi-3-mini-128k, Phi-3.5-mini", 3072, 32, 32, 8192, False, 96, phi3(131072, 48)),
    Release(
        "Phi-4-mini", 3072, 24, 8, 8192, True, 128, phi3(131072, 48, partial_rotary_factor=0.75)
    ),
]  # fmt: skip
