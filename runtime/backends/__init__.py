"""Engines, one file each: `open(model, **options) -> Engine`. Imported on use.

An engine of others, which opens files itself, says `READS_FILES = True`: its `open` is given a path
where the rest are given a Model. One with options that pay off only where many tokens are generated
names them in `FOR_GENERATION`: `open_engine` adds them for who generates.
"""
