"""Exponential moving average of the trained weights (Polyak and Juditsky 1992; arXiv:1703.01780, section 2).

    average_n = d_n * average_(n-1) + (1 - d_n) * weights_n,    d_n = min(decay, (1 + n) / (10 + n)),   n = 1, 2, ...

The smaller decay of the first steps (TensorFlow's, `num_updates`) keeps a short run's average from being its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from posttrain.engine.optim import Optimizer


class Average:
    """The float32 average of an optimiser's weights, by parameter name."""

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self._optimizer = optimizer
        self._decay = decay
        self._average = {name: weight.detach().clone() for name, weight in optimizer.weights().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after a step (1-based)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, weight in self._optimizer.weights().items():
            self._average[name].lerp_(weight, 1 - decay)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model computes with the average in the block, and with its own weights, to the bit, after it."""
        own = {name: weight.detach().clone() for name, weight in self._optimizer.weights().items()}
        self._optimizer.set_weights(self._average)
        try:
            yield
        finally:
            self._optimizer.set_weights(own)

    def state(self) -> dict[str, Tensor]:
        return dict(self._average)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continues from what `state` returned; the shapes are those that the optimiser has checked."""
        for name, average in self._average.items():
            average.copy_(state[name])
