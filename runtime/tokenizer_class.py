"""Where transformers cuts texts otherwise than tokenizer.json says.

transformers 5 takes only vocabulary, merges and mostly the post-processor from tokenizer.json for
some classes, and has the rules of the class for the rest: see
findings/transformers-qwen2-tokenizer-rules.sh. The file's own rules are kept here, because a model
was trained on them. That the two differ is told.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from runtime.added_tokens import content, tokenizer_settings
from runtime.gguf_vocab import SPACE
from runtime.pre_tokenizers import QWEN2
from runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rules:
    """What a class of transformers has instead of what tokenizer.json says."""

    cutter: Callable[[dict[str, Any]], Any]
    """Its pre-tokenizer, by tokenizer_config.json."""
    special: dict[str, str]
    """Special tokens where tokenizer_config.json has no such key."""
    normalizer: Any = None
    fallback: bool = False
    """Whether letters that are no token are spelled in bytes, and unknown ones joined."""
    begins: str | None = None
    """What it puts before a text: the name of a special token, "" = nothing, None = as the file."""


def _byte_level(settings: dict[str, Any]) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))


def _qwen2(settings: dict[str, Any]) -> Any:
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    space = bool(settings.get("add_prefix_space"))
    letters = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    return pre_tokenizers.Sequence([split, letters])


def _metaspace(settings: dict[str, Any]) -> Any:
    scheme = "always" if settings.get("legacy") else "first"
    if settings.get("add_prefix_space") is False:
        scheme = "never"
    return pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)


def _code_llama(settings: dict[str, Any]) -> Any:
    return _metaspace(settings | {"legacy": False})


def _spaces(settings: dict[str, Any]) -> Any:
    return pre_tokenizers.Split(" ", "merged_with_previous")


NFC = normalizers.NFC()
END = "<|endoftext|>"
ENDS = {"unk_token": END, "bos_token": END, "eos_token": END}
SENTENCEPIECE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
CODE_LLAMA = {
    "prefix_token": "▁<PRE>",
    "middle_token": "▁<MID>",
    "suffix_token": "▁<SUF>",
    "eot_token": "▁<EOT>",
    "fill_token": "<FILL_ME>",
}
GEMMA = {f"{name}_token": f"<{name}>" for name in ("unk", "bos", "eos", "pad", "mask")}
CLASSES = {
    "Qwen2Tokenizer": Rules(_qwen2, {"unk_token": END, "eos_token": END, "pad_token": END}, NFC),
    "GPT2Tokenizer": Rules(_byte_level, ENDS),
    "GPTNeoXTokenizer": Rules(_byte_level, ENDS | {"pad_token": "<|padding|>"}, NFC, begins=""),
    "LlamaTokenizer": Rules(_metaspace, SENTENCEPIECE, fallback=True),
    "CodeLlamaTokenizer": Rules(
        _code_llama, SENTENCEPIECE | CODE_LLAMA, fallback=True, begins="bos_token"
    ),
    "GemmaTokenizer": Rules(_spaces, GEMMA, normalizers.Replace(" ", SPACE), fallback=True),
}
"""Class, without "Fast" -> its rules. Other names of supported models stand for no rules."""
REGISTERED = dict.fromkeys(("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"), "Qwen2Tokenizer")
REGISTERED |= dict.fromkeys(("gemma3", "gemma3_text"), "GemmaTokenizer")
"""Model type -> the class where none is named."""
ALWAYS = ("qwen2",)
"""Model types for which it is the registered one whatever is named."""
TEXTS = (
    "it's 1234 WE'LL",
    "e\u0301\u0323 \u1e69",
    " a  b\n\n \tc",
    "x.y(z)\r\n!?",
    "日本語 مرحبا \U0001f600",
    "   ",
    SPACE,
)


def replaced_rules(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    """A sentence for each rule of transformers that is not that of the file which counts."""
    settings = tokenizer_settings(folder)
    return _unheeded(settings, tokenizer) + _other_class(folder, config, settings, tokenizer)


def _unheeded(settings: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    """Sentences where tokenizer_config.json says otherwise what is put around a text."""
    told = []
    for key, ids, where in (
        ("add_bos_token", tokenizer.prefix, "before"),
        ("add_eos_token", tokenizer.suffix, "after"),
    ):
        said = settings.get(key)
        if said is not None and said != bool(ids):
            what = f"puts {tokenizer.decode(ids)!r}" if ids else "puts nothing"
            told.append(
                f"tokenizer.json {what} {where} a text, and that counts, as in transformers 5: "
                f"{key} ({str(said).lower()}) of tokenizer_config.json is not read"
            )
    return told


def _other_class(
    folder: Path, config: dict[str, Any], settings: dict[str, Any], tokenizer: Tokenizer
) -> list[str]:
    """A sentence where transformers' class would give other ids."""
    name = _class_name(folder, config, settings)
    rules, backend = CLASSES.get(name), tokenizer.backend
    if rules is None:
        return []
    if isinstance(backend.model, models.BPE):
        other = _as_class(rules, settings, backend)
        marks = dict.fromkeys(token.content for token in (*_added(backend), *_added(other)))
        texts = [*TEXTS, *(f"a{mark}b {mark} c{mark} {mark}" for mark in marks)]
        if all(_ids(backend, text) == _ids(other, text) for text in texts):
            return []
    return [
        f"tokenizer.json has other rules than {name}'s; they are kept, but transformers 5 reads "
        f"this folder with {name}'s, so ids may differ there"
    ]


def _class_name(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> str:
    """The class that `AutoTokenizer` takes, without "Fast"."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class") or ""
    named = named.removesuffix("Fast")
    kind = config.get("model_type", "")
    if kind in ALWAYS or not named:
        return REGISTERED.get(kind, "")
    file = folder / "tokenizer.json"
    if named == "LlamaTokenizer" and '"ByteLevel"' in file.read_text(encoding="utf-8"):
        return ""  # Llama 3's, under the name of Llama 2's
    return str(named)


def _as_class(
    rules: Rules, settings: dict[str, Any], backend: tokenizers.Tokenizer
) -> tokenizers.Tokenizer:
    """The same vocabulary with the rules of a class."""
    flags = {
        "unk_token": None,
        "fuse_unk": rules.fallback,
        "byte_fallback": rules.fallback,
        "ignore_merges": False,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
    }
    model = backend.model
    if any((getattr(model, key) or None) != (value or None) for key, value in flags.items()):
        model = copy.deepcopy(model)  # slow for a large vocabulary
        for key, value in flags.items():
            setattr(model, key, value)
    made = tokenizers.Tokenizer(model)
    made.normalizer = rules.normalizer
    made.pre_tokenizer = rules.cutter(settings)
    made.post_processor = backend.post_processor
    made.add_tokens(_added(backend))
    named = [text for key, text in rules.special.items() if key not in settings]
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in named])
    if rules.begins is not None:
        text = content(settings.get(rules.begins, rules.special.get(rules.begins)))
        tokens = [(text, made.token_to_id(text))] if text else []
        made.post_processor = processors.TemplateProcessing(
            single=[*(text for text, _ in tokens), "$A"], pair="$A $B:1", special_tokens=tokens
        )
    return made


def _added(backend: tokenizers.Tokenizer) -> list[AddedToken]:
    """Added tokens in the order of their ids."""
    return [token for _, token in sorted(backend.get_added_tokens_decoder().items())]


def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    return list(backend.encode(text).ids)
