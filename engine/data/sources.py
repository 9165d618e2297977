"""What people have, as the JSONL that is stored: JSONL, JSON, CSV, TSV, Parquet, a folder of such files, a hub name.

Done where the files are, before anything is sent. Each row becomes one line at its place, so a row's number is that of
its file: the line of JSONL, the record under a CSV's header, the element of a JSON list, the row of a Parquet file. A
row that cannot be read keeps its place as a line that says why; a file whose rows cannot be told apart is an error.

No pickle is opened, no code of a dataset is run, and nothing is fetched unless the name of a hub dataset is given.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from posttrain.engine.data.json_list import json_rows
from posttrain.engine.data.rows import MAX_FIELD, MAX_NAME, SourceFile, printable, unfit_for_people
from posttrain.engine.data.tables import csv_rows, parquet_rows
from posttrain.engine.errors import DataError, EmptyDatasetError

JSONL = (".jsonl", ".ndjson")
KINDS = (*JSONL, ".json", ".csv", ".tsv", ".parquet")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAX_FILES = 10_000
MAX_CONVERTED_BYTES = 4 * 2**30  # what a server takes, unless it is set to take less
_CHUNK = 2**20
_PROGRESS_ROWS = 10_000
# Words of paths that name a split; train and the others must not meet in one dataset unnoticed.
_SPLITS = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"), "test"),
}
# What a file begins with, and what that means. Nothing of this is opened.
_FOREIGN = (
    (b"\x1f\x8b", "is compressed by gzip", "unpack it first"),
    (b"PK\x03\x04", "is a ZIP archive or an Excel sheet", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "unpack it first"),
    (b"BZh", "is compressed by bzip2", "unpack it first"),
    (b"\xfd7zXZ", "is compressed by xz", "unpack it first"),
    (b"\xff\xfe", "is UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16", "save it as UTF-8"),
    (b"ARROW1", "is an Arrow file", "write it as Parquet (Dataset.to_parquet)"),
    *((bytes([0x80, version]), "is a Python pickle", "it is never opened: write JSONL") for version in range(2, 6)),
)


@dataclass(frozen=True)
class HubSource:
    """A dataset of the Hugging Face hub; `config` empty: its only or default one."""

    name: str
    split: str = "train"
    config: str = ""
    revision: str = "main"


@dataclass
class Prepared:
    """A JSONL file to send. `files` has an entry for each file of a folder, in order; empty for one file alone."""

    path: Path
    files: list[SourceFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@contextmanager
def prepared(source: Path | HubSource, on_rows: Callable[[int], None] | None = None) -> Iterator[Prepared]:
    """The source as one JSONL file: itself, or a temporary file for as long as the context lasts.

    Memory is that of a few rows.

    Args:
        on_rows: called now and then with the number of rows converted so far.

    Raises:
        DataError: names the file, where it can the row, and what is wrong.
        EmptyDatasetError: no rows.
        OSError: a file cannot be read, or no space is left for the converted one.
    """
    made = Prepared(source if isinstance(source, Path) else Path())
    if isinstance(source, Path) and not source.is_dir() and kind_of_file(source) in JSONL:
        yield made
        return
    with tempfile.TemporaryDirectory(prefix="posttrain-") as folder:
        made.path = Path(folder) / "rows.jsonl"
        with open(made.path, "wb") as out:
            writer = _Writer(out, on_rows)
            if isinstance(source, HubSource):
                from posttrain.engine.data.hub import hub_rows

                writer.write(hub_rows(source, made.notes.append))
            elif source.is_dir():
                paths = data_files(source, made.notes.append)
                names = [shown_name(path.relative_to(source)) for path in paths]
                for path, name in zip(paths, names, strict=True):
                    made.files.append(SourceFile(name, writer.write(rows_of(path, made.notes.append))))
            else:
                writer.write(rows_of(source, made.notes.append))
        if not writer.num_rows:
            raise EmptyDatasetError(f"{source.name}: is empty: a dataset needs at least one row")
        yield made


class _Writer:
    def __init__(self, out: BinaryIO, on_rows: Callable[[int], None] | None) -> None:
        self._out = out
        self._on_rows = on_rows
        self._num_bytes = 0
        self.num_rows = 0

    def write(self, lines: Iterator[bytes]) -> int:
        """Writes what ends a line as one row, and returns how many there were."""
        before = self.num_rows
        for line in lines:
            self._num_bytes += len(line)
            if self._num_bytes > MAX_CONVERTED_BYTES:
                raise DataError(
                    f"row {self.num_rows + 1}: with it the rows take more than {MAX_CONVERTED_BYTES} bytes as JSON",
                    hint="add the files as several datasets",
                )
            self._out.write(line)
            self.num_rows += line.endswith(b"\n")
            if self._on_rows is not None and self.num_rows % _PROGRESS_ROWS == 0:
                self._on_rows(self.num_rows)
        return self.num_rows - before


def rows_of(path: Path, note: Callable[[str], None]) -> Iterator[bytes]:
    """The rows of one file as lines of JSON.

    Raises:
        DataError: as `prepared`.
    """
    kind = kind_of_file(path)
    if kind == ".parquet":
        return parquet_rows(path, note)
    if kind in (".csv", ".tsv"):
        return csv_rows(path, "\t" if kind == ".tsv" else "")
    return json_rows(path) if kind == ".json" else _lines(path)


def _lines(path: Path) -> Iterator[bytes]:
    """A JSONL file as it is, in pieces; the last line gets its end."""
    piece = b"\n"
    with open(path, "rb") as file:
        while more := file.readline(_CHUNK):
            piece = more
            yield piece
    if not piece.endswith(b"\n"):
        yield b"\n"


def shown_name(path: Path) -> str:
    """A file's name as text that can be sent: a byte that is no UTF-8 becomes '?'.

    Raises:
        DataError: it is too long, or holds what acts on a terminal; a server would refuse it after the upload.
    """
    name = path.as_posix().encode("utf-8", "replace").decode("utf-8")
    reason = unfit_for_people(name, MAX_NAME)
    if reason:
        raise DataError(f"{printable(name, MAX_FIELD)}: a file's name with {reason}", hint="rename the file")
    return name


def kind_of_file(path: Path) -> str:
    """The kind of a file by its name, compared with how it begins.

    Raises:
        DataError: no plain file, an unknown kind, or it begins like another one; `.json` with an object on each line
            is `.jsonl`.
    """
    if not path.is_file():
        raise DataError(f"{path.name}: is no plain file", hint="give a file or a folder")
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise DataError(
            f"{path.name}: the name does not tell what is in it", hint=f"name it as what it is: {', '.join(KINDS)}"
        )
    with open(path, "rb") as file:
        head = file.read(4096)
    for mark, what, hint in _FOREIGN:
        if head.startswith(mark):
            raise DataError(f"{path.name}: {what}", hint=hint)
    is_parquet = head.startswith((b"PAR1", b"PARE"))
    if is_parquet and kind != ".parquet":
        raise DataError(f"{path.name}: is a Parquet file", hint="name it .parquet")
    if kind == ".parquet" and head and not is_parquet:
        raise DataError(f"{path.name}: is no Parquet file", hint="name it as what it is, or fetch it again")
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if kind == ".json" and begins.startswith(b"{"):
        first = begins.split(b"\n")[0].rstrip()
        if first == b"{" or first.endswith((b",", b"[")):
            raise DataError(
                f"{path.name}: is one object over several lines", hint="a JSON file is a list of rows, or one a line"
            )
        return ".jsonl"
    if kind in JSONL and (begins.startswith(b"[{") or begins.split(b"\n")[0].rstrip() == b"["):
        raise DataError(f"{path.name}: is a JSON list, not one object a line", hint="name it .json")
    return kind


def data_files(folder: Path, note: Callable[[str], None]) -> list[Path]:
    """The data files in a folder and below it, sorted by path; hidden ones and links to folders are not followed.

    Raises:
        DataError: none, too many, or files of several splits, which nobody wants in one dataset; a link to a file
            elsewhere, which somebody may have put there for rows that are not meant to be sent.
    """
    found: list[Path] = []
    left_out: list[str] = []
    links: list[str] = []
    root = folder.resolve()
    for place, folders, names in os.walk(folder):
        links += [name for name in folders if (Path(place) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place) / name
            if name.startswith("."):
                continue
            is_data = path.suffix.lower() in KINDS and name not in ("dataset_info.json", "dataset_infos.json")
            (found.append(path) if is_data else left_out.append(name))
            if is_data and path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DataError(
                    f"{printable(path.relative_to(folder).as_posix(), MAX_FIELD)}: is a link to a file outside of the "
                    f"folder {printable(folder.name, MAX_FIELD)}",
                    hint="give that file itself, or a folder with a copy of it (cp -RL FOLDER COPY)",
                )
            if len(found) > MAX_FILES:
                raise DataError(f"{folder.name}: more than {MAX_FILES} files", hint="join them, or give a file")
    if not found:
        raise DataError(f"{folder.name}: no data file in it", hint=f"a data file is {', '.join(KINDS)}")
    if left_out:
        note(f"{len(left_out)} files of the folder are no data and left out: {_some(left_out)}")
    if links:
        note(f"{len(links)} links to folders are not followed: {_some(links)}")
    words = ((word, path) for path in found for word in re.split(r"[^a-z]+", str(path.relative_to(folder)).lower()))
    splits = {_SPLITS[word]: path.name for word, path in words if word in _SPLITS}
    if len(splits) > 1:
        first, second = splits.values()
        raise DataError(
            f"{folder.name}: holds several splits ({first} and {second})",
            hint="add each split as a dataset of its own: give its files, or a folder with them alone",
        )
    return sorted(found)


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (" and others" if len(names) > 5 else "")
