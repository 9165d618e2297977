"""Update rules over float32 masters, the learning-rate schedule, and gradient sums that do not lose small terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.engine.errors import CheckpointError, SpecError
from posttrain.engine.quantization import check_bitsandbytes
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


Groups = list[dict[str, Any]]


def _adamw(groups: Groups, options: OptimizerOptions) -> torch.optim.Optimizer:
    betas = (options.beta1, options.beta2)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas, eps=options.epsilon, fused=True)


def _adamw_8bit(groups: Groups, options: OptimizerOptions) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit  # an extra; importing it takes a second

    betas = (options.beta1, options.beta2)
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=options.learning_rate, betas=betas, eps=options.epsilon)
    return optimizer


def _adafactor(groups: Groups, options: OptimizerOptions) -> torch.optim.Optimizer:
    # Not torch's: that one multiplies the rate by each matrix's root mean square, so that a rate chosen for AdamW, or
    # LoRA's B at zero, would hardly move.
    from transformers.optimization import Adafactor

    optimizer: torch.optim.Optimizer = Adafactor(
        groups, lr=options.learning_rate, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer


UPDATE_RULES: dict[str, Callable[[Groups, OptimizerOptions], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
}


def check_update_rule(options: OptimizerOptions, device: torch.device) -> None:
    """Asked before anything is loaded.

    Raises:
        SpecError: the rule cannot run here.
    """
    if options.name != "adamw_8bit":
        return
    if device.type != "cuda":
        raise SpecError(
            f"optimizer.name: adamw_8bit runs on CUDA only, and this job would run on {device.type}",
            hint="adafactor needs less memory than adamw on any device",
        )
    check_bitsandbytes("optimizer.name: adamw_8bit")


class Optimizer:
    """One of UPDATE_RULES. Parameters that are not float32 get a float32 master, or bfloat16 would round small steps
    away.

    Matrices decay, vectors (norms, biases) do not. State is tensors by parameter name, so a checkpoint needs no pickle.

    Raises:
        SpecError: see `check_update_rule`.
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
        check_update_rule(options, named[0][1].device)
        self._rule = UPDATE_RULES[options.name]([group for group in groups if group["params"]], options)

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

    def fill(self) -> None:
        """Gives a gradient of 0 to what has none: a step in which nothing is computed still moves by momentum."""
        for master in self._masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)

    def clear(self) -> None:
        """Forgets the gradients."""
        self._rule.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at this learning rate; clears the gradients."""
        for group in self._rule.param_groups:
            group["lr"] = rate
        self._rule.step()
        self.clear()
        for name, parameter in self._parameters.items():
            if self._masters[name] is not parameter:
                parameter.copy_(self._masters[name])

    def weights(self) -> dict[str, Tensor]:
        """Trained parameters by name, in float32."""
        return dict(self._masters)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Puts weights of the same names and shapes into the masters and the model."""
        for name, master in self._masters.items():
            master.copy_(weights[name])
            parameter = self._parameters[name]
            if parameter is not master:
                parameter.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """What the rule remembers, as `NAME/KEY`; of AdamW `exp_avg`, `exp_avg_sq` and `step`. Whole numbers are int64
        scalars."""
        return {
            f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64)
            for name, master in self._masters.items()
            for key, value in self._rule.state[master].items()
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
        self.set_weights(weights)
        entries: dict[str, dict[str, Tensor]] = {name: {} for name in self._masters}
        for place, value in state.items():
            name, _, key = place.rpartition("/")
            entries.setdefault(name, {})[key] = value
        for name, master in self._masters.items():
            if entries[name]:
                self._rule.state[master] = {key: _restored(key, v, master) for key, v in entries[name].items()}


def _restored(key: str, value: Tensor, master: Tensor) -> Tensor | int:
    if value.dtype == torch.int64:
        return int(value)
    # AdamW counts its steps on the CPU, but for the fused kernel of CUDA.
    return value.clone().to("cpu" if key == "step" and not master.is_cuda else master.device)
