"""Engines, one file each: `open(model, **options) -> Engine`. Imported on use."""
