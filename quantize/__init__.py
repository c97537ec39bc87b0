"""Quantize language models for laptops and phones: algorithms, pipeline, reports, command line."""

__version__ = "0.1.0"
