"""Regular expressions of tools' schemas, matched in linear time, and refused where compiling one would take long.

A schema comes from whoever wrote the rows. The engine is the one that pydantic uses: neither look-around nor
back-references; its own limit lets a pattern take 10 MB and a second, so a lower one is set here, on an estimate of how
many automaton states the pattern becomes. Imports no torch.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any

import pydantic
import pydantic_core

MAX_PATTERN = 1_000
MAX_PATTERN_SIZE = 2_000  # see `size_of`
KEPT = 16  # schemas, and patterns, that are kept from row to row
UNICODE_CLASS, WIDE_CLASS = 40, 4  # automaton states of a class such as \w, and of one such as [^a], about
_MAX_SHOWN = 160
# One step of a pattern as it is compiled: an escape, the opening of a group, a bounded repeat, any other character.
_STEP = re.compile(
    r"(?P<escape>\\(?:[pPxuUbB]\{[^}\d][^}]*\}|[xuU]\{[^}]*\}|[pP]?.))"
    r"|(?P<open>\((?:\?(?:P?<[^>]*>|(?P<flags>[a-zA-Z-]*):?))?)"
    r"|\{\s*(?P<least>\d*)\s*,?\s*(?P<most>\d*)\s*\}"
    r"|(?P<other>.)",
    re.DOTALL,
)


class UncheckableError(ValueError):
    """A schema that is none, or that would take too much to check."""


def shown(text: str) -> str:
    """A text of a schema or a call, cut to a length that fits a message."""
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


@functools.lru_cache(maxsize=KEPT)
def matcher_of(pattern: str) -> Any:
    """A validator of texts that the pattern is found in.

    Raises:
        UncheckableError: it is none, or takes too much.
    """
    if len(pattern) > MAX_PATTERN:
        raise UncheckableError(f"a pattern has more than {MAX_PATTERN} characters")
    if size_of(pattern) > MAX_PATTERN_SIZE:
        raise UncheckableError(f"the pattern {shown(repr(pattern))} repeats too much to be matched in bounded time")
    try:
        return pydantic.TypeAdapter(Annotated[str, pydantic.StringConstraints(pattern=pattern)])
    except pydantic_core.SchemaError:
        raise UncheckableError(f"the pattern {shown(repr(pattern))} cannot be matched in bounded time") from None


def is_found(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text.

    Raises:
        UncheckableError: see `matcher_of`.
    """
    try:
        matcher_of(pattern).validate_python(text)
    except pydantic.ValidationError:
        return False
    return True


def size_of(pattern: str) -> int:
    """About how many states a pattern compiles to: a bounded repeat copies what it repeats, once for each time, and
    repeats inside of it multiply.

    Raises:
        UncheckableError: it has the flag x, under which text that looks like a group may be a comment.
    """
    levels, at = [[0, 0]], 0  # of each open group: its size so far, and that of its last part

    def add(size: int) -> None:
        levels[-1] = [levels[-1][0] + size, size]

    while at < len(pattern):
        if pattern[at] == "[":
            end = _end_of_class(pattern, at)
            add(_size_of_class(pattern[at + 1 : end - 1]))
            at = end
            continue
        step = _STEP.match(pattern, at)
        assert step is not None  # any character is a step
        at = step.end()
        if step["least"] is not None:
            times = max(1, *(int(number) for number in (step["least"], step["most"]) if number), 1)
            total, last = levels[-1]
            levels[-1] = [total + last * (times - 1), last * times]
        elif step["open"]:
            if "x" in (step["flags"] or ""):
                raise UncheckableError(f"the pattern {shown(repr(pattern))} has the flag x")
            levels.append([0, 0])
        elif step["other"] == ")" and len(levels) > 1:
            total, _ = levels.pop()
            add(total + 1)
        elif step["escape"]:
            add(_size_of_class(step["escape"]))
        elif step["other"] not in ("?", "*", "+", "|"):
            add(WIDE_CLASS if step["other"] == "." else 1)
    return sum(total for total, _ in levels)


def _end_of_class(pattern: str, start: int) -> int:
    """The place behind a class's last bracket; classes may stand in classes."""
    depth, at = 0, start
    while at < len(pattern):
        mark = pattern[at]
        if mark == "[":
            depth += 1
            if pattern.startswith(("[]", "[^]"), at):  # a bracket that comes first is a character
                at += 2 if pattern[at + 1] == "]" else 3
                continue
        elif mark == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 2 if mark == "\\" else 1
    return len(pattern)


def _size_of_class(text: str) -> int:
    if re.search(r"\\[pPwWdDsSbB]|\[:", text):
        return UNICODE_CLASS + len(text)
    if text.startswith("^") or not text.isascii() or re.search(r"\\[xuU]|\[", text):
        return WIDE_CLASS + len(text) // 2
    return 1 + len(text) // 16
