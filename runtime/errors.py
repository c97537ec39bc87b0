"""The one error that a user sees: a sentence that says what, which, and what to do next."""


class EdgequantError(Exception):
    """Bad input or a refused operation: one sentence with the way out; the command exits 2."""
