"""Engines, one file each: `open(model, **options) -> Engine`. Imported on use.

An engine that is not ours and opens files itself says `READS_FILES = True`: its `open` is given a
path where the rest are given a Model. Options that only some uses want are named in `PURPOSES`, by
"generation" (many tokens, one by one) and "judging" (nothing rounded that the file does not round):
`open_engine(..., purpose="judging")` adds them.
"""
