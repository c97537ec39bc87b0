"""The one error that a user sees: a sentence that says what, which, and what to do next."""


class EdgequantError(Exception):
    """Bad input or a refused operation. The message is one sentence with the way out; the CLI exits 2."""
