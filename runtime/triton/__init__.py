"""Products with packed weights on a CUDA card, in Triton; imported by the torch backend alone.

`decoders.py` says what a layout's bytes mean on a card, `kernels.py` multiplies with any of them,
and `ops.py` is what the torch backend runs.
"""
