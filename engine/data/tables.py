"""Rows of CSV and Parquet files as JSONL, one row at a time; a row that cannot be read keeps its place and its reason.

A CSV cell holds text. Of the columns that a format reads, `messages`, `conversations` and `tools` are JSON if they
begin like it, and so is an answer or a prompt that is a list of messages; `label` is true or false, `margin` a number;
an empty cell is no value. In Parquet a null inside a struct is no field: a column's type names all fields of all rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from posttrain.engine.data.rows import MAX_ROW_BYTES, RowError, parse_json, unreadable
from posttrain.engine.errors import DataError

BATCH_ROWS = 256
MAX_ROW_GROUP_BYTES = 4 * 2**30
_LISTS = ("messages", "conversations", "tools")
_TEXT_OR_MESSAGES = ("prompt", "completion", "chosen", "rejected")


# -- CSV --------------------------------------------------------------------------------------------------------------


def csv_rows(path: Path, delimiter: str = "") -> Iterator[bytes]:
    """Each record under the header as one line. Rows are counted from the first one under the header; blank lines are
    none.

    Args:
        delimiter: empty: a comma, or what the header has instead of one (semicolon or tab).

    Raises:
        DataError: no header, a column named twice, not UTF-8 in the header, or quotes that do not match (by row and
            line): what comes behind those cannot be told apart.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline(MAX_ROW_BYTES)
        file.seek(0)
        if not delimiter:
            delimiter = next((mark for mark in ",;\t" if mark in first), ",")
        records = csv.reader(file, delimiter=delimiter, strict=True)
        row = -1
        try:
            for cells in records:
                if not cells:
                    continue
                row += 1
                if row == 0:
                    header = _header(cells, path.name)
                else:
                    yield _record(header, cells)
        except csv.Error as error:
            where = f"row {row + 1} (up to line {records.line_num})" if row >= 0 else "the header"
            raise DataError(f"{path.name}: {where}: {error}", hint="a quote inside a cell is written twice") from None


def _header(cells: list[str], name: str) -> list[str]:
    if not all(map(_is_text, cells)):
        raise DataError(f"{name}: the header is not UTF-8", hint="save the file as UTF-8")
    twice = _first_twice(cells)
    if twice is not None:
        raise DataError(f"{name}: the header has two columns {twice!r:.80}", hint="give each column its own name")
    return cells


def _first_twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _record(header: list[str], cells: list[str]) -> bytes:
    if len(cells) != len(header):
        return unreadable(f"has {len(cells)} cells, and the header has {len(header)}")
    row: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        if cell == "":
            continue
        if not _is_text(cell):
            return unreadable(f"column {name}: not UTF-8")
        try:
            row[name] = _cell(name, cell)
        except RowError as error:
            return unreadable(f"column {name}: {error}")
    return json_line(row)


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cell(name: str, cell: str) -> Any:
    begins = cell.lstrip()[:1]
    if name in _LISTS and begins in ("[", "{"):
        if cell.lstrip().startswith(("[{'", "{'")):
            raise RowError("", "is a list as Python prints it, not JSON: write the column by json.dumps")
        return parse_json(cell, name)
    if name == "target" and begins == "{":
        if cell.lstrip().startswith("{'"):
            raise RowError("", "is an object as Python prints it, not JSON: write the column by json.dumps")
        try:
            return parse_json(cell, "")
        except RowError:
            return cell  # an answer may well begin with a brace
    if name in _TEXT_OR_MESSAGES and begins in ("[", "{"):
        return _messages_or_text(cell)
    if name == "label" and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    if name == "margin":
        try:
            return float(cell)
        except ValueError:
            return cell
    return cell


def _messages_or_text(cell: str) -> Any:
    """An answer may well be a JSON list; only one of messages or turns is taken as such."""
    try:
        value = parse_json(cell, "")
    except RowError:
        return cell
    items = value if isinstance(value, list) else [value]
    are_turns = all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)
    return value if items and are_turns else cell


# -- Parquet ----------------------------------------------------------------------------------------------------------


