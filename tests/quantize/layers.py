"""Single layers for the tests of this folder: opened, watched, and run on states in memory."""

from collections.abc import Mapping

import numpy as np
import torch

from quantize.calibration.hessian import Hessians
from quantize.calibration.stream import TOKENS, OriginalLayers, Weights, run
from quantize.checkpoint import Checkpoint
from runtime.archs import LayerSpec
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, Positions, decoder_layer

CPU = torch.device("cpu")


def layer_of(checkpoint: Checkpoint, index: int = 0) -> Layer:
    """One layer of a checkpoint, float32."""
    return OriginalLayers(checkpoint, CPU).layer(index)


def embedded(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    """What the first layer reads, (rows, T, D)."""
    rows = checkpoint.tensors["token_embd.weight"].decode()[ids]
    return rows * np.float32(checkpoint.arch.embedding_scale)


def hessians_of(
    layer: Layer,
    hidden: np.ndarray,
    after: np.ndarray | None = None,
    tokens: Mapping[str, np.ndarray] | None = None,
    step: int = TOKENS,
) -> dict[str, torch.Tensor]:
    """Hessian of each input group for states (rows, T, D); those behind the layer go to `after`."""
    observer = Hessians(layer.spec, CPU, tokens)
    run(TorchOps(), layer, hidden, after, {}, observer, step)
    return observer.mean()


def computed(spec: LayerSpec, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """States (B, T, D) behind a layer of these weights."""
    return decoder_layer(TorchOps(), Layer(spec, weights), x, Positions(0, x.shape[1]))
