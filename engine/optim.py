"""AdamW over float32 masters, the learning-rate schedule, and gradient sums that do not lose small terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from posttrain.engine.errors import CheckpointError
from posttrain.engine.spec import OptimizerOptions


def learning_rate(options: OptimizerOptions, step: int, total_steps: int) -> float:
    """Rate of a 0-based step: linear rise over warmup_ratio * total steps, rounded up, then a decay that ends at
    final_ratio * peak.

    The first step already moves (1/(w+1) of the peak) and the last one still does: a step at rate 0 is a step for
    nothing.
    """
    warmup = math.ceil(round(options.warmup_ratio * total_steps, 9))  # 0.07 * 100 is a little more than 7
    if step < warmup:
        return options.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    if options.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    elif options.schedule == "linear":
        share = 1 - progress
    else:
        return options.learning_rate
    return options.learning_rate * (options.final_ratio + (1 - options.final_ratio) * share)


class Optimizer:
    """AdamW (arXiv:1711.05101). Parameters that are not float32 get a float32 master, or bfloat16 would round small
    steps away.

    Matrices decay, vectors (norms, biases) do not. State is tensors by parameter name, so a checkpoint needs no pickle.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], options: OptimizerOptions) -> None:
        self._options = options
        self._parameters = dict(named)
        self._masters: dict[str, Tensor] = {
            name: p if p.dtype == torch.float32 else p.detach().float().clone() for name, p in named
        }
        decayed = [master for master in self._masters.values() if master.ndim >= 2]
        others = [master for master in self._masters.values() if master.ndim < 2]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            eps=options.epsilon,
            fused=True,
        )

    def accumulate(self) -> None:
        """After each backward pass: moves gradients of half-precision parameters into float32 sums."""
        for name, parameter in self._parameters.items():
            master = self._masters[name]
            if master is parameter or parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def clip(self) -> float:
        """Clips the gradient's global norm to `max_grad_norm`; returns the norm before."""
        return float(nn.utils.clip_grad_norm_(self._masters.values(), self._options.max_grad_norm))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at this learning rate; clears the gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        for name, parameter in self._parameters.items():
            if self._masters[name] is not parameter:
                parameter.copy_(self._masters[name])

    def weights(self) -> dict[str, Tensor]:
        """Trained parameters by name, in float32."""
        return dict(self._masters)

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and step counts, as `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
        return {
            f"{name}/{key}": value
            for name, master in self._masters.items()
            for key, value in self._adamw.state[master].items()
        }

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Continues from what `weights` and `state` returned.

        Raises:
            CheckpointError: other parameters, or other shapes.
        """
        shapes = {name: tuple(master.shape) for name, master in self._masters.items()}
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if shapes != found:
            differing = sorted(set(shapes.items()) ^ set(found.items()))
            raise CheckpointError(f"the checkpoint is of another model: {differing[0][0]} differs")
        for name, master in self._masters.items():
            master.copy_(weights[name])
            parameter = self._parameters[name]
            if parameter is not master:
                parameter.copy_(master)
            entries = {key.rsplit("/", 1)[1]: value for key, value in state.items() if key.rsplit("/", 1)[0] == name}
            if entries:
                device = {key: "cpu" if key == "step" and not master.is_cuda else master.device for key in entries}
                self._adamw.state[master] = {key: value.clone().to(device[key]) for key, value in entries.items()}
