"""How a model's makers want its tokens chosen: generation_config.json, read as transformers does.

Where that file is there, it counts alone; config.json of an older model may hold the same keys.
"""

from pathlib import Path
from typing import Any

from runtime.json_files import GenerationConfig, checked, read_json

FILE, OLDER = "generation_config.json", "config.json"

DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "min_length": 0,
    "num_beams": 1,
}
"""Setting -> what transformers takes where neither file says anything."""

UNWRITTEN: dict[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "watermarking_config": None,
}
"""Setting that transformers heeds and no container has -> the value that does nothing.

Without those of the longest answer, which is for a caller to say.
"""
UNWRITTEN_DRAWN: dict[str, Any] = {
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "typical_p": 1.0,
}
"""Likewise, heeded with `do_sample` alone."""


def sampling(folder: Path) -> dict[str, Any]:
    """A value for each of DEFAULTS.

    Raises CorruptFileError for one that transformers would not draw with.
    """
    path = folder / (FILE if (folder / FILE).exists() else OLDER)
    checked(read_json(path), GenerationConfig, str(path))
    return DEFAULTS | _said(path)


def notes(folder: Path) -> list[str]:
    """What is left out somewhere, a sentence each. Raises as `sampling` does."""
    told, asked = [], sampling(folder)
    older = _said(folder / OLDER) if (folder / FILE).exists() else {}
    # files of older versions spell out every default
    unlike = [key for key, value in older.items() if value not in (asked[key], DEFAULTS[key])]
    if unlike:
        told.append(f"{FILE} was read and {', '.join(unlike)} of {OLDER} not, as transformers does")
    if left_out := _heeded(folder, asked):
        told.append(f"no artifact says {', '.join(left_out)}, which transformers heeds")
    if left_out := without_gguf_key(asked):
        told.append(f"a GGUF file leaves out {', '.join(left_out)}, which transformers heeds")
    if unknown := without_place(asked):
        told.append(
            f"an ONNX folder leaves out {', '.join(unknown)}, which onnxruntime-genai does not have"
        )
    return told


def without_place(asked: dict[str, Any]) -> list[str]:
    """Settings that onnxruntime-genai does not have, or not together with the others."""
    beams = asked["do_sample"] and asked["num_beams"] > 1
    return ["min_p"] * bool(asked["min_p"]) + ["num_beams beside do_sample"] * beams


def without_gguf_key(asked: dict[str, Any]) -> list[str]:
    """Settings that a GGUF file does not say: without do_sample it says nothing at all."""
    names = ["min_length", "num_beams"] + ["repetition_penalty"] * (not asked["do_sample"])
    return [name for name in names if asked[name] != DEFAULTS[name]]


def _heeded(folder: Path, asked: dict[str, Any]) -> list[str]:
    """Settings of the file that counts which change what transformers generates."""
    found = read_json(folder / (FILE if (folder / FILE).exists() else OLDER))
    usual = UNWRITTEN | (UNWRITTEN_DRAWN if asked["do_sample"] else {})
    return [key for key, value in usual.items() if found.get(key) not in (None, value, [])]


def _said(path: Path) -> dict[str, Any]:
    """The settings of one file; a null says nothing."""
    found = read_json(path)
    return {key: found[key] for key in DEFAULTS if found.get(key) is not None}
