"""The training loop: optimiser steps, accumulation, events, checkpoints, exact resume. Knows no technique.

One optimiser step takes the next `batch.num_rows` rows of the mix (or of a rollout, see `feed.py`), packs them into
micro-batches, and adds up gradients of losses that are already divided by the whole step's denominators. So nothing
depends on `micro_tokens` but memory. After a step comes what is due: held-out loss, checkpoint, the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from posttrain.engine.activations import checkpoint_layers, saving
from posttrain.engine.averaging import Average
from posttrain.engine.checkpoint import Checkpoint, carry_over, read_checkpoint, save_checkpoint, step_folder
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.mixing import Mix
from posttrain.engine.data.packing import split
from posttrain.engine.errors import CancelledError, CheckpointError
from posttrain.engine.events import AnyEvent, CheckpointSaved, HeldOutMetrics, Note, Resumed, StepMetrics
from posttrain.engine.feed import Feed, MixFeed, RolloutFeed
from posttrain.engine.held_out import LOSS, History
from posttrain.engine.methods.base import Method, Models, Window
from posttrain.engine.non_finite import non_finite
from posttrain.engine.optimizers import Optimizers
from posttrain.engine.spec import EmaAveraging, NoHeldOut, OnPolicyOptions, TrainSpec, spec_digest


@dataclass
class Counters:
    """What a run has done so far; part of each checkpoint."""

    step: int = 0
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    loss: float = math.nan


@dataclass
class Trainer:
    """One run of a method over rows.

    `sources[i]` holds the encoded rows of `spec.data[i]` that are trained on, `held_out` those that are not.
    `should_stop` is asked after each step, and during a rollout. `spec_sha256`, the
    spec's if empty, marks checkpoints: a newer version adds defaults to a spec that was accepted before.
    """

    spec: TrainSpec
    method: Method
    models: Models
    sources: Sequence[Sequence[AnyRow]]
    events: Callable[[AnyEvent], None]
    checkpoints: Path
    should_stop: Callable[[], bool] = lambda: False
    held_out: Sequence[AnyRow] = field(default_factory=list)
    spec_sha256: str = ""

    def __post_init__(self) -> None:
        weights = [source.weight for source in self.spec.data]
        mix = Mix([len(rows) for rows in self.sources], weights, self.spec.seed)
        self._feed: Feed
        if isinstance(self.spec, OnPolicyOptions):
            method: Any = self.method  # of an on-policy kind, so it can roll out
            folder = self.checkpoints.parent
            self._feed = RolloutFeed(
                self.spec, mix, self.sources, method, self.models, folder, self.events, self.should_stop
            )
        else:
            self._feed = MixFeed(self.spec, mix, self.sources, self.method, self.models, self.should_stop)
        self._optimizers = Optimizers(self.models, self.spec)
        averaging, policy = self.spec.averaging, self._optimizers.policy
        self._average = Average(policy, averaging.decay) if isinstance(averaging, EmaAveraging) else None
        self._digest = self.spec_sha256 or spec_digest(self.spec)
        self._counters = Counters()
        self._history = History()
        if self.spec.memory.gradient_checkpointing:
            for module in self.models.trained_modules():
                checkpoint_layers(module)
        self._saving = saving(self.spec.memory, self.models.trained_modules())

    @property
    def total_steps(self) -> int:
        return self._feed.total_steps

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continues exactly: weights, optimiser, average, generators, data position, method state, counters, held-out
        losses, number of threads. Best checkpoints beside the one resumed from are taken along.

        Raises:
            CheckpointError: of another model.
        """
        state = checkpoint.state
        self._optimizers.load(checkpoint.tensors)
        self.method.load_state_dict(state["method"])
        rollout = state.get("rollout", {})  # there is none in a checkpoint of a method without, nor in an older one
        self._feed.load_state(rollout, checkpoint.tensors("rollout") if rollout else {})
        self._counters = Counters(**state["counters"])
        if self._average is not None:
            self._average.load(checkpoint.tensors("average"))
        if not isinstance(self.spec.held_out, NoHeldOut):
            self._history = History([(step, loss) for step, loss in state["held_out"]["losses"]])
            self._carry_best(checkpoint.folder.parent)
        torch.set_num_threads(state["num_threads"])  # sums depend on how they are split
        generators = checkpoint.tensors("rng")
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], self.models.policy.device)
        self.events(Resumed(step=checkpoint.step, path=checkpoint.folder.name))

    def _carry_best(self, parent: Path) -> None:
        """One that is missing may have been replaced by a better one, which this run will find again."""
        assert not isinstance(self.spec.held_out, NoHeldOut)
        for step in self._history.kept_steps(self.spec.held_out):
            try:
                carry_over(step_folder(parent, step), self.checkpoints, self._digest)
            except CheckpointError as error:
                self.events(Note(level="warning", message=f"among the best so far, but not taken along: {error}"))

    def run(self) -> Counters:
        """Trains to the end of the plan, or of patience, and leaves the model with the weights that are to be saved.

        Raises:
            CancelledError: `should_stop` said so; a checkpoint of the last whole step is there.
            NonFiniteError: names the rows.
            CheckpointError: the best weights are to be saved, and their checkpoint is missing or damaged.
            DiskFullError: at a checkpoint or an event.
        """
        with closing(self._feed):
            return self._run()

    def _run(self) -> Counters:
        # What was sampled without dropout has to be computed without it. Layers that are computed again want train
        # mode; a config's dropout then shows in logp_difference.
        is_on_policy = isinstance(self._feed, RolloutFeed)
        for module in self.models.trained_modules():
            module.train(not is_on_policy or self.spec.memory.gradient_checkpointing)
        started, first = time.monotonic(), self._counters.step
        every, total = self.spec.checkpoint.every_steps, self.total_steps
        while True:
            done, is_best = self._counters.step, self._evaluate()
            is_over = self._is_over()
            is_stopping = not is_over and self.should_stop()
            is_due = is_stopping or (done % every == 0 and not is_over)
            # What was resumed from is not written again, unless an evaluation that was made up for shows it to be best.
            if (is_best and not is_over) or (done > first and is_due):
                self._save()
            if is_stopping:
                raise CancelledError(f"stopped after step {done} of {total}")
            if is_over:
                break
            before = time.monotonic()
            try:
                values = self._step()
            except (
                CancelledError
            ) as error:  # in a rollout, which is made again: nothing has changed since the last step
                if done > first and not is_due:
                    self._save()
                raise CancelledError(f"stopped after step {done} of {total}, in a rollout") from error
            now = time.monotonic()
            done = self._counters.step
            update_s = now - before - values.get("rollout_s", 0.0)
            step_tokens = values.pop("step_tokens")
            if "skipped" not in values:
                values["tokens_per_s"] = step_tokens / max(update_s, 1e-9)
            eta_s = (now - started) / (done - first) * (total - done)
            self.events(StepMetrics(step=done, total_steps=total, values=values, eta_s=round(eta_s, 3)))
        self._put_weights()
        self.models.policy.module.eval()
        return self._counters

    def outcome(self) -> dict[str, Any]:
        """What the summary says of held-out rows: the loss of the saved weights, their step, and whether patience ended
        the run."""
        options, history = self.spec.held_out, self._history
        if isinstance(options, NoHeldOut):
            return {}
        step, loss = history.best(1)[0] if options.save == "best" else history.losses[-1]
        return {LOSS: loss, "saved_step": step, "stopped_early": self._counters.step < self.total_steps}

    def _step(self) -> dict[str, float]:
        rows = self._feed.rows(self._counters.step)
        window = self.method.window(rows, self.models)
        computed = self.method.computed(rows)
        number = self._counters.step + 1
        loss, sums = 0.0, self._feed.metrics()
        for micro in split(computed, self.spec.batch.micro_tokens):
            loss += self._differentiate(micro, window, sums)
        is_taken = self.method.accepts(sums)
        if is_taken:
            if not computed:
                self._optimizers.fill()
            norms = self._optimizers.clip()
            norm = sum(norms.values())
            if not math.isfinite(norm):
                what = "the gradient's norm"
                raise non_finite(what, norm, number, computed, self.method, self.models, window, self._optimizers)
            sums |= norms | self._optimizers.step(self._counters.step, self.total_steps)
            if self._average is not None:
                self._average.update(number)
            self._counters.trained_tokens += window.num_targets
            self._counters.loss = loss
        else:
            self._optimizers.clear()
            sums["skipped"] = 1.0
        for note in self.method.notes():
            self.events(note)
        step_tokens = sum(map(len, computed))
        self._counters.step = number
        self._counters.rows += len(rows)
        self._counters.tokens += step_tokens
        epoch = self._counters.rows / self._feed.epoch_rows
        shown = {"loss": loss} if is_taken or computed else {}  # of nothing there is no loss
        return {**shown, "epoch": epoch, "step_tokens": step_tokens, **sums}

    def _differentiate(self, micro: Sequence[AnyRow], window: Window, sums: dict[str, float]) -> float:
        """The losses of a micro-batch; adds their gradients, and their metrics to `sums`.

        Raises:
            NonFiniteError: names the rows.
        """
        batch, total = self.method.collate(micro, self.models.policy.device), 0.0
        with closing(self.method.losses(batch, self.models, window)) as losses:
            while True:
                with self._saving:
                    share, metrics = next(losses, (None, {}))
                if share is None:
                    return total
                value = float(share.detach())
                if not math.isfinite(value):
                    break
                share.backward()  # type: ignore[no-untyped-call]
                self._optimizers.accumulate()
                total += value
                for name, metric in metrics.items():
                    sums[name] = sums.get(name, 0.0) + metric
        step = self._counters.step + 1
        raise non_finite("the loss", value, step, micro, self.method, self.models, window)

    # -- after a step --------------------------------------------------------------------------------------------------

    def _evaluate(self) -> bool:
        """The held-out loss, if it is due after this step; whether this step's weights are among the best to be kept.

        One that was left because of `should_stop` stays due, also for the attempt that resumes.
        """
        options, step = self.spec.held_out, self._counters.step
        if isinstance(options, NoHeldOut) or not self._history.is_due(step, self.total_steps, options):
            return False
        with self._average.in_use() if self._average is not None else nullcontext():
            values = self._feed.evaluate(self.held_out)
        if values is None:
            return False
        self._history.losses.append((step, values[LOSS]))
        is_best = self._history.best(1)[0][0] == step
        self.events(
            HeldOutMetrics(
                step=step, total_steps=self.total_steps, values=values, num_rows=len(self.held_out), is_best=is_best
            )
        )
        if self._history.is_over(options) and step < self.total_steps:
            text = f"after step {step} of {self.total_steps}: the held-out loss did not fall {options.patience} times"
            self.events(Note(message=f"training ends {text} in a row"))
        return step in self._history.kept_steps(options)

    def _is_over(self) -> bool:
        options, step = self.spec.held_out, self._counters.step
        if isinstance(options, NoHeldOut):
            return step >= self.total_steps
        if self._history.is_due(step, self.total_steps, options):
            return False
        return step >= self.total_steps or self._history.is_over(options)

    def _put_weights(self) -> None:
        step = self.outcome().get("saved_step", self._counters.step)
        if step != self._counters.step:
            best = read_checkpoint(step_folder(self.checkpoints, step), self._digest)
            self._optimizers.policy.set_weights(best.tensors("model" if self._average is None else "average"))
        elif self._average is not None:
            self._optimizers.policy.set_weights(self._average.state())

    def _save(self) -> None:
        generators = {"cpu": torch.get_rng_state()}
        if self.models.policy.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.models.policy.device)
        state = {
            "method": self.method.state_dict(),
            "counters": asdict(self._counters),
            "num_threads": torch.get_num_threads(),
            "versions": {"torch": str(torch.__version__)},
        }
        tensors = {**self._optimizers.tensors(), "rng": generators}
        rollout, buffers = self._feed.state(self._counters.step)
        if rollout:
            state["rollout"], tensors["rollout"] = rollout, buffers
        options, kept = self.spec.held_out, list[int]()
        if not isinstance(options, NoHeldOut):
            state["held_out"] = {"losses": self._history.losses}
            kept = self._history.kept_steps(options)
        if self._average is not None:
            tensors["average"] = self._average.state()
        keep, step = self.spec.checkpoint.keep, self._counters.step
        path = save_checkpoint(self.checkpoints, step, self._digest, tensors, state, keep, kept)
        self.events(CheckpointSaved(step=step, path=path.name))
