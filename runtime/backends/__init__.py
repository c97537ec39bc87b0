"""Engines, one file each: `open(model, **options) -> Engine`. Imported on use.

An engine that is not ours and opens files itself says `READS_FILES = True`: its `open` is given a
path where the rest are given a Model. Options that pay off only when many tokens are generated are
named in `FOR_GENERATION`: `open_engine(..., generating=True)` adds them.
"""
