"""Validation names row and field, accepts what is right, and never raises anything else."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.data.formats import FORMATS_OF_KIND, read_conversation
from posttrain.engine.data.rows import MAX_ROW_BYTES, RowError, parse_row
from posttrain.engine.data.validate import DatasetReport, iter_examples, validate_file, validate_lines
from posttrain.engine.errors import DataError

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}}


def lines(*rows: Any) -> list[bytes]:
    return [row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows]


def only_problem(report: DatasetReport) -> str:
    assert report.num_problems == 1
    assert not report.is_valid
    return str(report.problems[0])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b"{not json\n", "row 2: not JSON"),
        (b"\xff\xfe\n", "row 2: not UTF-8: byte 0xff at position 0"),
        (b"[1]\n", "row 2: not a JSON object but a list"),
        (b'{"a": NaN}\n', "row 2: NaN is not JSON"),
        (b'{"a": 1, "a": 2}\n', "row 2, field a: given twice"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}\n', "lone surrogate"),
        (b"[" * 100_000 + b"\n", "row 2: "),
        ({"foo": 1}, "row 2: has fields of no known format"),
        ({**GOOD, "prompt": "x"}, "row 2: has fields of several formats"),
        ({"prompt": "q", "completion": "a"}, "row 2: is prompt_completion, but the rows before it are messages"),
        ({"messages": "hello"}, "field messages: must be a list of messages, not text"),
        ({"messages": []}, "field messages: is empty"),
        ({"messages": ["x"]}, "field messages[0]: must be an object with role and content, not text"),
        ({"messages": [{"role": "user", "content": "q"}]}, "has no assistant turn"),
        ({"messages": [{"role": "robot", "content": "q"}]}, "field messages[0].role: unknown role 'robot'"),
        ({"messages": [{"role": "user", "content": 3}]}, "field messages[0].content: must be text, not a number"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]},
            "[1].content: is empty",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant"}]},
            "field messages[1].content: is missing",
        ),
        ({"messages": [{"role": "user", "content": "q", "loss": 1}]}, "field messages[0].loss: unknown field"),
        ({"messages": [{"role": "user", "content": "q", "tool_calls": [1]}]}, "only an assistant turn calls tools"),
        ({**GOOD, "tools": "f"}, "field tools: is text that is not JSON"),
        ({**GOOD, "tools": {}}, "field tools: must be a list of functions, not an object"),
        ({**GOOD, "tools": [{"description": "d"}]}, "field tools[0].name: is missing"),
        ({**GOOD, "tools": [TOOL, TOOL]}, "field tools[1].name: a second tool named 'f'"),
        (
            {**GOOD, "tools": [{**TOOL, "parameters": []}]},
            "tools[0].parameters: must be a JSON schema object, not a list",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "field messages[0].tool_calls[0].arguments: is text that is not JSON",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"arguments": {}}]}]},
            "field messages[0].tool_calls[0].name: is missing",
        ),
    ],
)
def test_a_bad_row_is_named(row: Any, expected: str) -> None:
    assert expected in only_problem(validate_lines(lines(GOOD, row)))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "i"}, "row 1, field output: is missing"),
        ({"instruction": "i", "output": ""}, "row 1, field output: is empty"),
        ({"instruction": "i", "output": "o", "input": 3}, "row 1, field input: must be text, not a number"),
        ({"prompt": "q"}, "row 1, field completion: is missing"),
        ({"prompt": "q", "completion": None}, "row 1, field completion: is missing"),
        ({"prompt": "q", "completion": [{"role": "user", "content": "x"}]}, "field completion: has no assistant turn"),
    ],
)
def test_a_row_without_an_answer_is_named(row: Any, expected: str) -> None:
    assert expected in only_problem(validate_lines(lines(row)))


def test_an_empty_file_is_refused() -> None:
    report = validate_lines([b"\n", b"  \n"])
    assert only_problem(report) == "file: is empty: a dataset needs at least one row"
    assert (report.num_rows, report.is_valid) == (0, False)


def test_only_the_first_problems_are_kept_but_all_are_counted() -> None:
    report = validate_lines(lines(*[{"messages": []}] * 50, GOOD), max_problems=3)
    assert (report.num_rows, report.num_problems, len(report.problems)) == (51, 50, 3)
    assert [str(problem) for problem in report.problems] == [
        f"row {row}, field messages: is empty" for row in (1, 2, 3)
    ]
    assert not report.is_valid


def test_blank_lines_count_in_row_numbers_and_a_last_line_needs_no_newline() -> None:
    report = validate_lines([*lines(GOOD), b"\n", b'{"messages": []}'])
    assert report.problems[0].row == 3


def test_an_oversized_row_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"messages": "' + b"x" * (2 * MAX_ROW_BYTES + 99) + b'"}\n' + lines(GOOD)[0])
    report = validate_file(path)
    assert (report.num_problems, report.problems[0].row, report.num_rows) == (1, 1, 2)


def test_extra_columns_are_noted_and_meta_is_not() -> None:
    report = validate_lines(lines({**GOOD, "source": "x", "meta": {"id": 1}}, {**GOOD, "source": "y"}))
    assert report.is_valid
    assert report.notes == ["column 'source' (2 rows) is not read by format messages"]


def test_all_formats_become_messages() -> None:
    alpaca = read_conversation({"instruction": "i", "input": "c", "output": "o", "system": "s"}, "alpaca")
    assert [m["role"] for m in alpaca.messages] == ["system", "user", "assistant"]
    assert alpaca.messages[1]["content"] == "i\n\nc"
    answer = read_conversation({"prompt": "q", "completion": "a"}, "prompt_completion")
    assert answer.messages == GOOD["messages"]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "7", "tool_call_id": "1"},
            {"role": "assistant", "content": "seven"},
        ],
        "tools": [{"type": "function", "function": TOOL}],
    }
    example = read_conversation(row, "messages")
    assert example.tools == [TOOL]
    assert example.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "f", "arguments": {"x": 1}}],
    }


def test_reading_a_changed_file_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"".join(lines(GOOD, {"messages": []})))
    with pytest.raises(DataError, match=r"d\.jsonl: row 2, field messages"):
        list(iter_examples(path, "messages"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["messages", "tools", "prompt", "completion", "instruction", "input", "output", "meta"])
MESSAGE = st.fixed_dictionaries(
    {},
    optional={"role": st.sampled_from(["user", "assistant", "tool", "x"]) | JSON, "content": JSON, "tool_calls": JSON},
)


@given(st.dictionaries(FIELDS, JSON | st.lists(MESSAGE, max_size=3), max_size=4))
def test_any_json_is_accepted_or_named(row: dict[str, Any]) -> None:
    report = validate_lines(lines(row))
    assert report.is_valid == (report.problems == [])
    for problem in report.problems:
        assert problem.row == 1
        assert problem.message


@given(st.binary(max_size=80).filter(lambda data: data.strip() and b"\n" not in data))
def test_any_bytes_are_accepted_or_named(data: bytes) -> None:
    assert validate_lines([data]).num_rows == 1


@given(st.binary(max_size=60))
def test_parsing_raises_row_errors_only(data: bytes) -> None:
    with contextlib.suppress(RowError):
        assert isinstance(parse_row(data), dict)


def test_validation_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, posttrain.engine.data.validate, posttrain.engine.data.template, posttrain.engine.data.mixing\n"
        "import posttrain.engine.spec, posttrain.engine.task, posttrain.engine.events, posttrain.engine.attempt\n"
        "bad = {'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_that_trains_says_which_formats_it_reads() -> None:
    from posttrain.engine import spec

    assert set(FORMATS_OF_KIND) == set(spec.KINDS) - {"evaluate"}


def test_a_byte_order_mark_and_null_fields_are_no_mistake() -> None:
    """OpenAI's own library writes the fields that a message does not have as null."""
    message = {"role": "assistant", "content": "a", "refusal": None, "function_call": None}
    line = json.dumps({"messages": [{"role": "user", "content": "q"}, message]}).encode()
    assert validate_lines([b"\xef\xbb\xbf" + line + b"\n"]).problems == []
    refused = json.dumps({"messages": [{**message, "refusal": "no"}]}).encode()
    assert "messages[0].refusal: unknown field" in str(validate_lines([refused]).problems[0])


