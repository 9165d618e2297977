"""Rows on disk: canonical, strict, and total under damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.evals.errors import RowsError
from posttrain.evals.rows import EvalRun, messages_digest, read_partial, read_rows, write_rows

from .build import change_row, make_run

RUN = make_run({("suite-a", "m"): [1, 0, 1], ("suite-b", "m"): [0, 0]})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    digest = write_rows(path, RUN)
    again = read_rows(path)
    assert again.header == RUN.header
    assert sorted(again.rows, key=lambda row: row.key) == sorted(RUN.rows, key=lambda row: row.key)
    assert digest == again.digest == RUN.digest


def test_the_digest_does_not_depend_on_the_order_of_rows_but_on_their_content() -> None:
    assert RUN.model_copy(update={"rows": RUN.rows[::-1]}).digest == RUN.digest
    assert change_row(RUN, 1, score=1.0).digest != RUN.digest
    assert RUN.model_copy(update={"rows": RUN.rows[:-1]}).digest != RUN.digest


def test_a_duplicate_is_an_error_on_both_ways(tmp_path: Path) -> None:
    double = RUN.model_copy(update={"rows": (*RUN.rows, RUN.rows[0])})
    with pytest.raises(RowsError, match=r"lines 2 and 7 both hold suite-a/m-00000"):
        write_rows(tmp_path / "rows.jsonl", double)
    (tmp_path / "rows.jsonl").write_bytes(double.canonical_bytes())
    with pytest.raises(RowsError, match="both hold suite-a/m-00000"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("score", float("nan"), "score"),
        ("score", "1", "score"),
        ("score", True, "score"),
        ("score", 0.5, "score"),
        ("score", 2, "score"),
        ("score", None, "score"),
        ("num_tokens", -1, "num_tokens"),
        ("num_tokens", 1.5, "num_tokens"),
        ("shard", "train", "shard"),
        ("stop_reason", "tired", "stop_reason"),
        ("messages_digest", "abc", "messages_digest"),
        ("example_id", "", "example_id"),
        ("extra", 1, "extra"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, field: str, value: Any, message: str) -> None:
    lines = RUN.canonical_bytes().decode().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), field: value})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RowsError, match=rf"line 3: {message}"):
        read_rows(tmp_path / "rows.jsonl")


def test_torn_files_are_errors_for_a_reader_and_a_start_for_a_runner(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    data = RUN.canonical_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(RowsError, match="last line is not complete"):
        read_rows(path)
    header, rows, length = read_partial(path)
    assert header == RUN.header
    assert len(rows) == len(RUN.rows) - 1
    assert data[:length].endswith(b"\n")
    path.write_bytes(data[:30])
    assert read_partial(path) == (None, [], 0)
    assert read_partial(tmp_path / "none.jsonl") == (None, [], 0)
    path.write_bytes(data.replace(b'"score":1.0', b'"score":7.0'))
    with pytest.raises(RowsError, match="score"):
        read_partial(path)


def test_an_empty_file_and_a_missing_header_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"")
    with pytest.raises(RowsError):
        read_rows(path)
    path.write_bytes(b"\n".join(RUN.canonical_bytes().split(b"\n")[1:]))
    with pytest.raises(RowsError, match="line 1"):
        read_rows(path)


def test_what_is_asked_has_a_digest_however_it_is_rendered() -> None:
    asked = [{"role": "user", "content": "Hello"}]
    assert messages_digest(asked) == messages_digest([{"content": "Hello", "role": "user"}], [])
    assert messages_digest(asked) != messages_digest(asked, [{"name": "f"}])
    assert messages_digest(asked) != messages_digest([{"role": "user", "content": "hello"}])


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_an_error_or_changes_nothing_that_counts(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bytes are there, reading gives a run or a RowsError, never anything else."""
    raw = bytearray(RUN.canonical_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    path.write_bytes(bytes(raw))
    try:
        run = read_rows(path)
    except RowsError:
        return
    assert isinstance(run, EvalRun)
    assert (run.digest == RUN.digest) == (run == read_rows(path) and run.canonical_bytes() == RUN.canonical_bytes())
