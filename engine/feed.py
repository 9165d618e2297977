"""What an optimiser step is computed on: rows of the mix, or of a rollout that the model has just made.

A rollout takes `num_minibatches * batch.num_rows` prompts and lasts for `num_minibatches * num_epochs` optimiser steps.
It is made when its first step comes, from the weights as they are then, and is a function of these, of the seed and of
its number: made again after an interruption it is the same. One that is in use is part of the checkpoint.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from posttrain.engine.checkpoint import disk_errors
from posttrain.engine.data.encoded import AnyRow, PromptRow
from posttrain.engine.data.mixing import Mix, plan
from posttrain.engine.events import AnyEvent
from posttrain.engine.experience import Experience, Rollout, from_checkpoint, to_plain, to_tensors
from posttrain.engine.held_out import measure
from posttrain.engine.methods.base import Method, Models, OnPolicyMethod
from posttrain.engine.policy_options import RolloutOptions
from posttrain.engine.spec import EpochsDuration, OnPolicyOptions, TrainSpec

SAMPLES_FILE = "samples.jsonl"


class Feed(Protocol):
    @property
    def total_steps(self) -> int: ...

    @property
    def epoch_rows(self) -> int:
        """Rows of all steps that make an epoch."""
        ...

    def rows(self, step: int) -> Sequence[AnyRow]:
        """What a 0-based step is computed on. Steps come in order.

        Raises:
            CancelledError: in a rollout, because a stop was asked for; nothing has changed then.
        """
        ...

    def evaluate(self, rows: Sequence[AnyRow]) -> dict[str, float] | None:
        """Numbers of held-out rows, `held_out_loss` among them; None if a stop was asked for in between."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers that came with the last call of `rows`."""
        ...

    def state(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint after `step` steps has to hold of it, as JSON and as tensors; both may be empty."""
        ...

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None: ...

    def close(self) -> None:
        """Ends what it has started."""
        ...


@dataclass
class MixFeed:
    """The next `num_rows` positions of the mix."""

    spec: TrainSpec
    mix: Mix
    sources: Sequence[Sequence[AnyRow]]
    method: Method
    models: Models
    should_stop: Callable[[], bool]

    def __post_init__(self) -> None:
        self._plan = plan(self.spec.duration, self.spec.batch.num_rows, self.mix.epoch_rows)

    @property
    def total_steps(self) -> int:
        return self._plan.total_steps

    @property
    def epoch_rows(self) -> int:
        return self.mix.epoch_rows

    def rows(self, step: int) -> Sequence[AnyRow]:
        places = [self.mix.at(position) for position in self._plan.positions(step)]
        return [self.sources[source][index] for source, index in places]

    def evaluate(self, rows: Sequence[AnyRow]) -> dict[str, float] | None:
        return measure(self.method, self.models, rows, self.spec.batch.micro_tokens, self.should_stop)

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {}, {}

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to remember: a position follows from the step."""

    def close(self) -> None:
        """Nothing was started."""


@dataclass
class RolloutFeed:
    """Minibatches of rollouts; see the module's docstring. Samples are appended to a file in `folder`."""

    spec: OnPolicyOptions
    mix: Mix
    sources: Sequence[Sequence[AnyRow]]
    method: OnPolicyMethod
    models: Models
    folder: Path
    events: Callable[[AnyEvent], None]
    should_stop: Callable[[], bool]
    _number: int = -1
    _groups: list[Experience] = field(default_factory=list)
    _metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What replaces groups that nothing can be learnt from comes in an order of its own, so that epochs stay whole.
        weights = [source.weight for source in self.spec.data]
        self._others = Mix([len(rows) for rows in self.sources], weights, self.spec.seed ^ 2**32)
        rollout, update, batch = self.spec.rollout, self.spec.update, self.spec.batch
        self._max_resamples = rollout.max_resamples if isinstance(rollout, RolloutOptions) else 0
        self._num_steps = update.num_minibatches * update.num_epochs  # of a whole rollout
        prompts = batch.num_rows * update.num_minibatches
        if isinstance(self.spec.duration, EpochsDuration):
            self._plan = plan(self.spec.duration, prompts, self.mix.epoch_rows)
            last = self._plan.positions(self._plan.total_steps - 1)
            rest = -(-len(last) // batch.num_rows) * update.num_epochs
            self._total = (self._plan.total_steps - 1) * self._num_steps + rest
        else:
            self._total = self.spec.duration.max_steps
            rollouts = self.spec.duration.model_copy(update={"max_steps": -(-self._total // self._num_steps)})
            self._plan = plan(rollouts, prompts, self.mix.epoch_rows)

    @property
    def total_steps(self) -> int:
        return self._total

    @property
    def epoch_rows(self) -> int:
        return self.mix.epoch_rows * self.spec.update.num_epochs

    def rows(self, step: int) -> Sequence[AnyRow]:
        number, index = divmod(step, self._num_steps)
        self._metrics = {}
        if number != self._number:
            self._roll_out(number, step)
        size = self.spec.batch.num_rows
        num_batches = -(-len(self._groups) // size)
        epoch, batch = divmod(index, num_batches)
        order = list(range(len(self._groups)))
        if num_batches > 1:
            # Seeded by text: Python hashes it with sha512, so the order does not depend on PYTHONHASHSEED.
            random.Random(f"posttrain-minibatches/{self.spec.seed}/{number}/{epoch}").shuffle(order)
        return [self._groups[place] for place in order[batch * size : (batch + 1) * size]]

    def _roll_out(self, number: int, step: int) -> None:
        before = time.monotonic()
        made = self.method.rollout(
            self._prompts(self.mix, self._plan.positions(number)), self.models, (number, 0), self.should_stop
        )
        groups = list(made.groups)
        self._tell(made, step)
        metrics = dict(made.metrics)
        for turn in range(1, self._max_resamples + 1):
            empty = [place for place, group in enumerate(groups) if group.is_uniform]
            if not empty:
                break
            first = (number * self._max_resamples + turn - 1) * len(groups)
            prompts = self._prompts(self._others, range(first, first + len(empty)))
            made = self.method.rollout(prompts, self.models, (number, turn), self.should_stop)
            self._tell(made, step)
            for place, group in zip(empty, made.groups, strict=True):
                groups[place] = group
        if self._max_resamples:
            metrics["uniform_share"] = sum(group.is_uniform for group in groups) / len(groups)
        self._number, self._groups = number, groups
        self._metrics = {**metrics, "rollout_s": time.monotonic() - before}

    def _prompts(self, mix: Mix, positions: Iterable[int]) -> list[PromptRow]:
        rows = [self.sources[source][index] for source, index in map(mix.at, positions)]
        return [row for row in rows if isinstance(row, PromptRow)]

    def _tell(self, made: Rollout, step: int) -> None:
        for note in made.notes:
            self.events(note)
        self._write(made.samples, step)

    def _write(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """A line for each sample, escaped to ASCII. A rollout that is made again after an interruption writes again, in
        its own attempt's folder."""
        if not samples:
            return
        lines = "".join(json.dumps({"step": step + 1, **sample}) + "\n" for sample in samples)
        with disk_errors("writing samples"), open(self.folder / SAMPLES_FILE, "a", encoding="ascii") as file:
            file.write(lines)

    def evaluate(self, rows: Sequence[AnyRow]) -> dict[str, float] | None:
        prompts = [row for row in rows if isinstance(row, PromptRow)]
        return self.method.evaluate(prompts, self.models, self.should_stop)

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def state(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if self._number != step // self._num_steps:
            return {}, {}  # used up: the next step makes another
        return {"number": self._number, "groups": to_plain(self._groups)}, to_tensors(self._groups)

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if plain:
            self._number = plain["number"]
            self._groups = from_checkpoint(plain["groups"], tensors)

    def close(self) -> None:
        self.method.close()
