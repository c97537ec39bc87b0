"""Quantize language models for laptops and phones: algorithms, pipeline, reports, command line."""
