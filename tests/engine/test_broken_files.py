"""Files that are wrong in one way each (tests/engine/broken/): what people are told, by row and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.engine.data.sources import prepared
from posttrain.engine.data.validate import RowChecker, lines_of
from posttrain.engine.errors import DataError

BROKEN = Path(__file__).parent / "broken"

# Row 0: the file as a whole. A row of CSV is a record under the header.
EXPECTED: dict[str, tuple[int, str]] = {
    "empty.jsonl": (0, "is empty"),
    "blank_lines.jsonl": (0, "is empty"),
    "blank_line_between.jsonl": (4, "field completion: is missing"),
    "not_json.jsonl": (3, "not JSON: Expecting value (column 31)"),
    "truncated.jsonl": (4, "not JSON: Unterminated string"),
    "latin1.jsonl": (2, "not UTF-8: byte 0xe9 at position 15"),
    "list.jsonl": (0, "is a JSON list, not one object a line"),
    "nul_bytes.jsonl": (2, "not JSON"),
    "windows_line_ends.jsonl": (2, "field prompt: is empty"),
    "nan.jsonl": (2, "NaN is not JSON"),
    "field_twice.jsonl": (1, "field prompt: given twice"),
    "lone_surrogate.jsonl": (2, "field prompt: holds a lone surrogate"),
    "deep.jsonl": (2, "nested too deeply"),
    "huge_number.jsonl": (2, "a number has too many digits"),
    "two_formats.jsonl": (2, "is alpaca, but the rows before it are prompt_completion"),
    "mixed_fields.jsonl": (1, "fields of several formats"),
    "unpaired_label_text.jsonl": (2, "field label: must be true or false, not text"),
    "same_answers.jsonl": (2, "field rejected: is the same as chosen"),
    "no_shared_beginning.jsonl": (1, "do not begin with the same turns"),
    "call_is_no_json.jsonl": (1, "field conversations[1].value: is text that is not JSON"),
    "tools_text_cut.jsonl": (1, "field tools: is text that is not JSON"),
    "unknown_speaker.jsonl": (1, "unknown speaker 'narrator'"),
    "terminal_escape.jsonl": (1, r"unknown role '\x1b[31mred'"),
    "empty.json": (0, "is empty"),
    "empty_list.json": (0, "is empty"),
    "number.json": (0, "is not a list of rows"),
    "null_bytes.json": (0, "is not a list of rows"),
    "one_object.json": (0, "is one object over several lines"),
    "truncated.json": (2, "the file ends inside it"),
    "truncated_between.json": (2, "the file ends inside the list"),
    "trailing_comma.json": (1, "a ',' follows, and no further row"),
    "no_comma.json": (1, "there is no ',' or ']' after it"),
    "text_behind.json": (1, "text follows after the end"),
    "single_quotes.json": (2, "(line 2): not JSON: Expecting property name"),
    "bad_element.json": (3, "not a JSON object but a number"),
    "latin1.json": (2, "not UTF-8: byte 0xe9"),
    "nan.json": (2, "NaN is not JSON"),
    "deep.json": (1, "nested too deeply"),
    "utf16.json": (0, "is UTF-16"),
    "gzip.json": (0, "is compressed by gzip"),
    "empty.csv": (0, "is empty"),
    "header_only.csv": (0, "is empty"),
    "ragged.csv": (2, "has 3 cells, and the header has 2"),
    "short_row.csv": (2, "has 1 cells, and the header has 2"),
    "column_twice.csv": (0, "two columns 'prompt'"),
    "no_known_column.csv": (1, "fields of no known format"),
    "no_header.csv": (1, "fields of no known format"),
    "open_quote.csv": (2, "(up to line 4): unexpected end of data"),
    "quote_inside.csv": (2, "',' expected after"),
    "empty_cell.csv": (2, "field completion: is missing"),
    "latin1.csv": (2, "column prompt: not UTF-8"),
    "utf16.csv": (0, "is UTF-16"),
    "python_list.csv": (1, "as Python prints it"),
    "json_cut.csv": (2, "column messages: is text that is not JSON"),
    "excel.csv": (0, "is a ZIP archive or an Excel sheet"),
    "pickle.csv": (0, "is a Python pickle"),
    "wrong_name.csv": (0, "is a Parquet file"),
    "ragged.tsv": (2, "has 1 cells, and the header has 2"),
    "empty.parquet": (0, "not a whole Parquet file"),
    "truncated.parquet": (0, "not a whole Parquet file"),
    "damaged.parquet": (0, "not a whole Parquet file"),
    "damaged_page.parquet": (0, "not a whole Parquet file"),
    "no_parquet.parquet": (0, "is no Parquet file"),
    "no_rows.parquet": (0, "is empty"),
    "null_answer.parquet": (3, "field completion: is missing"),
    "numbers.parquet": (1, "field completion: must be text or a list of messages, not a number"),
    "bytes_column.parquet": (1, "field completion: is missing"),
    "not_utf8.parquet": (2, "not UTF-8: byte 0xff"),
    "nameless": (0, "the name does not tell what is in it"),
}


def told(path: Path) -> list[str]:
    """What is said of a file: an error of its own, or a problem for each bad row."""
    try:
        with prepared(path) as made, open(made.path, "rb") as file:
            checker = RowChecker(made.files)
            for _ in checker.rows(lines_of(file)):
                pass
            return [str(problem) for problem in checker.report().problems]
    except DataError as error:
        return [str(error)]


def test_every_broken_file_has_its_line() -> None:
    assert {path.name for path in BROKEN.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_file_is_told_by_row_and_reason(name: str) -> None:
    row, reason = EXPECTED[name]
    first = told(BROKEN / name)[0]
    assert reason in first
    assert ("row " in first.replace("rows", "")) == bool(row), first
    if row:
        assert f"row {row}:" in first or f"row {row}," in first or f"row {row} (" in first, first
    assert "Traceback" not in first
