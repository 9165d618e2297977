"""What the server, a model or a file says, on its way to a terminal.

A terminal obeys what it is sent: a job's name or a model's answer can hold escape sequences that clear the screen,
write the clipboard or hide a line. Every foreign string passes `clean`, and nothing foreign is ever markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import click

_KEPT = frozenset("\n\t")


def clean(text: object) -> str:
    """The text with each control, invisible or reordering character replaced by a visible mark; lines and tabs stay."""
    return "".join(
        character if character.isprintable() or character in _KEPT else "\N{REPLACEMENT CHARACTER}"
        for character in str(text).replace("\r\n", "\n")
    )


def one_line(text: object) -> str:
    """The same on one line."""
    return " ".join(clean(text).split())


def echo(text: object = "") -> None:
    """A line of foreign or own text on stdout."""
    click.echo(clean(text))


def warn(text: object) -> None:
    """A line on stderr: stdout holds results only."""
    click.echo(clean(text), err=True)


def echo_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns, never cut, so that a pipe gets all of it; numbers to the right."""
    from rich.cells import cell_len

    cells = [[one_line(value) for value in row] for row in rows]
    widths = [max(cell_len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    numeric = [_are_numbers([row[i] for row in cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        parts = [
            " " * (width - cell_len(text)) + text if right else text + " " * (width - cell_len(text))
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def _are_numbers(column: Sequence[str]) -> bool:
    filled = [text.lstrip("+-").replace(",", "").replace(".", "", 1) for text in column if text not in {"", "-"}]
    return bool(filled) and all(text.isdigit() for text in filled)


def percent(value: float) -> str:
    """A share of 1 as per cent with one decimal."""
    return f"{value * 100:.1f}" if math.isfinite(value) else "-"


def points(value: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{value * 100:+.1f}" if math.isfinite(value) else "-"


def seconds(value: float) -> str:
    """12s, 3m05s, 2h10m; "-" if it is not known."""
    if not math.isfinite(value) or value < 0:
        return "-"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def num_bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def moment(timestamp: Any) -> str:
    """A protobuf timestamp in local time, to the second."""
    if not timestamp.seconds:
        return "-"
    from datetime import UTC, datetime

    return datetime.fromtimestamp(timestamp.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span_s(start: Any, end: Any) -> float:
    """Seconds between two protobuf timestamps; NaN unless both are set."""
    if not (start.seconds and end.seconds):
        return math.nan
    return float(end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9)
