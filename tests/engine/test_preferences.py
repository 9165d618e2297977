"""Pairs, labelled answers and ShareGPT turns: what each row becomes, worked by hand, and what is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.data.examples import Example, LabelledExample, Message, PairExample
from posttrain.engine.data.formats import Format, detect, normalise
from posttrain.engine.data.rows import RowError, parse_row
from posttrain.engine.data.validate import iter_examples, validate_file, validate_lines

DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data"))


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


SYSTEM: Message = {"role": "system", "content": "s"}
PAIR = PairExample([user("q")], [assistant("good")], [assistant("bad")])
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, PAIR),
        ({"prompt": [user("q")], "chosen": assistant("good"), "rejected": [assistant("bad")]}, PAIR),
        ({"instruction": "q", "chosen": "good", "rejected": "bad"}, PAIR),
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            PAIR,
        ),
        ({"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]}, PAIR),
        ({"prompt": "q", "chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]}, PAIR),
        ({"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}, PAIR),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "good", "rejected": "bad"}, PAIR),
        (
            {"prompt": "q", "system": "s", "chosen": "good", "rejected": "bad", "margin": 2},
            PairExample([SYSTEM, user("q")], PAIR.chosen, PAIR.rejected, [], 2.0),
        ),
        (  # the answers part at the second answer
            {
                "chosen": [user("q"), assistant("a"), user("r"), assistant("x")],
                "rejected": [user("q"), assistant("a"), user("r"), assistant("y")],
            },
            PairExample([user("q"), assistant("a"), user("r")], [assistant("x")], [assistant("y")]),
        ),
        (  # they part at a user's turn: what the assistant said before it belongs to both answers
            {
                "chosen": [user("q"), assistant("a"), user("r"), assistant("x")],
                "rejected": [user("q"), assistant("a"), user("s"), assistant("y")],
            },
            PairExample(
                [user("q")],
                [assistant("a"), user("r"), assistant("x")],
                [assistant("a"), user("s"), assistant("y")],
            ),
        ),
        (  # one is the beginning of the other
            {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("a"), user("r"), assistant("y")]},
            PairExample([user("q")], [assistant("a")], [assistant("a"), user("r"), assistant("y")]),
        ),
    ],
)
def test_pairs(row: dict[str, Any], expected: PairExample) -> None:
    assert detect(row) == "preference"
    assert normalise(row, "preference") == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q", "completion": "a", "label": True}, LabelledExample([user("q")], [assistant("a")], True)),
        (
            {"messages": [user("q"), assistant("a"), user("r"), assistant("b")], "label": False},
            LabelledExample([user("q"), assistant("a"), user("r")], [assistant("b")], False),
        ),
        (
            {
                "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
                "system": "s",
                "label": True,
            },
            LabelledExample([SYSTEM, user("q")], [assistant("a")], True),
        ),
        ({"instruction": "q", "output": "a", "label": False}, LabelledExample([user("q")], [assistant("a")], False)),
    ],
)
def test_labelled_answers(row: dict[str, Any], expected: LabelledExample) -> None:
    assert detect(row) == "unpaired"
    assert normalise(row, "unpaired") == expected


def test_sharegpt_turns_become_messages_and_calls() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "q", "weight": None},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": ""},
            {"from": "function_call", "value": '[{"name": "f", "arguments": "{\\"x\\": 1}"}, {"name": "g"}]'},
            {"from": "tool", "value": "7"},
            {"from": "gpt", "value": "seven", "weight": 1},
        ],
        "system": "s",
        "tools": '[{"name": "f", "description": "d", "parameters": {}}]',
    }
    assert detect(row) == "sharegpt"
    called = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]
    assert normalise(row, "sharegpt") == Example(
        [
            SYSTEM,
            user("q"),
            CALL,
            {"role": "tool", "content": ""},
            {"role": "assistant", "content": "", "tool_calls": called},
            {"role": "tool", "content": "7"},
            assistant("seven"),
        ],
        [{"name": "f", "description": "d", "parameters": {}}],
    )


TURN = {"from": "human", "value": "q"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q", "chosen": "a"}, "field rejected: is missing"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "field rejected: is the same as chosen"),
        ({"chosen": "a", "rejected": "b"}, "has no prompt, and chosen and rejected do not begin with the same turns"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "has no prompt"),
        ({"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]}, "has no prompt"),
        ({"prompt": "q", "chosen": [user("x")], "rejected": "b"}, "field chosen: must begin with an assistant's turn"),
        (
            {"prompt": "q", "chosen": "a", "rejected": [assistant("b"), user("x")]},
            "field rejected: must end with an assistant's turn, not the user's",
        ),
        ({"prompt": "q", "conversations": [TURN], "chosen": "a", "rejected": "b"}, "is given beside prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "completion": "c"}, "fields of several formats"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": -1}, "field margin: must be at least 0"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "1"}, "field margin: must be a number, not text"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": True}, "must be a number, not a boolean"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 10**400}, "field margin: must be at least 0"),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: ", "rejected": "\n\nHuman: q\n\nAssistant: a"},
            "field chosen: turn 2 (Assistant) is empty",
        ),
        ({"prompt": "q", "completion": "a", "label": 1}, "field label: must be true or false, not a number"),
        ({"prompt": "q", "label": True}, "field completion: is missing"),
        ({"completion": "q", "label": True}, "field prompt: is missing"),
        ({"messages": [user("q")], "label": True}, "field messages[0]: must be the assistant's turn"),
        ({"messages": [assistant("q")], "label": True}, "field messages: has no turn before the answer"),
        ({"conversations": [TURN]}, "field conversations: has no assistant turn"),
        ({"conversations": [{"from": "bard", "value": "q"}]}, "conversations[0].from: unknown speaker 'bard'"),
        ({"conversations": [{"from": ["gpt"], "value": "q"}]}, "conversations[0].from: unknown speaker"),
        ({"conversations": [{"from": "gpt"}]}, "conversations[0].value: is missing"),
        ({"conversations": [{"from": "gpt", "value": "q", "weight": 0}]}, "weight: must be 1 or absent"),
        ({"conversations": [{"from": "gpt", "value": "q", "loss": 0}]}, "unknown field of a turn"),
        ({"conversations": [{"from": "function_call", "value": "f(1)"}]}, "[0].value: is text that is not JSON"),
        ({"conversations": [{"from": "function_call", "value": "[]"}]}, "[0].value: has no call"),
        ({"conversations": [{"from": "function_call", "value": "[1]"}]}, "[0].value[0]: must be an object"),
        ({"conversations": [{"from": "system", "value": "x"}], "system": "s"}, "begins with a system turn too"),
        ({"conversations": [TURN, {"from": "gpt", "value": "a"}], "tools": "[{"}, "field tools: is text that is not"),
        ({"messages": [user("q"), assistant("a")], "tools": '[{"name": NaN}]'}, "field tools: NaN is not JSON"),
        (
            {"messages": [user("q"), {**CALL, "tool_calls": [{"name": "f", "arguments": "[" * 99_999}]}]},
            "arguments: nested too deeply",
        ),
    ],
)
def test_a_bad_row_is_named(row: Any, expected: str) -> None:
    report = validate_lines([json.dumps(row).encode()])
    assert report.num_problems == 1
    assert expected in str(report.problems[0])
    assert str(report.problems[0]).startswith("row 1")


def test_json_nested_beyond_what_a_template_can_render_is_named() -> None:
    """Less deep than Python's parser takes, deeper than what walks it recursively later should get."""
    deep = b'{"messages": [], "tools": [{"name": "f", "parameters": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}]}"
    row = parse_row(deep)
    row["messages"] = [user("q"), assistant("a")]
    with pytest.raises(RowError, match="nested too deeply: at most 64 levels"):
        normalise(row, "messages")


