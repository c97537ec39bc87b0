"""Settings of runs that take seconds, for the tests of this folder."""

from typing import Any

TEXT: dict[str, Any] = {"eval_rows": 3, "eval_length": 64}
QUICK: dict[str, Any] = {"effort": "low", "rows": 2, "length": 64, **TEXT}
