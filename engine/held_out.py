"""Loss on rows that are not trained on: which rows, how it is computed, and what follows from it.

All held-out rows are one window, so the loss is the same whatever `micro_tokens` is. It is taken by the method's own
`loss`, in eval mode and without gradients, and leaves no trace: generators and the method's state are put back.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from posttrain.engine.attempt import ShouldStop
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.packing import split_in_parts
from posttrain.engine.data.views import Places
from posttrain.engine.errors import CancelledError, EmptyDatasetError, NonFiniteError
from posttrain.engine.events import HELD_OUT_PREFIX
from posttrain.engine.methods.base import Method, Models, never
from posttrain.engine.options import HeldOut, HeldOutOptions, HeldOutShare

LOSS = HELD_OUT_PREFIX + "loss"

_R = TypeVar("_R")


def split_share(
    names: Sequence[str], sources: Sequence[Sequence[_R]], ratio: float, seed: int
) -> tuple[list[Sequence[_R]], list[Sequence[_R]]]:
    """Each source without its held-out rows, and each one's held-out rows; both in the order of the data.

    A source gives `ratio` of its rows, rounded; which ones depends on the seed, its name and its size. So one that is
    listed twice is split in the same way, and its rows are held out once.

    Raises:
        EmptyDatasetError: no row would be held out, or a source would have none left to train on.
    """
    kept: list[Sequence[_R]] = []
    held: list[Sequence[_R]] = []
    for index, rows in enumerate(sources):
        # Seeded by text: Python hashes it with sha512, so the draw does not depend on PYTHONHASHSEED.
        rng = random.Random(f"posttrain-held-out/{seed}/{names[index]}")
        drawn = set(rng.sample(range(len(rows)), round(ratio * len(rows))))
        kept.append(Places(rows, (place for place in range(len(rows)) if place not in drawn)))
        is_known = names[index] in names[:index]
        held.append(Places(rows, [] if is_known else sorted(drawn)))
        if rows and not kept[-1]:
            raise EmptyDatasetError(f"{names[index]}: held_out.ratio {ratio:g} leaves none of its {len(rows)} rows")
    if not any(map(len, held)):
        count = sum(map(len, sources))
        raise EmptyDatasetError(
            f"held_out.ratio: {ratio:g} of {count} rows is no row",
            hint=f"a ratio of {min(0.5, 1 / max(count, 1)):.2g} or more holds out a row, or name datasets of their own",
        )
    return kept, held


def arrange_side(
    method: Method, rows: Sequence[AnyRow], max_tokens: int, options: HeldOut, *, is_held: bool
) -> Sequence[AnyRow]:
    """The method's `arrange` of one source's rows that are held out, or that are left to train on.

    Raises:
        EmptyDatasetError: these rows are too few for the method; says which side of which split they are.
    """
    try:
        return method.arrange(rows, max_tokens)
    except EmptyDatasetError as error:
        if not (is_held or isinstance(options, HeldOutShare)):
            raise
        counted = f"{len(rows)} row{'s' if len(rows) > 1 else ''}"
        datasets = "datasets of their own with held_out: {type: data, datasets: [NAME@1]}"
        if not isinstance(options, HeldOutShare):
            side, hint = "held out", "name a dataset with rows of more prompts in held_out.datasets"
        elif is_held:
            side = f"held out by held_out.ratio {options.ratio:g}"
            hint = f"raise held_out.ratio, so that rows of two prompts or more are held out, or name {datasets}"
        else:
            side = f"left to train on by held_out.ratio {options.ratio:g}"
            hint = f"lower held_out.ratio, so that rows of two prompts or more are left, or name {datasets}"
        raise EmptyDatasetError(f"{error} (in the {counted} {side})", hint) from None


def measure(
    method: Method,
    models: Models,
    rows: Sequence[AnyRow],
    micro_tokens: int,
    should_stop: ShouldStop = never,
) -> dict[str, float] | None:
    """`held_out_loss` and the method's sums of the rows as one window; None if it was asked to stop in between.

    Raises:
        NonFiniteError: the loss is NaN or infinite; names rows.
    """
    policy = models.policy
    sums = {LOSS: 0.0}
    with _without_trace(method, policy.module, policy.device), torch.no_grad():
        try:
            window = method.window(rows, models, should_stop)
        except CancelledError:
            return None
        for micro in split_in_parts(rows, micro_tokens):
            if should_stop():
                return None
            batch = method.collate(micro, policy.device)
            share, metrics = method.loss(batch, models, window)
            if not math.isfinite(float(share)):
                shown = ", ".join(row.name for row in micro[:8]) + (" and more" if len(micro) > 8 else "")
                raise NonFiniteError(f"the held-out loss is {float(share)}; rows of the batch: {shown}")
            sums[LOSS] += float(share)
            for name, value in metrics.items():
                place = HELD_OUT_PREFIX + name
                sums[place] = sums.get(place, 0.0) + value
    return sums


@contextmanager
def _without_trace(method: Method, module: Any, device: torch.device) -> Iterator[None]:
    """Eval mode and no trained parameters for the block; then modes, generators and the method's state as before."""
    modes = {layer: layer.training for layer in module.modules()}
    # Without it a head that takes its gradients in the forward pass would take them here, too.
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    remembered = copy.deepcopy(method.state_dict())
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        module.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            for layer, mode in modes.items():
                layer.training = mode
            method.load_state_dict(remembered)


@dataclass
class History:
    """(step, loss) of each evaluation so far, in order; part of each checkpoint. All that follows is computed from
    it."""

    losses: list[tuple[int, float]] = field(default_factory=list)

    def is_due(self, step: int, total_steps: int, options: HeldOutOptions) -> bool:
        """True if there should be an evaluation after this step, and was none."""
        is_planned = step > 0 and (step % options.every_steps == 0 or step == total_steps)
        return is_planned and (not self.losses or self.losses[-1][0] < step)

    def best(self, count: int) -> list[tuple[int, float]]:
        """The lowest losses, best first; of equal ones the earlier first."""
        return sorted(self.losses, key=lambda item: (item[1], item[0]))[:count]

    def kept_steps(self, options: HeldOutOptions) -> list[int]:
        """Steps whose checkpoints stay beside the newest."""
        return [step for step, _ in self.best(max(options.keep_best, options.save == "best"))]

    def is_over(self, options: HeldOutOptions) -> bool:
        """True once the last `patience` evaluations brought no loss that is more than `min_delta` below the one that
        counted as best before."""
        reference, num_without_gain = math.inf, 0
        for _, loss in self.losses:
            if loss < reference - options.min_delta:
                reference, num_without_gain = loss, 0
            else:
                num_without_gain += 1
        return 0 < options.patience <= num_without_gain
