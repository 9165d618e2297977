"""A line chart in braille dots that fills its place. Numbers go through `finite()`: NaN and infinities are gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from posttrain.tui.marks import Palette
from posttrain.tui.text import finite, number, one_line, styled

Point = tuple[int, float]
LABEL_CELLS = 8
HUGE = 1e300  # beyond it the height of the chart would overflow
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of one cell


@dataclass
class Bucket:
    """What one dot column shows: a spike survives the squeeze because minimum and maximum are kept."""

    first: float
    low: float
    high: float
    last: float


def smooth(points: Sequence[Point]) -> list[Point]:
    """Bias-corrected exponential moving average over about a fifteenth of the points; NaN and infinities stay out."""
    weight = min(1 - 2 / (max(len(points) / 15, 2) + 1), 0.98)
    total, mass, out = 0.0, 0.0, []
    for step, value in points:
        if finite(value) is None:
            out.append((step, value))
            continue
        total = weight * total + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        out.append((step, total / mass))
    return out


def bucket(points: Sequence[Point], columns: int) -> tuple[list[Bucket | None], set[int]]:
    """Points squeezed into dot columns by step, and the columns that hold a non-finite value."""
    out: list[Bucket | None] = [None] * columns
    holes: set[int] = set()
    if not points or columns <= 0:
        return out, holes
    start, span = points[0][0], max(points[-1][0] - points[0][0], 1)
    for step, value in points:
        column = min(max((step - start) * (columns - 1) // span, 0), columns - 1)
        known = out[column]
        if finite(value) is None:
            holes.add(column)
        elif known is None:
            out[column] = Bucket(value, value, value, value)
        else:
            known.low, known.high, known.last = min(known.low, value), max(known.high, value), value
    return out, holes


class Canvas:
    """Dots on a grid: 2 x 4 braille dots a cell, or one character a cell in ASCII. Later layers win a cell's colour."""

    def __init__(self, width: int, height: int, is_ascii: bool) -> None:
        self.across, self.down = (1, 1) if is_ascii else (2, 4)
        self.width, self.height, self.is_ascii = width, height, is_ascii
        self._bits: dict[tuple[int, int], int] = {}
        self._styles: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, style: str) -> None:
        """Sets the dot at column x, y dots above the bottom."""
        row, sub_row = divmod(self.height * self.down - 1 - y, self.down)
        column, sub_column = divmod(x, self.across)
        if 0 <= row < self.height and 0 <= column < self.width:
            bit = 1 if self.is_ascii else _BRAILLE[sub_row][sub_column]
            self._bits[row, column] = self._bits.get((row, column), 0) | bit
            self._styles[row, column] = style

    def line(self, buckets: Sequence[Bucket | None], holes: set[int], low: float, high: float, style: str) -> None:
        top = self.height * self.down - 1
        scale = top / (high - low)
        before: tuple[int, int] | None = None
        for x, here in enumerate(buckets):
            if here is None:
                if x in holes:
                    before = None
                continue
            first, last = round((here.first - low) * scale), round((here.last - low) * scale)
            if before is not None:
                self._join(before, (x, first), style)
            for y in range(round((here.low - low) * scale), round((here.high - low) * scale) + 1):
                self.dot(x, y, style)
            before = None if x in holes else (x, last)

    def _join(self, start: tuple[int, int], end: tuple[int, int], style: str) -> None:
        (x0, y0), (x1, y1) = start, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for index in range(1, steps + 1):
            self.dot(round(x0 + (x1 - x0) * index / steps), round(y0 + (y1 - y0) * index / steps), style)

    def row(self, row: int) -> Text:
        text = Text(no_wrap=True)
        for column in range(self.width):
            bits = self._bits.get((row, column), 0)
            glyph = " " if not bits else "*" if self.is_ascii else chr(0x2800 + bits)
            text.append(glyph, self._styles.get((row, column), ""))
        return text


