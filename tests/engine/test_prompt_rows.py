"""Rows of format prompts: what is read, what is named, and how they are encoded and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import fit
from posttrain.engine.data.examples import PromptExample
from posttrain.engine.data.formats import detect, normalise
from posttrain.engine.data.records import record_of, row_of
from posttrain.engine.data.sources import prepared
from posttrain.engine.data.statistics import statistics_of
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.data.validate import RowChecker, lines_of, validate_lines
from posttrain.evals.suites.generate.prompts import build_prompts
from tests.engine.tiny import tiny_tokenizer

ASKED = [{"role": "user", "content": "2 + 2?"}]
GOOD = {"prompt": "2 + 2?", "checker": "final_answer", "target": {"answer": "4"}}
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {**GOOD, "prompt": ASKED},
        {"messages": ASKED, "checker": "final_answer", "target": "4"},
        {"instruction": "2 + 2?", "checker": "final_answer", "target": 4},
        {"conversations": [{"from": "human", "value": "2 + 2?"}], "checker": "final_answer", "target": {"answer": "4"}},
        {**GOOD, "reference": "Answer: 4", "meta": {"id": 1}, "completion": None},
    ],
)
def test_what_is_read(row: dict[str, Any]) -> None:
    assert detect(row) == "prompts"
    assert normalise(row, "prompts") == PromptExample(ASKED, "final_answer", {"answer": "4"})


def test_a_system_text_and_tools_are_part_of_it() -> None:
    row = {**GOOD, "system": "Be brief.", "tools": [TOOL]}
    example = normalise(row, "prompts")
    assert isinstance(example, PromptExample)
    assert [message["role"] for message in example.prompt] == ["system", "user"]
    assert example.tools == [TOOL]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"checker": "magic"}, "field checker: no checker 'magic' (known: abstains, constraints, exact, final_answer"),
        ({"checker": 3}, "field checker: must be text, not a number"),
        ({"target": None}, "field target.answer: is missing: the checker final_answer needs it"),
        ({"target": {"answers": "4"}}, "field target.answer: is missing"),
        ({"target": ["4"]}, "field target: must be an object, text or a number, not a list"),
        ({"target": True}, "field target: must be an object, text or a number, not a boolean"),
        ({"reference": "Answer: 5"}, "field reference: is judged wrong by its checker final_answer: another number"),
        ({"shard": "gate"}, "field shard: is gate: a model that is trained on rows of a gate cannot be judged by it"),
        ({"prompt": None}, "field prompt: is missing"),
        (
            {"prompt": [*ASKED, {"role": "assistant", "content": "4"}]},
            "must end with the user's turn, not the assistant's",
        ),
        ({"messages": ASKED}, "field prompt: is given beside messages"),
        ({"checker": "regex", "target": {"pattern": "("}}, "field target: the checker regex cannot use it"),
        ({"checker": "constraints", "target": {"constraints": [{"kind": "odd"}]}, "reference": "x"}, "cannot use it"),
        ({"checker": "json_schema"}, "field target.schema: is missing: the checker json_schema needs it"),
        (
            {"checker": "json_schema", "target": {"schema": {"type": "x"}}},
            "cannot use it: UncheckableError: is no JSON",
        ),
        (
            {"completion": "4", "checker": None},
            "is prompt_completion, but the rows before it are prompts; checker is missing",
        ),
    ],
)
def test_a_bad_row_is_named(change: dict[str, Any], problem: str) -> None:
    report = validate_lines([json.dumps(row).encode() + b"\n" for row in (GOOD, {**GOOD, **change})])
    (found,) = report.problems
    assert found.row == 2
    assert problem in str(found)


def test_a_suites_own_rows_are_read_but_for_the_gates() -> None:
    data = Path(__file__).parents[2] / "evals" / "suites" / "data"
    lines = (data / "reasoning.jsonl").read_bytes().splitlines(keepends=True)
    others = [line for line in lines if json.loads(line)["shard"] != "gate"]
    assert 0 < len(others) < len(lines)
    assert validate_lines(others).is_valid
    assert validate_lines(lines).num_problems == len(lines) - len(others)


def test_other_formats_keep_a_column_of_that_name() -> None:
    assert detect({"prompt": "q", "completion": "a", "checker": "x"}) == "prompt_completion"
    assert detect({"prompt": "q", "chosen": "a", "rejected": "b", "checker": "x"}) == "preference"
    assert detect({"prompt": "q", "completion": "a", "label": True, "checker": "x"}) == "unpaired"


def test_fields_that_a_table_adds_as_null_are_none(tmp_path: Path) -> None:
    """Parquet gives every row's object the fields of all of them."""
    rows: list[dict[str, Any]] = [
        GOOD,
        {"prompt": "Who?", "checker": "mentions", "target": {"all": ["x"], "max_words": 3}},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with prepared(tmp_path / "rows.parquet") as made, open(made.path, "rb") as file:
        checker = RowChecker()
        targets = [example.target for _, example in checker.rows(lines_of(file)) if isinstance(example, PromptExample)]
        assert checker.report().is_valid, checker.report().problems
    assert targets == [row["target"] for row in rows]


def test_a_prompt_is_encoded_as_it_is_generated_from_and_never_cut() -> None:
    tokenizer = tiny_tokenizer(is_chat=True)
    encoder = Encoder(tokenizer, ChatTemplate(tokenizer.chat_template, {}), (tokenizer.eos_token_id,))
    example = normalise({**GOOD, "system": "<|im_end|>"}, "prompts")
    assert isinstance(example, PromptExample)
    row = encoder.question(example, "d@1", 7)
    assert list(row.ids) == encoder.prompt(example.prompt)
    assert tokenizer.decode(list(row.ids)).endswith("<|im_start|>assistant\n")
    assert list(row.ids).count(tokenizer.eos_token_id) == 2  # of the turns, none of the text that spells it
    assert (row.name, row.num_targets, row.longest) == ("d@1 row 7", 0, len(row.ids) + 1)
    assert json.loads(row.target) == {"answer": "4"}
    assert row_of(record_of(row), "d@1") == row
    for overlong in ("refuse", "truncate", "skip"):
        assert fit(row, row.longest, overlong) is row  # type: ignore[arg-type]
        assert fit(row, row.longest - 1, overlong) is None  # type: ignore[arg-type]
    found = statistics_of([row], 1000)
    assert "prompts to be answered" in str(found)


def test_the_generators_prompts_are_new_and_can_be_answered() -> None:
    rows = build_prompts(0, {"reasoning": 40, "tool_use.call": 10, "instruction_following": 10})
    assert rows == build_prompts(0, {"reasoning": 40, "tool_use.call": 10, "instruction_following": 10})
    report = validate_lines([json.dumps(row).encode() + b"\n" for row in rows])  # judges each reference
    assert (report.format, report.num_rows, report.is_valid) == ("prompts", 60, True)
    data = Path(__file__).parents[2] / "evals" / "suites" / "data"
    known = {
        json.dumps(json.loads(line)["messages"][:1])
        for path in data.glob("*.jsonl")
        for line in path.read_text("utf-8").splitlines()
    }
    assert known
    assert not [row for row in rows if json.dumps(row["prompt"][:1]) in known]
    assert {row["meta"]["family"] for row in rows} == {"reasoning", "tool_use.call", "instruction_following"}