def _called(calls: list[str], answers: list[str | None]) -> dict[str, Any]:
    called = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in calls]
    told: list[dict[str, Any]] = [{"role": "tool", "content": f"of {name}", "tool_call_id": name} for name in answers]
    turn = {"role": "assistant", "content": None, "tool_calls": called}
    return {"messages": [{"role": "user", "content": "q"}, turn, *told]}


def test_answers_of_tools_are_given_to_their_calls() -> None:
    example = read_conversation(_called(["f", "g"], ["g", "f"]), "messages")
    assert [message["content"] for message in example.messages[2:]] == ["of f", "of g"]


@pytest.mark.parametrize(
    ("calls", "answers", "problem"),
    [
        (["f", "g"], ["f", "h"], "messages[3].tool_call_id: 'h' is the id of no call"),
        (["f", "g"], ["f", "f"], "messages[3].tool_call_id: a second answer"),
        (["f", "f"], ["f"], "messages[1].tool_calls[1].id: a second call"),
        (["f", "g"], ["f", None], "messages[3].tool_call_id: is missing"),
        (["f", "g"], ["g"], "messages[1].tool_calls[0].id: has no answer"),
    ],
)
def test_an_answer_that_fits_no_call_is_a_bad_row(calls: list[str], answers: list[str | None], problem: str) -> None:
    report = validate_lines([json.dumps(_called(calls, answers)).encode()])
    assert f"row 1, field {problem}" in str(report.problems[0])
