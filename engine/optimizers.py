"""The policy's update rule and, where there is one, the value model's: each its own rate, its own clip and its own part
of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from posttrain.engine.methods.base import Models
from posttrain.engine.optim import Optimizer, learning_rate
from posttrain.engine.spec import PpoSpec, TrainSpec


class Optimizers:
    """`policy` is the one whose weights are averaged and saved; all of them take a step together."""

    def __init__(self, models: Models, spec: TrainSpec) -> None:
        self.policy = Optimizer(models.policy.trainable(), spec.optimizer)
        # By what stands before the names of its metrics and of its files in a checkpoint.
        self._all = {"": (self.policy, spec.optimizer)}
        if models.value is not None:
            assert isinstance(spec, PpoSpec)
            options = spec.optimizer.model_copy(update={"learning_rate": spec.value.learning_rate})
            self._all["value_"] = (Optimizer(models.value.parameters, options), options)

    def accumulate(self) -> None:
        """After each backward pass, see `Optimizer.accumulate`."""
        for optimizer, _ in self._all.values():
            optimizer.accumulate()

    def fill(self) -> None:
        """See `Optimizer.fill`."""
        for optimizer, _ in self._all.values():
            optimizer.fill()

    def clear(self) -> None:
        """Forgets the gradients."""
        for optimizer, _ in self._all.values():
            optimizer.clear()

    def clip(self) -> dict[str, float]:
        """Clips each gradient's global norm; the norms before, `grad_norm` being the policy's."""
        return {f"{prefix}grad_norm": optimizer.clip() for prefix, (optimizer, _) in self._all.items()}

    def step(self, step: int, total_steps: int) -> dict[str, float]:
        """One update, of a 0-based step; the rates that were taken, and the gradients are cleared."""
        rates = {}
        for prefix, (optimizer, options) in self._all.items():
            rates[f"{prefix}learning_rate"] = rate = learning_rate(options, step, total_steps)
            optimizer.step(rate)
        return rates

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds of it: `model` and `optimizer`, and the same of the value model."""
        made: dict[str, dict[str, Tensor]] = {}
        for prefix, (optimizer, _) in self._all.items():
            made |= {f"{prefix}model": optimizer.weights(), f"{prefix}optimizer": optimizer.state()}
        return made

    def load(self, tensors: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Continues from what `tensors` returned, by name.

        Raises:
            CheckpointError: of another model.
        """
        for prefix, (optimizer, _) in self._all.items():
            optimizer.load(tensors(f"{prefix}model"), tensors(f"{prefix}optimizer"))
