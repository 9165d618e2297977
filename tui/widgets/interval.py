"""A difference with its confidence interval on one line, drawn against zero: `  ├──●──┤  │      `."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.text import Text

from posttrain.tui.marks import Palette
from posttrain.tui.text import finite

LIMITS = (0.05, 0.1, 0.2, 0.5)
Axis = tuple[float, float]


def axis_of(values: Iterable[float]) -> Axis:
    """An axis that holds zero and all values; its ends are 5, 10, 20, 50 or 100 points away from zero."""
    known = [value for value in values if finite(value) is not None]
    below, above = -min(known, default=0.0), max(known, default=0.0)
    low, high = (next((limit for limit in LIMITS if side <= limit), 1.0) for side in (below, above))
    return -low, high


def _place(value: float, axis: Axis, width: int) -> int:
    low, high = axis
    share = (min(max(value, low), high) - low) / (high - low)
    return math.floor(share * (width - 1) + 0.5)


def draw_interval(ends: tuple[float, float, float], axis: Axis, width: int, colour: str, palette: Palette) -> Text:
    """The interval (low, middle, high) on an axis; only the zero line if there is none."""
    text = Text(no_wrap=True)
    if width <= 0:
        return text
    left, dot, right, line, zero = ("|", "o", "|", "-", ":") if palette.is_ascii else ("├", "●", "┤", "─", "┊")
    cells = [" "] * width
    cells[_place(0.0, axis, width)] = zero
    if any(finite(value) is None for value in ends):
        return text.append("".join(cells), palette.muted)
    first, centre, last = (_place(value, axis, width) for value in ends)
    cells[first : last + 1] = line * (last + 1 - first)
    cells[first], cells[last] = left, right
    cells[centre] = dot
    for index, glyph in enumerate(cells):
        style = f"bold {colour}" if index == centre else colour if first <= index <= last else palette.muted
        text.append(glyph, style)
    return text


def axis_title(axis: Axis, width: int) -> str:
    """The axis as a column's heading: its ends in points, and the zero where it is if there is room."""
    left, right, zero = f"{axis[0] * 100:.0f}", f"+{axis[1] * 100:.0f}", _place(0.0, axis, width)
    cells = list(left.ljust(width - len(right)) + right)
    if cells[max(zero - 1, 0) : zero + 2] == [" "] * 3:
        cells[zero] = "0"
    return "".join(cells)
