"""Whose fault it is that a loss or a gradient is NaN or infinite. Runs once, when a job is lost anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing

from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.errors import NonFiniteError
from posttrain.engine.methods.base import Method, Models, Window
from posttrain.engine.optimizers import Optimizers

MAX_TRIED = 256  # rows


def non_finite(
    what: str,
    value: float,
    step: int,
    rows: Sequence[AnyRow],
    method: Method,
    models: Models,
    window: Window,
    optimizer: Optimizers | None = None,
) -> NonFiniteError:
    """The error for a step (1-based) that came out as `value`.

    Tries each row alone, at most MAX_TRIED of them: its loss, and with an optimiser its gradient. Names those that are
    not finite alone, or else all rows. Gradients are lost.
    """
    message = f"{what} is {value} at step {step}; rows of the batch: {_names(rows)}"
    guilty: list[AnyRow] = []
    try:
        for row in rows[:MAX_TRIED]:
            if not math.isfinite(_alone(row, method, models, window, optimizer)):
                guilty.append(row)
    except (ArithmeticError, ValueError, RuntimeError) as error:  # a method may want more than one row
        return NonFiniteError(f"{message} (a row alone cannot be tried: {error})")
    if 0 < len(guilty) < len(rows):
        message += f"; not finite alone: {_names(guilty)}"
    if len(rows) > MAX_TRIED:
        message += f" (of {len(rows)} rows the first {MAX_TRIED} were tried alone)"
    return NonFiniteError(message)


def _alone(row: AnyRow, method: Method, models: Models, window: Window, optimizer: Optimizers | None) -> float:
    if optimizer is not None:
        optimizer.clear()
    value = 0.0
    with closing(method.losses(method.collate([row], models.policy.device), models, window)) as losses:
        for share, _ in losses:
            value += float(share.detach())
            if optimizer is not None and math.isfinite(value):
                share.backward()  # type: ignore[no-untyped-call]
                optimizer.accumulate()
    return value if optimizer is None or not math.isfinite(value) else sum(optimizer.clip().values())


def _names(rows: Sequence[AnyRow]) -> str:
    shown = ", ".join(row.name for row in rows[:8])
    return shown + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
