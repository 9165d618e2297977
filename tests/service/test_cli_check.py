"""`posttrain datasets check`: files of any form against suites, without a server."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.evals.suites.load import load_suite
from posttrain.service.cli import run
from posttrain.service.cli.exits import Exit

Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(["datasets", "check", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def question() -> tuple[str, str]:
    """One of the gate's questions, with its id."""
    example = next(example for task in load_suite("reasoning").tasks for example in task.examples)
    return example.id, example.messages[-1]["content"]


def test_questions_in_a_table_are_found_and_named_by_their_row(check: Check, tmp_path: Path) -> None:
    id, asked = question()
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["instruction", "output"], ["Say hello.", "Hello."], [asked.upper(), "7"]])
    code, out, err = check(tmp_path / "rows.csv", "--suite", "reasoning", "--out", tmp_path / "matches.jsonl")
    assert code == Exit.GATE_FAIL, err
    assert out.startswith("1 of 1000 questions found in 1 of 2 rows\n")
    lines = [json.loads(line) for line in (tmp_path / "matches.jsonl").read_text().splitlines()]
    assert [(line["row"], line["question"], line["kind"]) for line in lines] == [(2, id, "whole")]


def test_clean_rows_are_no_failure_and_other_shards_are_left_out(check: Check, tmp_path: Path) -> None:
    id, asked = question()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": asked, "completion": "7"}) + "\n")
    shard = id.split("/")[1]
    others = [option for name in {"gate", "dev", "unseen"} - {shard} for option in ("--shard", name)]
    assert check(rows, *others)[0] == Exit.OK
    code, out, _ = check(rows, "--shard", shard, "--json")
    assert code == Exit.GATE_FAIL
    told = json.loads(out)
    assert told["questions"] == {f"reasoning/{id}": 1}
    assert told["num_rows"] == 1


def test_rows_that_cannot_be_read_are_counted_aloud(check: Check, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n" * 7)
    code, out, err = check(rows, "--suite", "reasoning")
    assert code == Exit.OK
    assert out == "0 of 1000 questions found in 0 of 7 rows\n"
    assert "7 row(s) could not be read and were not searched: 1, 2, 3, 4, 5, ..." in err


def test_escapes_in_rows_do_not_reach_the_terminal(check: Check, tmp_path: Path) -> None:
    _, asked = question()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": f"\x1b]0;{asked}\x07", "completion": "7\x1b[2J"}) + "\n")
    code, out, err = check(rows, "--suite", "reasoning")
    assert code == Exit.GATE_FAIL
    assert not {"\x1b", "\x07"} & {*out, *err}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nope"], "nope"),
        (["--suite", "reasoning", "--shard", "train"], "'train' is not one of"),
    ],
)
def test_wrong_usage_is_said(check: Check, tmp_path: Path, arguments: list[str], message: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    code, _, err = check(rows, *arguments)
    assert code == Exit.USAGE
    assert message in err
    assert check(tmp_path / "none.jsonl")[0] == Exit.USAGE
