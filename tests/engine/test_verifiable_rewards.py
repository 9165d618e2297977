"""Verifiable parts of a reward, as the process of the rewards computes them: by hand, and on hostile answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from posttrain.engine.checkers import CHECKERS, TIMED_CHECKERS
from posttrain.engine.checkers.mathematics import MAX_DEPTH, MAX_READ
from posttrain.engine.data.formats import normalise
from posttrain.engine.data.validate import validate_lines
from posttrain.engine.rewards import Answer, RewardProcess, Scored
from posttrain.engine.rewards.scoring import make, score
from posttrain.engine.rewards.timed import TIMED, TimedJudge
from posttrain.engine.spec import RewardPart
from tests.engine.on_policy_runs import numbers_of, samples_of
from tests.engine.test_grpo_runs import task_of
from tests.engine.test_run import failed, succeeded
from tests.engine.tiny import prompts_of

PARTS: TypeAdapter[Any] = TypeAdapter(list[RewardPart])
CHECKED = PARTS.validate_python([{"type": "checker"}])
ANSWER = Answer("", 1, 100, False, "math", {"answer": "1/2"})


@pytest.fixture(scope="module")
def rewards() -> Iterator[RewardProcess]:
    with RewardProcess(CHECKED) as process:
        yield process


def asked(rewards: RewardProcess, checker: str, text: str, **target: Any) -> Scored:
    return rewards.score(replace(ANSWER, checker=checker, text=text, target=target))


# -- mathematics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [
        ("1/2", "So it is $0.5$.", True),
        ("1/2", r"\boxed{\frac{1}{2}}", True),
        ("1/2", "The answer is 1/2", True),
        ("1/2", r"$\frac{1}{3}$", False),
        ("1/2", "I do not know.", False),
        ("1/2", "", False),
        (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", True),
        ("$x^2 + 2x + 1$", "$(x+1)^2$", True),
        ("$x^2 + 2x + 1$", "$(x+2)^2$", False),
        (r"\{1, 2\}", r"$\{2, 1\}$", True),
        (r"\sqrt{8}", r"first $3$, but no: \boxed{2\sqrt{2}}", True),
        ("1/3", "$0.333333$", True),
        ("1/3", "$0.33$", False),
        ("17", "$17.0$", True),
        (17, "The answer is 17", True),
        ("17", "x" * MAX_READ * 3 + " so it is $17$", True),
        ("17", "$17$" + " no" * MAX_READ, False),
        ("17", "$" + "(" * (MAX_DEPTH + 1) + "17" + ")" * (MAX_DEPTH + 1) + "$", False),
        ("17", "$" + "(" * 8 + "17" + ")" * 8 + "$", True),
    ],
)
def test_mathematical_answers(rewards: RewardProcess, gold: object, answer: str, is_right: bool) -> None:
    assert asked(rewards, "math", answer, answer=gold) == Scored({"checker": float(is_right)})


def test_hostile_mathematics_cannot_hang() -> None:
    """A tower that sympy would multiply out; the next answer is judged as ever. Its own time counts: a busy machine
    takes long to start the next process."""
    with RewardProcess(CHECKED, timeout_s=600.0, cpu_s=5.0) as process:
        assert asked(process, "math", "$17$", answer="17") == Scored({"checker": 1.0})
        assert asked(process, "math", "$9^{9^{9^{9}}}$", answer="17").failure == "no reward within 5 s of CPU time"
        assert asked(process, "math", "$17$", answer="17") == Scored({"checker": 1.0})


def test_mathematics_runs_no_code(rewards: RewardProcess, tmp_path: Path) -> None:
    """sympy's own parser would: what math-verify hands it holds digits and operators only."""
    code = f"__import__('pathlib').Path('{tmp_path}/ran').touch()"
    for text in (
        code,
        f"${code}$",
        f"\\boxed{{{code}}}",
        f"The final answer is 1+{code}",
        f"answer: (1)*{code} ",
        f"= 1/{code}",
    ):
        for gold in ("17", text):
            asked(rewards, "math", text, answer=gold)
    assert asked(rewards, "math", "$17$", answer="17") == Scored({"checker": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_target_that_is_no_mathematics_is_told_at_sealing() -> None:
    row = {"prompt": "q", "checker": "math", "target": {"answer": "1/2"}, "reference": r"\boxed{0.5}"}
    changes: dict[str, dict[str, Any]] = {
        "": {},
        "field target: the checker math cannot use it: UncheckableError: the answer cannot be read": {"target": "?!"},
        "more than 1000 characters": {"target": "1" * 1001},
        "field target.answer: is missing": {"target": {}},
        "field reference: is judged wrong by its checker math": {"reference": "3"},
    }
    report = validate_lines([json.dumps({**row, **change}).encode() + b"\n" for change in changes.values()])
    assert [problem.row for problem in report.problems] == [2, 3, 4, 5]
    for problem, said in zip(report.problems, list(changes)[1:], strict=True):
        assert said in str(problem)
    assert not CHECKERS.keys() & TIMED_CHECKERS.keys(), "no suite's scorer: a hang there would end an evaluation"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.engine.checkers import mathematics

    mathematics._package.cache_clear()
    mathematics._gold.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "math_verify", None)
        found = score(replace(ANSWER, text="$1$"), make(CHECKED))
    mathematics._package.cache_clear()
    assert "pip install 'posttrain[math]'" in found.failure


def test_the_process_for_sealing_is_shared_by_threads_and_ends_when_it_is_idle() -> None:
    judge, found = TimedJudge(idle_s=0.3), list[Scored]()
    threads = [
        threading.Thread(target=lambda: found.append(judge.judge("exact", "a", {"answer": "a"}))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Scored({"checker": 1.0})] * 4
    assert judge._rewards is not None
    deadline = time.monotonic() + 20
    while judge._rewards is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert judge.judge("exact", "b", {"answer": "a"}) == Scored({"checker": 0.0}), "and it starts again"
    judge.close()
    TIMED.close()


# -- the other checkers as rewards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checker", "target", "good", "bad"),
    [
        (
            "tool_call",
            {"name": "f", "arguments": {"x": 1}},
            '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
            '<tool_call>{"name": "f", "arguments": {"x": 2}}</tool_call>',
        ),
        ("no_tool_call", {"mode": "decline"}, "None of the tools can do that.", "f(1)"),
        ("constraints", {"constraints": [{"kind": "num_words", "low": 2, "high": 3}]}, "two words", "one"),
        ("json_schema", {"schema": {"type": "array", "maxItems": 2}}, "[1, 2]", "[1, 2, 3]"),
        ("exact", {"answer": "17"}, " 17 ", "17."),
        ("regex", {"pattern": "^[0-9]+$"}, "17", "x17"),
        ("final_answer", {"answer": "17"}, "Answer: 17", "17"),
    ],
)
def test_checkers_are_rewards(
    rewards: RewardProcess, checker: str, target: dict[str, Any], good: str, bad: str
) -> None:
    assert asked(rewards, checker, good, **target) == Scored({"checker": 1.0})
    assert asked(rewards, checker, bad, **target) == Scored({"checker": 0.0})


# -- length ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "expected"),
    [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (10, 1.0), (11, 0.75), (13, 0.25), (14, 0.0), (99, 0)],
)
@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_length_by_hand(num: int, expected: float, unit: str) -> None:
    """A range of 4 to 10 with a falloff of 4."""
    options = PARTS.validate_python([{"type": "length", "unit": unit, "low": 4, "high": 10, "falloff": 4}])
    answer = replace(ANSWER, text="it's " * (num if unit == "words" else 7), num_tokens=num if unit == "tokens" else 7)
    assert score(answer, make(options)) == Scored({"length": expected})


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be at least low"):
        PARTS.validate_python([{"type": "length", "low": 5, "high": 4}])
    PARTS.validate_python([{"type": "length", "low": 5, "high": 5}])


