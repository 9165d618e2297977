"""The only way foreign text (names, logs, errors, model output) and foreign numbers reach the screen.

A terminal obeys what it is sent: an escape sequence in a log line can write the clipboard, a right-to-left override
can make `evil` look like `prod`. Widgets therefore get rich `Text` built from `clean()`ed strings, never markup.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

MAX_LINE = 4_000  # longer lines are cut: wrapping a megabyte would freeze the screen
MAX_BLOCK = 40_000

# Whole sequences first, so that no `[31m` or clipboard payload stays behind as litter; a lone ESC falls to _DROP.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one C1 byte
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-Z\\^-~]"  # two-character escapes
)
_DROP = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but \t \n, DEL, C1
    r"\u00ad\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, bidi
    r"\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, tags
)
_BREAKS = re.compile(r"\r\n|[\x0b\x0c\x85\u2028\u2029]")


def clean(value: object, limit: int = MAX_BLOCK) -> str:
    """Printable text of several lines: no control, escape or bidi characters; at most `limit` characters and a note."""
    text = str(value)
    left = len(text) - limit
    if left > 0:
        text = text[:limit]
    text = _DROP.sub("", _BREAKS.sub("\n", _SEQUENCE.sub("", text)))
    return f"{text}… ({left:,} more characters)" if left > 0 else text


def one_line(value: object, limit: int = MAX_LINE) -> str:
    """The same on one line, for cells, titles and chips."""
    return clean(value, limit).replace("\n", " ").replace("\t", " ").strip()


def log_line(value: object) -> str:
    """A log line; of a progress bar that rewrote itself with carriage returns, the last state."""
    text = str(value).rstrip("\r\n")
    head, _, last = text.rpartition("\r")
    return clean(last or head, MAX_LINE).expandtabs(4).replace("\n", " ")


def shorten(value: object, width: int) -> str:
    """One line of at most `width` characters, cut with an ellipsis."""
    text = one_line(value)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def styled(value: str, style: str = "") -> Text:
    """Text to append to: unlike `Text(value, style)`, what is appended does not inherit the style."""
    return Text().append(value, style)


def cell(value: object, style: str = "", width: int = 60, justify: Any = None) -> Text:
    """A table cell."""
    return Text(shorten(value, width), style=style, no_wrap=True, overflow="ellipsis", justify=justify)


def finite(value: float | None) -> float | None:
    """The number, or None if there is none that could be drawn."""
    return value if value is not None and math.isfinite(value) else None


def number(value: float | None, digits: int = 4) -> str:
    """A metric for people: significant digits, and NaN and infinities by name."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.{max(digits - 2, 1)}e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(size)), 0)}f}"


def points(value: float) -> str:
    """A score difference in percentage points, with its sign."""
    return "NaN" if math.isnan(value) else f"{value * 100:+.1f}"


def percent(value: float) -> str:
    return f"{value * 100:.1f}" if math.isfinite(value) else number(value)


def duration(seconds: float) -> str:
    """12s, 3m05s, 2h10m, 4d03h; a dash if it is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "–"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def age(timestamp: Any, now: float) -> str:
    """How long ago a protobuf timestamp was, coarse enough that it does not change each second."""
    if not timestamp.seconds:
        return "–"
    seconds = max(now - timestamp.seconds, 0)
    if seconds < 60:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "now"


def span_s(start: Any, end: Any, now: float) -> float:
    """Seconds from one protobuf timestamp to another, or to now while there is no other; -1 before the start."""
    if not start.seconds:
        return -1.0
    return float((end.seconds or now) - start.seconds)


def clock(timestamp: Any) -> str:
    """Local time of day, with the date if it is not today."""
    if not timestamp.seconds:
        return "–"
    moment = datetime.fromtimestamp(timestamp.seconds, UTC).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def num_bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def count(value: int) -> str:
    """A parameter count: 135M, 1.2B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)