def parquet_rows(path: Path, note: Callable[[str], None]) -> Iterator[bytes]:
    """Each row as one line; columns that JSON cannot hold (bytes, times, decimals) are left out, with a note.

    Raises:
        DataError: no Parquet file, a damaged or encrypted one, two columns of one name, or a row group that takes
            more than 4 GiB in memory.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            names = file.schema_arrow.names
            twice = _first_twice(names)
            if twice is not None:
                raise DataError(f"{path.name}: two columns {twice!r:.80}", hint="give each column its own name")
            for group in range(file.metadata.num_row_groups):
                if _group_bytes(file.metadata.row_group(group)) > MAX_ROW_GROUP_BYTES:
                    raise DataError(
                        f"{path.name}: row group {group + 1} takes more than {MAX_ROW_GROUP_BYTES} bytes",
                        hint="write it in smaller row groups",
                    )
            kept = [field.name for field in file.schema_arrow if _is_plain(field.type)]
            is_kept = set(kept)
            for name in names:
                if name not in is_kept:
                    note(f"{path.name}: column {name!r:.80} ({file.schema_arrow.field(name).type}) is left out")
            columns = map(file.schema.column, range(file.metadata.num_columns))
            texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        # A text that a column's dictionary has once may stand in every row: it is decoded where a row needs it.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20, read_dictionary=texts) as file:
            for group in range(file.metadata.num_row_groups):  # nested dictionaries cannot be joined across groups
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=kept, use_threads=False):
                    for piece in _pieces(batch):
                        yield from _batch_lines(piece)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and not isinstance(error, pyarrow.ArrowException) and error.errno:
            raise  # the disk's, not the file's
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path.name}: not a whole Parquet file: {reason}", hint="write or fetch it again") from None


def _group_bytes(group: Any) -> int:
    """What a row group takes decoded: its pages, and 8 bytes for each value, of which a page may hold many in a few."""
    columns = map(group.column, range(group.num_columns))
    return int(group.total_byte_size) + 8 * sum(max(0, int(column.num_values)) for column in columns)


def _pieces(batch: Any) -> Iterator[Any]:
    """A batch in pieces that Python can hold; None for a row that is larger than a row may be."""
    size = sum(map(_expanded_bytes, batch.columns))
    if size <= MAX_ROW_BYTES:
        yield batch
    elif batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half))
        yield from _pieces(batch.slice(half))
    else:
        yield None


def _expanded_bytes(array: Any) -> int:
    """Text of an array with each dictionary's entries where they stand, and 8 bytes for each value."""
    import pyarrow
    from pyarrow import compute, types

    own: int = 8 * len(array)
    kind = array.type
    if types.is_dictionary(kind):
        if not _is_text_type(kind.value_type):
            return own + _expanded_bytes(array.dictionary)
        lengths = compute.binary_length(array.dictionary).cast(pyarrow.int64())
        return own + int(compute.sum(lengths.take(array.indices)).as_py() or 0)
    if _is_text_type(kind):
        return own + int(compute.sum(compute.binary_length(array).cast(pyarrow.int64())).as_py() or 0)
    if types.is_struct(kind):
        return own + sum(_expanded_bytes(inner) for inner in array.flatten())
    if types.is_map(kind):
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return own + sum(_expanded_bytes(inner.slice(start, end - start)) for inner in (array.keys, array.items))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return own + _expanded_bytes(array.flatten())
    return own


def _is_text_type(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _batch_lines(batch: Any) -> Iterator[bytes]:
    if batch is None:
        yield unreadable(f"is larger than {MAX_ROW_BYTES} bytes")
        return
    try:
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except (ValueError, KeyError):  # of one row or more: which ones is found out below
        rows = []
    for row in rows:
        yield json_line(row)
    if rows:
        return
    for index in range(batch.num_rows):
        try:
            row = batch.slice(index, 1).to_pylist(maps_as_pydicts="strict")[0]
        except UnicodeDecodeError as error:
            yield unreadable(f"not UTF-8: byte {error.object[error.start]:#04x}")
        except (ValueError, KeyError) as error:
            yield unreadable(f"cannot be read: {str(error)[:200]}")
        else:
            yield json_line(row)


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_map(kind):
        return types.is_string(kind.key_type) and _is_plain(kind.item_type)
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    tests = (
        *(types.is_null, types.is_boolean, types.is_integer, types.is_floating),
        *(types.is_string, types.is_large_string, types.is_string_view),
    )
    return any(test(kind) for test in tests)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def json_line(row: dict[str, Any]) -> bytes:
    """A row as one line, without fields that are null."""
    try:
        return json.dumps(_without_nulls(row), ensure_ascii=False).encode() + b"\n"
    except (RecursionError, UnicodeEncodeError, TypeError) as error:
        return unreadable(f"cannot be written as JSON: {str(error)[:200]}")
