"""The training loop: optimiser steps, accumulation, events, checkpoints, exact resume. Knows no technique.

One optimiser step takes the next `batch.num_rows` rows of the mix, packs them into micro-batches, and adds up
gradients of losses that are already divided by the whole step's denominators. So nothing depends on `micro_tokens`
but memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.engine.attempt import Events
from posttrain.engine.checkpoint import Checkpoint, save_checkpoint
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.mixing import Mix, Plan, plan
from posttrain.engine.data.packing import split
from posttrain.engine.errors import CancelledError, NonFiniteError
from posttrain.engine.events import CheckpointSaved, Resumed, StepMetrics
from posttrain.engine.methods.base import Method, Models
from posttrain.engine.optim import Optimizer, learning_rate
from posttrain.engine.spec import TrainSpec, spec_digest


@dataclass
class Counters:
    """What a run has done so far; part of each checkpoint."""

    step: int = 0
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    loss: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rows": self.rows,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "loss": self.loss,
        }


@dataclass
class Trainer:
    """One run of a method over rows.

    `sources[i]` holds the encoded rows of `spec.data[i]`. `should_stop` is asked after each step.
    """

    spec: TrainSpec
    method: Method
    models: Models
    sources: Sequence[Sequence[AnyRow]]
    events: Events
    checkpoints: Path
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        weights = [source.weight for source in self.spec.data]
        self._mix = Mix([len(rows) for rows in self.sources], weights, self.spec.seed)
        self._plan: Plan = plan(self.spec.duration, self.spec.batch.num_rows, self._mix.epoch_rows)
        self._optimizer = Optimizer(self.models.policy.trainable(), self.spec.optimizer)
        self._digest = spec_digest(self.spec)
        self._counters = Counters()

    @property
    def total_steps(self) -> int:
        return self._plan.total_steps

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continues exactly: weights, optimiser, generators, data position, method state, counters, number of
        threads."""
        self._optimizer.load(checkpoint.tensors("model"), checkpoint.tensors("optimizer"))
        self.method.load_state_dict(checkpoint.state["method"])
        self._counters = Counters(**checkpoint.state["counters"])
        torch.set_num_threads(checkpoint.state["num_threads"])  # sums depend on how they are split
        generators = checkpoint.tensors("rng")
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], self.models.policy.device)
        self.events(Resumed(step=checkpoint.step, path=checkpoint.folder.name))

    def run(self) -> Counters:
        """Trains to the end of the plan.

        Raises:
            CancelledError: `should_stop` said so; a checkpoint of the last whole step is there.
            NonFiniteError: names the rows.
            DiskFullError: at a checkpoint or an event.
        """
        self.models.policy.module.train()
        started, first = time.monotonic(), self._counters.step
        every = self.spec.checkpoint.every_steps
        while self._counters.step < self.total_steps:
            before = time.monotonic()
            values = self._step()
            now = time.monotonic()
            done = self._counters.step
            values["tokens_per_s"] = values.pop("step_tokens") / max(now - before, 1e-9)
            eta_s = (now - started) / (done - first) * (self.total_steps - done)
            self.events(StepMetrics(step=done, total_steps=self.total_steps, values=values, eta_s=round(eta_s, 3)))
            is_stopping = done < self.total_steps and self.should_stop()
            if is_stopping or (done % every == 0 and done < self.total_steps):
                self._save()
            if is_stopping:
                raise CancelledError(f"stopped after step {done} of {self.total_steps}")
        self.models.policy.module.eval()
        return self._counters

    def _step(self) -> dict[str, float]:
        positions = self._plan.positions(self._counters.step)
        places = [self._mix.at(position) for position in positions]
        rows = [self.sources[source][index] for source, index in places]
        window = self.method.window(rows, self.models)
        loss, sums = 0.0, dict[str, float]()
        for micro in split(rows, self.spec.batch.micro_tokens):
            batch = self.method.collate(micro, self.models.policy.device)
            share, metrics = self.method.loss(batch, self.models, window)
            value = float(share.detach())
            if not math.isfinite(value):
                raise NonFiniteError(self._blame("the loss", value, batch.row_names))
            share.backward()  # type: ignore[no-untyped-call]
            self._optimizer.accumulate()
            loss += value
            for name, metric in metrics.items():
                sums[name] = sums.get(name, 0.0) + metric
        norm = self._optimizer.clip()
        if not math.isfinite(norm):
            raise NonFiniteError(self._blame("the gradient's norm", norm, [row.name for row in rows]))
        rate = learning_rate(self.spec.optimizer, self._counters.step, self.total_steps)
        self._optimizer.step(rate)
        step_tokens = sum(map(len, rows))
        self._counters.step += 1
        self._counters.rows += len(rows)
        self._counters.tokens += step_tokens
        self._counters.trained_tokens += window.num_targets
        self._counters.loss = loss
        epoch = self._counters.rows / self._mix.epoch_rows
        return {
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "epoch": epoch,
            "step_tokens": step_tokens,
            **sums,
        }

    def _blame(self, what: str, value: float, names: Sequence[str]) -> str:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return f"{what} is {value} at step {self._counters.step + 1}; rows of the batch: {shown}"

    def _save(self) -> None:
        generators = {"cpu": torch.get_rng_state()}
        if self.models.policy.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.models.policy.device)
        state = {
            "method": self.method.state_dict(),
            "counters": self._counters.as_dict(),
            "num_threads": torch.get_num_threads(),
            "versions": {"torch": str(torch.__version__)},
        }
        tensors = {"model": self._optimizer.weights(), "optimizer": self._optimizer.state(), "rng": generators}
        path = save_checkpoint(
            self.checkpoints, self._counters.step, self._digest, tensors, state, self.spec.checkpoint.keep
        )
        self.events(CheckpointSaved(step=self._counters.step, path=path.name))
