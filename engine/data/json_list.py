"""A JSON list of rows as JSONL, one row at a time: memory is that of one row. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from posttrain.engine.data.rows import MAX_ROW_BYTES, unreadable
from posttrain.engine.errors import DataError

_CHUNK = 2**16
_SPACE = " \t\n\r"
_LONGEST_WORD = 16  # of JSON: an error further from the end of what is read is no word that was cut
# Only finds where a row ends: what is wrong inside is for whoever checks the row. Numbers stay text, since the digits
# of a number can be too many for an int.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


def json_rows(path: Path) -> Iterator[bytes]:
    """The elements of a file's list, each as one line.

    Raises:
        DataError: no list, broken off or not JSON at some row (by number and line), text after the list, or a row of
            more than 16 MiB. What comes behind a broken row cannot be found.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from _List(file, path.name).rows()


class _List:
    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name
        self._text = ""  # what is read and not used; `_at` is the place in it
        self._at = 0
        self._line = 1
        self._row = 0
        self._is_over = False

    def rows(self) -> Iterator[bytes]:
        if not self._next():
            return  # empty; whoever asked says so
        if self._next() != "[":
            raise self._error("is not a list of rows")
        self._at += 1
        if self._next() == "]":
            self._at += 1
        else:
            while True:
                self._row += 1
                yield self._element()
                mark = self._next()
                self._at += 1
                if mark == "]":
                    break
                if mark != ",":
                    raise self._error("there is no ',' or ']' after it" if mark else "the file ends inside the list")
                if self._next() == "]":
                    raise self._error("a ',' follows, and no further row")
        if self._next():
            raise self._error("text follows after the end of the list")

    def _element(self) -> bytes:
        """The next element's text. What fails to parse may only have been read in part: more is read, twice as much
        each time, until it parses, the file ends or a row may not be longer."""
        if not self._next():
            raise self._error("the file ends inside the list")
        size = _CHUNK
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
                # A number could go on in what is not read yet: "1", "1." and "1.5e" begin like "1.5e3".
                if self._is_over or (end < len(self._text) and not self._is_cut_number(end)):
                    break
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_WORD
                if self._is_over or not is_cut:
                    raise self._broken(error) from None
            except RecursionError:
                raise self._error("nested too deeply") from None
            if len(self._text) - self._at > MAX_ROW_BYTES:
                raise self._error(f"has more than {MAX_ROW_BYTES} characters, or a text in it does not end")
            self._read(size)
            size *= 2
        element = self._text[self._at : end]
        self._line += element.count("\n")
        self._at = end
        # A line break outside a string is only space, and inside one the decoder has refused it.
        element = element.replace("\r", " ").replace("\n", " ")
        try:
            return element.encode() + b"\n"
        except UnicodeEncodeError as error:  # a byte that was escaped at reading
            return unreadable(f"not UTF-8: byte {ord(element[error.start]) & 0xFF:#04x}")

    def _is_cut_number(self, end: int) -> bool:
        return self._text[self._at] in "-0123456789" and self._text[end] in ".eE"

    def _next(self) -> str:
        """The next character that is not space, which stays; empty at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in _SPACE:
                    return character
                self._line += character == "\n"
                self._at += 1
            if self._is_over:
                return ""
            self._read(_CHUNK)

    def _read(self, size: int) -> None:
        more = self._file.read(size)
        self._text, self._at = self._text[self._at :] + more, 0
        self._is_over = not more

    def _broken(self, error: json.JSONDecodeError) -> DataError:
        if error.pos >= len(self._text.rstrip()) or error.msg.startswith("Unterminated string"):
            return self._error("the file ends inside it")
        line = self._line + self._text.count("\n", self._at, error.pos)
        return self._error(f"not JSON: {error.msg} (line {line})")

    def _error(self, what: str) -> DataError:
        row = f"row {self._row} (line {self._line}): " if self._row else ""
        return DataError(f"{self._name}: {row}{what}", hint="mend the file; a JSON file is a list of rows")
