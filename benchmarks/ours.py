"""The engine's side: its own training loop, as an attempt runs it, over rows that are there already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workload import SEED, Entry, build_model, by_mix
from posttrain.engine import attention
from posttrain.engine.attempt import Events
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.mixing import Mix
from posttrain.engine.events import AnyEvent, EventWriter, StepMetrics
from posttrain.engine.loop import Trainer
from posttrain.engine.methods import Models, method_of
from posttrain.engine.models import LanguageModel
from posttrain.engine.run import _repeatable
from posttrain.engine.score import add_score_head
from posttrain.engine.spec import LoraAdapter, parse_spec

OnStep = Callable[[Sequence[AnyRow], float, float], None]


def spec_of(entry: Entry, num_rows: int, num_steps: int) -> Any:
    return parse_spec(
        {
            "kind": entry.kind,
            "base": "base@1",
            "output": "bench",
            "data": [{"dataset": "data@1"}],
            "seed": SEED,
            "dtype": "float32",
            "adapter": entry.adapter,
            "duration": {"type": "steps", "max_steps": num_steps},
            "batch": {"num_rows": num_rows},
            "optimizer": {"learning_rate": entry.learning_rate, "schedule": "constant", "warmup_ratio": 0.0},
            "checkpoint": {"every_steps": num_steps + 1},
            **entry.options,
        }
    )


class Ours:
    """A run of the engine's training loop on the steps given."""

    def __init__(self, entry: Entry, model: str, steps: Sequence[Sequence[AnyRow]]) -> None:
        num_rows = len(steps[0])
        self._spec = spec_of(entry, num_rows, len(steps))
        self._method = method_of(self._spec)
        module = build_model(model, attention.NAME)
        torch.manual_seed(SEED)
        peft = None
        if isinstance(self._spec.adapter, LoraAdapter):
            from posttrain.engine.adapters import add_lora

            peft = add_lora(module, self._spec.adapter, "base@1")
        self._models = Models(LanguageModel.of(module), peft)
        randomise_b(self.trained())
        if self._method.makes == "reward_model":
            add_score_head(self._models.policy, SEED)
        order = Mix([len(steps) * num_rows], [1.0], SEED)
        self._rows = by_mix(steps, [order.at(position)[1] for position in range(len(steps) * num_rows)])

    def weights(self) -> dict[str, Tensor]:
        """All weights by the names of the model without adapter, and the adapter's."""
        return dict(self._models.policy.module.named_parameters())

    def trained(self) -> dict[str, nn.Parameter]:
        return dict(self._models.policy.trainable())

    def linear_flops(self, rows: Sequence[AnyRow]) -> float:
        """Floating-point operations of a step in linear layers: 2 a weight and token forward, 2 for the gradient of
        the input, 2 for that of the weight where it is trained, 2 in a reference pass. A shared prompt counts once."""
        tokens, targets = sum(map(len, rows)), sum(row.num_targets for row in rows)
        head: Any = self._models.policy.head.weight
        reference = 2 if getattr(self._spec, "reference", "") == "adapter_off" else 0
        scored = 0 if self._spec.kind == "reward" else targets
        flops = (4 + reference + 2 * int(head.requires_grad)) * scored * head.numel()
        for name, weight in self._linear_weights().items():
            per_weight = 4 + 2 * int(weight.requires_grad) + (0 if "lora_" in name else reference)
            flops += per_weight * tokens * weight.numel()
        return float(flops)

    def linear_shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the linear layers without the head and adapters."""
        weights = self._linear_weights().items()
        return [(weight.shape[0], weight.shape[1]) for name, weight in weights if "lora_" not in name]

    def _linear_weights(self) -> dict[str, Tensor]:
        """Of all linear layers but the language model's head."""
        policy = self._models.policy
        linear = {name: layer for name, layer in policy.module.named_modules() if type(layer) is nn.Linear}
        return {name: layer.weight for name, layer in linear.items() if layer is not policy.head}

    def run(self, folder: Path, on_step: OnStep) -> None:
        """Trains. After each step, its event written, `on_step(rows, loss, seconds)` is called; the time until it
        returns is nobody's. The rows are those that the loop took."""
        method, taken = self._method, list[AnyRow]()
        window = method.window

        def noting(rows: Sequence[AnyRow], models: Models) -> Any:
            taken[:] = rows
            return window(rows, models)

        method.window = noting  # type: ignore[method-assign]
        with EventWriter(folder / "events.jsonl", 1) as writer, _repeatable(SEED):
            if method.caches_reference:
                method.prepare([self._rows], self._models, lambda done, total: None)
            begun = 0.0

            class Clock(Events):
                def __call__(self, event: AnyEvent) -> None:
                    nonlocal begun
                    super().__call__(event)
                    if isinstance(event, StepMetrics):
                        seconds = time.perf_counter() - begun
                        on_step(taken, event.values["loss"], seconds)
                        begun = time.perf_counter()

            trainer = Trainer(self._spec, method, self._models, [self._rows], Clock(writer), folder / "checkpoints")
            begun = time.perf_counter()
            trainer.run()


def randomise_b(weights: dict[str, nn.Parameter]) -> None:
    """LoRA's B is zero at first, which would leave half of the adapter out of the comparison."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in weights.items():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.02, generator=generator)
