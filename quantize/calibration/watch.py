"""A batch through a layer, only as far as an observer wants to see it."""

from contextlib import suppress

import numpy as np
import torch

from quantize.calibration.states import fetch
from quantize.calibration.workers import Batch
from runtime.backends.torch import TorchOps
from runtime.forward import Layer, Observer, Positions, decoder_layer


def behind(
    ops: TorchOps, layer: Layer, states: np.ndarray, positions: Positions, observer: Observer
) -> torch.Tensor:
    """Some states (rows, T, D) behind a layer, (rows, T, D) on the device."""
    x = fetch(states, slice(None), ops.device)
    return decoder_layer(ops, layer, x, positions, observer=observer)


def watch(ops: TorchOps, layer: Layer, batch: Batch, observer: Observer) -> None:
    """A batch through a layer; what comes after the observer's `until` is not computed."""
    with suppress(Enough):
        behind(ops, layer, batch.states[0], batch.positions, Until(observer))


class Enough(Exception):
    """Nobody wants to see the rest of a layer."""


class Until(Observer):
    """Tells another observer what it wants to see, and then raises Enough."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def read(self, group: str, x: torch.Tensor) -> None:
        self.observer.read(group, x)
        if group == self.observer.until:
            raise Enough

    def wrote(self, linear: str, y: torch.Tensor) -> None:
        self.observer.wrote(linear, y)

    def routed(self, tokens: np.ndarray) -> None:
        self.observer.routed(tokens)
