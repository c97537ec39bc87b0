"""What llama.cpp says of the vocabulary of a file that it loaded."""

from ctypes import POINTER, c_bool, c_char_p, c_int32, c_void_p
from typing import Any

_CUT = (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)
_VOCABULARY: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_tokenize": (c_int32, _CUT),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    **{
        f"llama_vocab_fim_{part}": (c_int32, (c_void_p,))
        for part in ("pre", "suf", "mid", "pad", "rep", "sep")
    },
}


def _call(engine: Any, name: str, *arguments: Any) -> Any:
    """A function of llama.cpp on the vocabulary of an engine's model."""
    library = engine.library
    library.llama_model_get_vocab.restype = c_void_p
    library.llama_model_get_vocab.argtypes = (c_void_p,)
    function = getattr(library, name)
    function.restype, function.argtypes = _VOCABULARY[name]
    return function(library.llama_model_get_vocab(engine.model), *arguments)


def tokenize(engine: Any, text: str, add_special: bool = False) -> list[int]:
    """Ids of a text; special tokens are recognised."""
    raw = text.encode()
    room = 4 * len(raw) + 16  # at worst a token a byte, and three for the space before a piece
    ids = (c_int32 * room)()
    count = _call(engine, "llama_tokenize", raw, len(raw), ids, room, add_special, True)
    return list(ids[:count])


def ends(engine: Any) -> set[int]:
    """Every id at which llama.cpp stops."""
    count = _call(engine, "llama_vocab_n_tokens")
    return {index for index in range(count) if _call(engine, "llama_vocab_is_eog", index)}


def bos(engine: Any) -> int:
    return int(_call(engine, "llama_vocab_bos"))


def eos(engine: Any) -> int:
    return int(_call(engine, "llama_vocab_eos"))


def adds_bos(engine: Any) -> bool:
    return bool(_call(engine, "llama_vocab_get_add_bos"))


def code_tokens(engine: Any) -> dict[str, int]:
    """The ids of fill-in-the-middle, -1 for none."""
    parts = ("pre", "suf", "mid", "pad", "rep", "sep")
    return {part: int(_call(engine, f"llama_vocab_fim_{part}")) for part in parts}
