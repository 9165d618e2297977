"""Rows of every format, right and spoilt in one place: the same in every kind of file, and named by number."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from posttrain.engine.data.formats import FORMATS, Format, detect, normalise
from posttrain.engine.data.partition import content_digest, is_held_out
from posttrain.engine.data.rows import RowError
from posttrain.engine.data.sources import prepared
from posttrain.engine.data.validate import RowChecker, lines_of, validate_lines

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: bool(text.strip()) and not text.startswith(("[", "{", "\n\nHuman:"))
)
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers(-9, 9) | st.booleans(), min_size=1, max_size=2)
CALL = st.builds(lambda name, arguments: {"name": name, "arguments": arguments}, TEXT, ARGUMENTS)
TOOLS = st.lists(
    st.builds(lambda name: {"name": name, "description": "d", "parameters": {"type": "object"}}, TEXT),
    min_size=1,
    max_size=2,
    unique_by=lambda tool: str(tool["name"]),
)


def message(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return TEXT.map(lambda text: {"role": role, "content": text})


def turn(speaker: str) -> st.SearchStrategy[dict[str, Any]]:
    return TEXT.map(lambda text: {"from": speaker, "value": text})


TALK = st.builds(lambda *turns: list(turns), message("user"), message("assistant"))
LONG_TALK = st.builds(lambda first, then: first + then, TALK, TALK)
SHAREGPT = st.builds(
    lambda calls, *turns: [turns[0], {"from": "function_call", "value": json.dumps(calls)}, *turns[1:]],
    CALL | st.lists(CALL, min_size=1, max_size=2), turn("human"), turn("observation"), turn("gpt"),
)  # fmt: skip


def fields(strategies: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(strategies, optional=optional or {})


GOOD: dict[Format, st.SearchStrategy[dict[str, Any]]] = {
    "messages": fields({"messages": TALK | LONG_TALK}, {"tools": TOOLS}),
    "prompt_completion": fields({"prompt": TEXT, "completion": TEXT}),
    "alpaca": fields({"instruction": TEXT, "output": TEXT}, {"input": TEXT, "system": TEXT}),
    "sharegpt": fields({"conversations": SHAREGPT}, {"system": TEXT, "tools": TOOLS.map(json.dumps)}),
    "preference": fields({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}, {"margin": st.floats(0, 9)}).filter(
        lambda row: row["chosen"] != row["rejected"]
    )
    | st.builds(
        lambda start, one, other: {"chosen": [*start, one], "rejected": [*start, other]},
        st.lists(message("user"), min_size=1, max_size=1), message("assistant"), message("assistant"),
    ).filter(lambda row: row["chosen"] != row["rejected"]),
    "unpaired": fields({"prompt": TEXT, "completion": TEXT, "label": st.booleans()}),
    "prompts": st.builds(
        lambda prompt, answer: {
            "prompt": prompt, "checker": "exact", "target": {"answer": answer}, "reference": answer,
        },
        TEXT, TEXT,
    ) | fields({"messages": st.lists(message("user"), min_size=1, max_size=1), "checker": st.just("mentions")}).map(
        lambda row: row | {"target": {"all": ["x"]}}
    ),
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_every_format_has_rows_here() -> None:
    assert set(GOOD) == set(FORMATS)


def line(row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [place for key, item in value.items() for place in places(item, (*path, key))]
    if isinstance(value, list):
        return found + [place for index, item in enumerate(value) for place in places(item, (*path, index))]
    return found


def spoil(row: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(row)
    inner: Any = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("row_format", FORMATS)
@QUICK
@given(data=st.data())
def test_a_row_spoilt_in_one_place_is_read_or_named_alone(row_format: Format, data: st.DataObject) -> None:
    rows = data.draw(st.lists(GOOD[row_format], min_size=2, max_size=4))
    index = data.draw(st.integers(1, len(rows) - 1))  # the first one decides the format
    place = data.draw(st.sampled_from(places(rows[index])))
    rows[index] = spoil(rows[index], place, data.draw(JSON))
    report = validate_lines([line(row) for row in rows])
    assert report.format == row_format
    assert {problem.row for problem in report.problems} <= {index + 1}, report.problems
    for problem in report.problems:
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1000
    if report.is_valid:  # what is accepted can be told apart and split
        example = normalise(rows[index], row_format)
        assert len(content_digest(example)) == 16
        assert is_held_out(example, 1.0, 0)


def test_names_of_fields_are_printable_and_bounded() -> None:
    for name, shown in {"\n": "\\n", "\x1b[2J": "\\x1b[2J", "\ud800": "\\ud800", "x" * 10**6: "x" * 180}.items():
        for rows in (
            [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
             {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", name: 1}]}],
            [{"prompt": "q", "completion": "a"},
             {"prompt": [{"from": "human", "value": "q", name: 1}], "completion": "a"}],
        ):  # fmt: skip
            (problem,) = validate_lines([line(row) for row in rows]).problems
            assert problem.row == 2
            assert shown in problem.field
            assert str(problem).isprintable()
            assert len(str(problem)) < 1000
    twice = validate_lines([b'{"prompt": "q", "completion": "a"}\n', b'{"a\\u001b": 1, "a\\u001b": 2}\n'])
    assert [problem.field for problem in twice.problems] == ["a\\x1b"]


@given(st.dictionaries(st.sampled_from([*"abc", "prompt", "completion", "chosen", "rejected", "label"]), JSON))
@QUICK
def test_any_object_has_a_format_or_none(row: dict[str, Any]) -> None:
    for read in (lambda: normalise(row, detect(row)), *(partial(normalise, row, row_format) for row_format in FORMATS)):
        reason = ""
        try:
            seen = content_digest(read()).hex()
        except RowError as error:
            seen, reason = error.field, str(error)
        assert reason.isprintable()
        assert seen.isprintable()
        assert reason or len(seen) == 32


# -- the same rows in other files -------------------------------------------------------------------------------------


def as_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path / "rows.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path / "rows.csv"
    columns = sorted({key for row in rows for key in row})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            values = [row.get(name, "") for name in columns]
            writer.writerow([value if isinstance(value, str) else json.dumps(value) for value in values])
    return path


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path / "rows.parquet"
    names = {key: None for row in rows for key in row}  # pyarrow takes the columns from the first row alone
    parquet.write_table(pyarrow.Table.from_pylist([names | row for row in rows]), path)
    return path


def digests(path: Path) -> list[bytes]:
    with prepared(path) as made, open(made.path, "rb") as file:
        checker = RowChecker()
        found = [content_digest(example) for _, example in checker.rows(lines_of(file))]
        assert checker.report().is_valid, checker.report().problems
        return found


@pytest.mark.parametrize("write", [as_json, as_csv, as_parquet])
@pytest.mark.parametrize("row_format", FORMATS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_row_means_the_same_in_every_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory,
    row_format: Format,
    write: Callable[[Path, list[dict[str, Any]]], Path],
    data: st.DataObject,
) -> None:
    rows = data.draw(st.lists(GOOD[row_format], min_size=1, max_size=4).filter(lambda rows: same_kind(rows)))
    expected = [content_digest(normalise(row, row_format)) for row in rows]
    assert digests(write(tmp_path_factory.getbasetemp(), rows)) == expected


def same_kind(rows: list[dict[str, Any]]) -> bool:
    """Whether each column has one type, which Parquet wants."""
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for key, value in row.items():
            kinds.setdefault(key, set()).add(type(value))
    return all(len(found) == 1 for found in kinds.values())
