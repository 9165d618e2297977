"""One row of a dataset as JSON, and how the readers of all formats name what is wrong with it. Imports no torch."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Any, NoReturn

MAX_ROW_BYTES = 16 * 2**20
MAX_DEPTH = 64  # of JSON within a field: what renders it later is recursive
MAX_FIELD, MAX_REASON = 200, 600  # characters of a field's path and of a reason in a report
MAX_NAME = 1000  # characters of a file's name, or of where rows come from
# Marks that reorder the text around them, so that what is read is not what is stored.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class SourceFile:
    """One file of several that were joined; its rows follow those of the file before it."""

    name: str
    num_rows: int


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row. `row` is its 1-based number in the file (the line, in JSONL), 0 for the whole file;
    `field` is a path, or empty; `file` is the file's name where several were joined."""

    row: int
    field: str
    message: str
    file: str = ""

    def __str__(self) -> str:
        where = f"row {self.row}" if self.row else "file"
        where = f"{self.file}, {where}" if self.file else where
        return f"{where}, field {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class RowError(ValueError):
    """One row cannot be used; carries the field's path and the reason, both printable on one line: names of fields
    come from the file."""

    def __init__(self, field_path: str, message: str) -> None:
        super().__init__(printable(message, MAX_REASON))
        self.field = printable(field_path, MAX_FIELD)


def printable(text: str, limit: int) -> str:
    """What cannot be printed (a line break, an escape sequence, half a surrogate pair) as Python would escape it."""
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    return shown[:limit] + ("..." if max(len(text), len(shown)) > limit else "")


def unfit_for_people(text: str, limit: int) -> str:
    """Why a text cannot be stored to be shown: too long, or a character that acts on a terminal; empty if it can."""
    if len(text) > limit:
        return f"{len(text)} characters; at most {limit}"
    for index, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI:
            return f"a control character (U+{ord(character):04X}) at position {index + 1}"
    return ""


UNREADABLE = "$unreadable"


def unreadable(reason: str) -> bytes:
    """The line that stands for a row which a reader of another kind of file could not read: `parse_row` names the
    reason, and rows keep their numbers."""
    return json.dumps({UNREADABLE: reason}).encode() + b"\n"


def parse_row(line: bytes) -> dict[str, Any]:
    """One JSONL line to an object.

    Raises:
        RowError: not UTF-8, not JSON, not an object, a field given twice, NaN, a lone surrogate, or too large.
    """
    if len(line) > MAX_ROW_BYTES:
        raise RowError("", f"the row has {len(line)} bytes; at most {MAX_ROW_BYTES} are read")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("", f"not UTF-8: byte {line[error.start]:#04x} at position {error.start}") from None
    # A byte order mark begins a file, and so the first line of each of several that were joined.
    value = parse_json(text.removeprefix("\ufeff").rstrip("\r\n"), "")
    if not isinstance(value, dict):
        raise RowError("", f"not a JSON object but {kind_of(value)}")
    if UNREADABLE in value:
        raise RowError("", str(value[UNREADABLE])[:500])
    return value


def parse_json(text: str, path: str) -> Any:
    """JSON, strictly: no NaN, no field twice.

    Raises:
        RowError: names `path`, or the field that is given twice.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_fields)
    except RowError as error:
        raise RowError(".".join(filter(None, (path, error.field))), str(error)) from None
    except RecursionError:
        raise RowError(path, "nested too deeply") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        reason = f"not JSON: {error.msg} ({line}column {error.colno})"
    except ValueError:
        reason = "not JSON that can be read: a number has too many digits"
    raise RowError(path, f"is text that is {reason}" if path else reason)


def _refuse_constant(name: str) -> NoReturn:
    raise RowError("", f"{name} is not JSON")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RowError(key, "given twice in one object")
        found[key] = value
    return found


def required(row: dict[str, Any], key: str, path: str = "") -> Any:
    """The field's value; null counts as missing."""
    if row.get(key) is None:
        raise RowError(f"{path}.{key}" if path else key, "is missing")
    return row[key]


def optional_text(row: dict[str, Any], key: str, path: str) -> str:
    """The field's text, or empty."""
    return "" if row.get(key) is None else text_of(row[key], path, allow_empty=True)


def text_of(value: Any, path: str, allow_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise RowError(path, f"must be text, not {kind_of(value)}")
    if not allow_empty and not value.strip():
        raise RowError(path, "is empty")
    check_texts(value, path)
    return value


def check_texts(value: Any, path: str) -> None:
    """JSON may escape half a surrogate pair, which no tokenizer can encode, and nest without end."""
    if isinstance(value, str) and value.isascii():
        return
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError as error:
                shown = f"{item[error.start]!r} at position {error.start}"
                raise RowError(path, f"holds a lone surrogate {shown}") from None
        elif isinstance(item, dict | list):
            if depth == MAX_DEPTH:
                raise RowError(path, f"nested too deeply: at most {MAX_DEPTH} levels are read")
            inner = [*item, *item.values()] if isinstance(item, dict) else item
            waiting += [(child, depth + 1) for child in reversed(inner)]


def kind_of(value: Any) -> str:
    """A JSON value's type in words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]