def draw(
    points: Sequence[Point], width: int, height: int, palette: Palette, is_log: bool = False, is_smooth: bool = True
) -> Text:
    """The chart without its title: plot, y labels, x axis with its first and last step."""
    known = [value for _, value in points if finite(value) is not None and (not is_log or value > 0)]
    columns, rows = width - LABEL_CELLS - 1, height - 2
    if columns < 4 or rows < 1:
        return Text("…", palette.muted)
    if not known:
        note = "no points yet" if not points else f"all {len(points):,} points are NaN or infinite"
        return Text("\n" * (rows // 2) + note.center(width)[:width], palette.muted)
    shown = [(step, _scaled(value, is_log)) for step, value in points]
    canvas = Canvas(columns, rows, palette.is_ascii)
    raw, holes = bucket(shown, columns * canvas.across)
    low, high = min(b.low for b in raw if b), max(b.high for b in raw if b)
    if high - low < 1e-12 * max(abs(high), 1.0):
        margin = 0.5 if is_log else max(abs(high), 1e-6) * 0.5
        low, high = low - margin, high + margin
    is_smoothed = is_smooth and len(points) >= 8
    canvas.line(raw, holes, low, high, palette.muted if is_smoothed else palette.primary)
    if is_smoothed:
        canvas.line(bucket(smooth(shown), columns * canvas.across)[0], holes, low, high, palette.primary)
    wall, floor, corner = ("|", "-", "+") if palette.is_ascii else ("│", "─", "└")
    text = Text(no_wrap=True)
    labelled = {0: high, rows - 1: low} | (
        {rows // 2: high - (high - low) * (rows // 2) / (rows - 1)} if rows > 4 else {}
    )
    for row in range(rows):
        value = labelled.get(row)
        label = "" if value is None else _label(10 ** min(value, 300.0) if is_log else value)
        text.append(f"{label:>{LABEL_CELLS}}{wall}", palette.muted).append_text(canvas.row(row)).append("\n")
    cross = "x" if palette.is_ascii else "×"
    text.append(" " * LABEL_CELLS + corner, palette.muted)
    hole_cells = {column // canvas.across for column in holes}
    for column in range(columns):
        text.append(*((cross, f"bold {palette.error}") if column in hole_cells else (floor, palette.muted)))
    first, last = f"{points[0][0]:,}", f"{points[-1][0]:,}"
    ticks = first if len(points) == 1 else f"{first}{last:>{max(columns - len(first), 0)}}"
    return text.append("\n" + " " * (LABEL_CELLS + 1) + ticks, palette.muted)


def _label(value: float) -> str:
    text = number(value, 3)
    return text if len(text) <= LABEL_CELLS else f"{value:.0e}"


def _scaled(value: float, is_log: bool) -> float:
    if finite(value) is None:
        return value
    if not is_log:
        return min(max(value, -HUGE), HUGE)
    return math.log10(value) if value > 0 else math.nan


class Chart(Widget):
    """One metric over optimiser steps."""

    DEFAULT_CSS = "Chart { height: 1fr; width: 1fr; min-height: 5; }"
    is_log: reactive[bool] = reactive(False)

    def __init__(self, metric: str, id: str | None = None, is_smooth: bool = True) -> None:
        super().__init__(id=id)
        self.metric = metric
        self.is_smooth = is_smooth
        self.points: list[Point] = []
        self.palette: Palette | None = None

    def show(self, points: list[Point], palette: Palette, metric: str | None = None) -> None:
        self.points, self.palette = points, palette
        self.metric = self.metric if metric is None else metric
        self.refresh()

    def headline(self, palette: Palette) -> Text:
        """Name, newest value, its change over 50 steps, the lowest so far, and how many points could not be drawn."""
        text = styled(one_line(self.metric, 40), f"bold {palette.foreground}")
        known = [(step, value) for step, value in self.points if finite(value) is not None]
        if known:
            step, value = known[-1]
            text.append(f"  {number(value)}", f"bold {palette.primary}")
            earlier = [v for s, v in known if s <= step - 50]
            if earlier:
                text.append(f"  {value - earlier[-1]:+.2g} in 50 steps", palette.muted)
            text.append(f"  min {number(min(v for _, v in known))}", palette.muted)
        missing = len(self.points) - len(known)
        if missing:
            text.append(f"  {'x' if palette.is_ascii else '×'} {missing} not finite", f"bold {palette.error}")
        if self.is_log:
            text.append("  log", palette.accent)
        return text

    def render(self) -> Text:
        if self.palette is None:
            return Text("")
        title = self.headline(self.palette)
        title.truncate(self.size.width, overflow="ellipsis")
        return title.append("\n").append_text(
            draw(self.points, self.size.width, self.size.height - 1, self.palette, self.is_log, self.is_smooth)
        )