# -- rows without a checker --------------------------------------------------------------------------------------------


def test_a_row_may_have_no_checker_but_then_no_part_may_ask_for_it(tmp_path: Path) -> None:
    rows = [{**row, "checker": "none", "target": None} for row in prompts_of(6)]
    example = normalise(rows[0], "prompts")
    assert (example.checker, example.target) == ("none", {})  # type: ignore[union-attr]
    report = validate_lines([json.dumps({**rows[0], "reference": "a"}).encode() + b"\n"])
    assert "field reference: is given, but there is no checker" in str(report.problems[0])
    record = failed(task_of(tmp_path, rows=rows), tmp_path / "a1")
    assert (record.code, record.message) == (
        "BAD_DATA",
        "data@1 row 1: it has no checker, and checker is a part of rewards",
    )
    assert (
        score(replace(ANSWER, checker="none"), make(CHECKED)).failure == "checker: ValueError: the row has no checker"
    )
    parts = [{"type": "length", "high": 3, "weight": 2.0}, {"type": "regex", "pattern": "e"}, {"type": "length"}]
    task = task_of(tmp_path, rows=rows, rewards=parts, duration={"type": "steps", "max_steps": 1})
    succeeded(task, tmp_path / "a2")
    values = numbers_of(tmp_path / "a2")[1]
    total = 2 * values["reward_length"] + values["reward_regex"] + values["reward_length_2"]
    assert values["reward"] == pytest.approx(total)
    assert all(list(sample["parts"]) == ["length", "regex", "length_2"] for sample in samples_of(tmp_path / "a2"))
