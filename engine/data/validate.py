"""Checks a dataset file row by row before anything is started. Imports no torch and no transformers; memory is one
row's.

The server calls `validate_file` when a dataset is sealed, so that a bad row is named in seconds and not after a model
was loaded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.engine.data.formats import Format, check_same, detect, extra_columns, normalise
from posttrain.engine.data.rows import MAX_ROW_BYTES, Problem, RowError, parse_row
from posttrain.engine.errors import DataError


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset file holds.

    `format` is that of the first readable row, empty if there is none. `problems` are the first ones found,
    `num_problems` counts all rows with a problem. `notes` are for people and block nothing.
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


def validate_file(path: Path, max_problems: int = 20) -> DatasetReport:
    """Reads a JSONL file once and reports on it; see `validate_lines`."""
    with open(path, "rb") as file:
        return validate_lines(iter(lambda: file.readline(MAX_ROW_BYTES + 2), b""), max_problems)


def validate_lines(lines: Iterable[bytes], max_problems: int = 20) -> DatasetReport:
    """Checks each line of a JSONL file; blank lines are skipped but counted in row numbers.

    The first row decides the format; a later row of another one is a problem.
    """
    digest = hashlib.sha256()
    problems: list[Problem] = []
    extras: Counter[str] = Counter()
    expected: Format | None = None
    num_bytes = num_rows = num_bad = number = 0
    at_line_start, is_blank_line = True, False
    for line in lines:
        digest.update(line)
        num_bytes += len(line)
        is_continued = not at_line_start
        at_line_start = line.endswith(b"\n")
        if is_continued:  # the tail of a row that was too long and has been reported
            continue
        number += 1
        is_blank_line = not line.strip()
        if is_blank_line:
            continue
        num_rows += 1
        try:
            row = parse_row(line)
            row_format = detect(row)
            if expected is None:
                expected = row_format
            check_same(row, row_format, expected)
            normalise(row, row_format)
        except RowError as error:
            num_bad += 1
            if len(problems) < max_problems:
                problems.append(Problem(number, error.field, str(error)))
        else:
            extras.update(extra_columns(row, row_format))
    if num_rows == 0:
        num_bad += 1
        problems.append(Problem(0, "", "is empty: a dataset needs at least one row"))
    notes = [
        f"column {name!r} ({count} rows) is not read by format {expected}" for name, count in sorted(extras.items())
    ]
    return DatasetReport(expected or "", num_rows, num_bytes, digest.hexdigest(), num_bad, problems, notes)


def iter_examples(path: Path, row_format: Format) -> Iterator[tuple[int, Any]]:
    """Yields (row number, example) of a dataset that was validated at sealing. The class of the example follows from
    the format: a conversation, a pair or a labelled answer (`examples.py`).

    Raises:
        DataError: a row does not hold what the sealed format promises; names file and row.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 2), b""), start=1):
            if not line.strip():
                continue
            try:
                yield number, normalise(parse_row(line), row_format)
            except RowError as error:
                raise DataError(f"{path.name}: {Problem(number, error.field, str(error))}") from None
