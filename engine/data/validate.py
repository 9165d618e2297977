"""Checks a dataset file row by row before anything is started. Imports no torch and no transformers; memory is one
row's.

The server calls `validate_file` when a dataset is sealed, so that a bad row is named in seconds and not after a model
was loaded.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

from posttrain.engine.data.examples import AnyExample
from posttrain.engine.data.formats import Format, check_same, detect, extra_columns, normalise
from posttrain.engine.data.rows import MAX_ROW_BYTES, Problem, RowError, SourceFile, parse_row
from posttrain.engine.errors import DataError

OnBadRow = Literal["fail", "skip"]
MAX_PROBLEMS = 20


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset file holds.

    `format` is that of the first good row, empty if there is none. `num_rows` counts all rows, good and bad.
    `problems` are the first ones found, `num_problems` counts all rows with a problem. `notes` are for people and
    block nothing.
    """

    format: Format | str
    num_rows: int
    num_bytes: int
    sha256: str
    num_problems: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return self.num_problems == 0


class GoodRow(NamedTuple):
    """A row that was checked: the bytes of its line, and what they mean."""

    line: bytes
    example: AnyExample


class RowChecker:
    """Checks the lines of a JSONL file one by one; blank lines are skipped but counted in row numbers.

    The first good row decides the format; a later row of another one is a problem.

    Args:
        files: where several files were joined, what each brought: problems then name the file and the row in it.
    """

    def __init__(self, files: Sequence[SourceFile] = (), max_problems: int = MAX_PROBLEMS) -> None:
        self._files = files
        self._ends = list(accumulate(file.num_rows for file in files))
        self._max_problems = max_problems
        self._problems: list[Problem] = []
        self._extras: Counter[str] = Counter()
        self._digest = hashlib.sha256()
        self._format: Format | None = None
        self._num_bytes = self._num_rows = self._num_bad = 0
        self.num_lines = 0

    def rows(self, lines: Iterable[bytes]) -> Iterator[GoodRow]:
        """The good rows, as they come; `report` tells of the others once all were taken."""
        at_line_start = True
        for line in lines:
            self._digest.update(line)
            self._num_bytes += len(line)
            is_continued = not at_line_start
            at_line_start = line.endswith(b"\n")
            if is_continued:  # the tail of a row that was too long and has been reported
                continue
            self.num_lines += 1
            if not line.strip():
                continue
            self._num_rows += 1
            try:
                example = self._check(line)
            except RowError as error:
                self._num_bad += 1
                if len(self._problems) < self._max_problems:
                    self._problems.append(self._problem(error))
            else:
                yield GoodRow(line, example)

    def report(self) -> DatasetReport:
        num_bad, problems = self._num_bad, list(self._problems)
        if self._num_rows == 0:
            num_bad += 1
            problems.append(Problem(0, "", "is empty: a dataset needs at least one row"))
        notes = [
            f"column {name!r} ({count} rows) is not read by format {self._format}"
            for name, count in sorted(self._extras.items())
        ]
        sha256 = self._digest.hexdigest()
        return DatasetReport(self._format or "", self._num_rows, self._num_bytes, sha256, num_bad, problems, notes)

    def _check(self, line: bytes) -> AnyExample:
        row = parse_row(line)
        row_format = detect(row)
        if self._format is not None:
            check_same(row, row_format, self._format)
        example = normalise(row, row_format)
        self._format = row_format
        self._extras.update(extra_columns(row, row_format))
        return example

    def _problem(self, error: RowError) -> Problem:
        index = bisect_right(self._ends, self.num_lines - 1)
        if index >= len(self._ends):
            return Problem(self.num_lines, error.field, str(error))
        row = self.num_lines - (self._ends[index - 1] if index else 0)
        return Problem(row, error.field, str(error), self._files[index].name)


def validate_file(path: Path, max_problems: int = MAX_PROBLEMS) -> DatasetReport:
    """Reads a JSONL file once and reports on it; see `RowChecker`."""
    with open(path, "rb") as file:
        return validate_lines(lines_of(file), max_problems)


def lines_of(file: Any) -> Iterator[bytes]:
    """The lines of an open JSONL file; of one that is too long, pieces."""
    return iter(lambda: file.readline(MAX_ROW_BYTES + 2), b"")


def validate_lines(lines: Iterable[bytes], max_problems: int = MAX_PROBLEMS) -> DatasetReport:
    """Checks each line of a JSONL file; see `RowChecker`."""
    checker = RowChecker(max_problems=max_problems)
    for _ in checker.rows(lines):
        pass
    return checker.report()


def iter_examples(path: Path, row_format: Format) -> Iterator[tuple[int, Any]]:
    """Yields (row number, example) of a dataset that was validated at sealing. The class of the example follows from
    the format: a conversation, a pair or a labelled answer (`examples.py`).

    Raises:
        DataError: a row does not hold what the sealed format promises; names file and row.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(lines_of(file), start=1):
            if not line.strip():
                continue
            try:
                yield number, normalise(parse_row(line), row_format)
            except RowError as error:
                raise DataError(f"{path.name}: {Problem(number, error.field, str(error))}") from None
