"""`--rule REGEX=TYPE`: the user's own choice of types."""

import re
from dataclasses import dataclass

from quantize.plan.values import checked_text
from runtime.errors import InputError
from runtime.quant_types import QUANT_TYPES, quant_type
from runtime.quant_types.read_only import READ_ONLY


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches `pattern` (a regular expression, searched) get `type_name`."""

    pattern: str
    type_name: str

    @staticmethod
    def parse(text: "str | Rule") -> "Rule":
        """From "attn_v=Q6_K". Raises InputError for a bad expression or an unknown type."""
        if isinstance(text, Rule):
            return text
        text = checked_text(text, "--rule", "attn_v=Q6_K")
        pattern, equals, type_name = text.rpartition("=")
        if not equals:
            raise InputError(f"--rule {text!r} has no '='; write REGEX=TYPE, like attn_v=Q6_K.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"--rule {text!r} is not a valid regular expression: {error}."
            ) from error
        if type_name.upper() in READ_ONLY:
            raise InputError(
                f"--rule {text!r} asks for {type_name.upper()}, which is read and never written; "
                f"choose one of {', '.join(QUANT_TYPES)}."
            )
        return Rule(pattern, quant_type(type_name).name)

    def __str__(self) -> str:
        return f"{self.pattern}={self.type_name}"
