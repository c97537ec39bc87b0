"""Tensors on their way between processes: as arrays, whose bytes are sent without a copy."""

import warnings

import numpy as np
import torch


def sent(tensor: torch.Tensor) -> np.ndarray:
    """What is sent of a tensor: its memory, whose order of rows and columns is kept."""
    return tensor.detach().cpu().numpy()


def received(array: np.ndarray) -> torch.Tensor:
    """The tensor in the memory that arrived, which may be shared and must not be changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no tensors that are only read
        return torch.from_numpy(array)