def test_a_row_of_another_format_says_what_it_lacks() -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "completion": "a"}]
    report = validate_lines([json.dumps(row).encode() + b"\n" for row in rows])
    assert str(report.problems[0]).startswith(
        "row 2: is prompt_completion, but the rows before it are preference; chosen is missing"
    )


def test_a_label_that_is_text_is_a_column_like_any_other() -> None:
    report = validate_lines([b'{"instruction": "q", "output": "a", "label": "sports"}'])
    assert (report.format, report.notes) == ("alpaca", ["column 'label' (1 rows) is not read by format alpaca"])


@pytest.mark.parametrize("label", ['"1"', '"yes"', '"True"', "1"])
def test_a_label_beside_prompt_and_completion_is_a_boolean_or_an_error(label: str) -> None:
    report = validate_lines([b'{"prompt": "q", "completion": "a", "label": ' + label.encode() + b"}"])
    assert "row 1, field label: must be true or false, not " in str(report.problems[0])


EMPTY_ANSWERS = {"turn 2 (Assistant) is empty": 3, "turn 4 (Assistant) is empty": 1}


@pytest.mark.parametrize(
    ("file", "row_format", "num_rows", "reasons"),
    [
        ("llamafactory_demo/alpaca_en_demo.jsonl", "alpaca", 999, {}),
        ("llamafactory_demo/dpo_en_demo.jsonl", "preference", 300, {}),
        ("llamafactory_demo/glaive_toolcall_en_demo.jsonl", "sharegpt", 300, {}),
        ("llamafactory_demo/kto_en_demo.jsonl", "unpaired", 300, {}),
        ("seal_tools/finetune_dev_400.jsonl", "sharegpt", 400, {}),
        ("hh_rlhf/harmless_train_1800.jsonl", "preference", 1800, EMPTY_ANSWERS),
    ],
)
def test_public_datasets_are_read_row_by_row(
    file: str, row_format: Format, num_rows: int, reasons: dict[str, int]
) -> None:
    path = DATA / file
    if not path.is_file():
        pytest.skip(f"no {path}: set POSTTRAIN_DATA to the folder of public data")
    report = validate_file(path, max_problems=10_000)
    assert (report.format, report.num_rows) == (row_format, num_rows)
    assert Counter(problem.message for problem in report.problems) == reasons
    if not reasons:
        assert sum(1 for _ in iter_examples(path, row_format)) == num_rows
