"""Where transformers cuts texts otherwise than tokenizer.json says.

transformers 5 takes only vocabulary and merges from tokenizer.json for some classes, and has the
rules of the class for the rest (findings/transformers-qwen2-tokenizer-rules.sh). The file's own
rules are kept here: a model was trained on them. That the two differ is told.
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from runtime.added_tokens import tokenizer_settings
from runtime.pre_tokenizers import QWEN2

CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
ALWAYS = ("qwen2",)
"""Model types for which transformers takes the class whatever tokenizer_config.json names."""
UNNAMED = ("qwen3", "qwen2_moe", "qwen3_moe")
"""Model types for which it takes it where no class is named."""
TEXTS = ("it's 1234 WE'LL", "e\u0301\u0323 \u1e69", " a  b\n\n \tc", "x.y(z)\r\n!?", "日本語 مرحبا")


def replaced_rules(
    folder: Path, config: dict[str, Any], backend: tokenizers.Tokenizer
) -> list[str]:
    """A sentence where transformers would cut texts by rules that are not the file's."""
    named, model_type = tokenizer_settings(folder).get("tokenizer_class"), config.get("model_type")
    taken = model_type in ALWAYS or named in CLASSES
    if not taken and not (named is None and model_type in UNNAMED):
        return []
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    normalizer, cutter = normalizers.NFC(), pre_tokenizers.Sequence([split, letters])
    if all(
        _words(text, backend.normalizer, backend.pre_tokenizer) == _words(text, normalizer, cutter)
        for text in TEXTS
    ):
        return []
    return [
        "tokenizer.json has other rules than Qwen2's; they are kept, but transformers 5 reads this "
        "folder with Qwen2's, so ids may differ there"
    ]


def _words(text: str, normalizer: Any, cutter: Any) -> list[str]:
    normal = normalizer.normalize_str(text) if normalizer else text
    return [word for word, _ in cutter.pre_tokenize_str(normal)] if cutter else [normal]
