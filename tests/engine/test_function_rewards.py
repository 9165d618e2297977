"""Python functions as rewards: allowed modules only, and whatever a function does costs its own answer alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from posttrain.engine.errors import SpecError
from posttrain.engine.events import Phase
from posttrain.engine.rewards import Answer, RewardProcess, Scored, process
from posttrain.engine.spec import RewardPart
from tests.engine.on_policy_runs import numbers_of, samples_of
from tests.engine.test_grpo_runs import task_of
from tests.engine.test_run import events_of, failed, succeeded, with_task
from tests.engine.tiny import prompts_of

PARTS: TypeAdapter[Any] = TypeAdapter(list[RewardPart])
ANSWER = Answer("fine", 3, 10, False, "none", {"wanted": "e"}, prompt="<|im_start|>user\nq")
MODULE = """
import math, os, signal, sys, time
import numpy
from os import system
from posttrain.engine.checkers import judge
if os.path.exists(__file__ + ".broken"):
    raise RuntimeError("will \\x1b[1m not load")

def share(prompt, completion, target):
    print("noise")
    return completion.count(target["wanted"]) / max(1, len(completion))

def odd(prompt, completion, target):
    if completion == "raise": raise KeyError(prompt)
    if completion == "exit": sys.exit(3)
    if completion == "hang": time.sleep(60)
    if completion == "read": return float(len(sys.stdin.read()))
    if completion == "write": os.write(3, b'{"parts": {"python": 9.0}, "failure": ""}\\n')
    if completion == "babble": os.write(3, b"hello\\n")
    if completion == "fork": os.fork()
    if completion.startswith("keep") and os.fork() == 0:
        time.sleep(600)
    if completion == "keep and hang": time.sleep(60)
    if completion == "keep and exit": os._exit(4)
    if completion == "without a timer":
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(60)
    return {
        "nan": math.nan, "none": None, "text": "1", "numpy": numpy.float32(0.5), "true": True, "list": [1.0],
    }.get(completion, 2)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module where the reward's process finds it, and this one does not."""
    path = tmp_path / "library" / "my_rewards.py"
    path.parent.mkdir()
    path.write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(path.parent))
    return path


def parts_of(*names: str) -> Any:
    return PARTS.validate_python([{"type": "python", "function": name} for name in names])


def test_a_function_gets_prompt_completion_and_target(module: Path) -> None:
    with RewardProcess(parts_of("my_rewards:share", "my_rewards:odd")) as rewards:
        assert rewards.score(replace(ANSWER, text="eel!")) == Scored({"python": 0.5, "python_2": 2.0})
        assert rewards.score(replace(ANSWER, text="", target={})).failure == "python: KeyError: 'wanted'"
        assert rewards.score(replace(ANSWER, text="numpy")).parts["python_2"] == 0.5
        assert rewards.score(replace(ANSWER, text="true")).parts["python_2"] == 1.0


def test_a_function_that_misbehaves_costs_its_own_answer_only(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.5)
    found = dict[str, str]()
    for timeout_s, texts in (
        (60.0, ("fine", "raise", "nan", "none", "text", "list", "exit")),  # a busy machine may take its time to exit
        (0.5, ("hang", "without a timer")),
        (60.0, ("still fine",)),
    ):
        with RewardProcess(parts_of("my_rewards:odd"), timeout_s=timeout_s) as rewards:
            found |= {text: rewards.score(replace(ANSWER, text=text)).failure for text in texts}
    assert found == {
        "fine": "",
        "raise": r"python: KeyError: '<|im_start|>user\nq'",
        "nan": "python: is nan",
        "none": "python: TypeError: my_rewards:odd returned NoneType, not a number",
        "text": "python: TypeError: my_rewards:odd returned str, not a number",
        "list": "python: TypeError: my_rewards:odd returned list, not a number",
        "exit": "the reward's process ended with 3",
        "hang": "no reward within 0.5 s",
        "without a timer": "no reward within 0.5 s",
        "still fine": "",
    }


def test_a_function_that_starts_processes_or_writes_scores_changes_no_other_answers_reward(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the process do not answer, what is no answer to the question is none, and nobody waits for a pipe that
    a child of the process keeps open."""
    monkeypatch.setattr(process, "GRACE_S", 0.5)
    before, groups = time.monotonic(), list[int]()

    def ask(text: str) -> Scored:
        groups.extend([rewards._process.pid] if rewards._process is not None else [])
        return rewards.score(replace(ANSWER, text=text))

    with RewardProcess(parts_of("my_rewards:share", "my_rewards:odd"), timeout_s=40.0) as rewards:
        for text in ("fork", "keep", "read"):
            assert not ask(text).failure, text
            assert ask("e").parts["python"] == 1.0
            assert ask("ea").parts["python"] == 0.5
        for text in ("write", "babble"):
            assert ask(text).failure == "the reward's process wrote what is no score of this answer"
            assert ask("ea") == Scored({"python": 0.5, "python_2": 2.0})
        assert ask("keep and exit").failure == "the reward's process ended with 4"
    with RewardProcess(parts_of("my_rewards:odd"), timeout_s=0.5) as rewards:
        assert ask("keep and hang").failure == "no reward within 0.5 s"
    assert time.monotonic() - before < 300, "children sleep for 600 s"
    assert len(set(groups)) == 4
    while {group for group, state in groups_and_states() if state != "Z"} & set(groups):
        assert time.monotonic() - before < 300, "of what a function has started something goes on"
        time.sleep(0.05)


def groups_and_states() -> list[tuple[int, str]]:
    """Of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            found.append((int(group), state))
    return found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_rewards:nothing", "TypeError: my_rewards defines no function nothing"),
        ("my_rewards:system", "TypeError: my_rewards defines no function system"),
        ("my_rewards:judge", "TypeError: my_rewards defines no function judge"),
        ("my_rewards:MODULE", "TypeError: my_rewards defines no function MODULE"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_function_that_is_not_there_is_named_before_anything_starts(module: Path, name: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        RewardProcess(parts_of("my_rewards:odd", name))
    assert said in str(caught.value)
    assert str(caught.value).startswith("rewards[1].function: ")


def test_a_module_that_cannot_be_imported_is_told_without_its_control_characters(module: Path) -> None:
    rewards = RewardProcess(parts_of("my_rewards:odd"))
    assert not rewards.score(ANSWER).failure
    Path(f"{module}.broken").touch()
    with pytest.raises(SpecError) as caught:
        RewardProcess(parts_of("my_rewards:odd"))
    assert str(caught.value) == r"rewards[0].function: RuntimeError: will \x1b[1m not load"
    rewards.close()
    assert "not load" in rewards.score(ANSWER).failure, "of a process that has to be started again it is a failure"


@pytest.mark.parametrize("name", ["f", "a:b:c", "a:_f", "a.:f", "a:f()", ":f", "a-b:f", "a:f\n", "../a:f", "a:b.c"])
def test_what_names_no_function_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="function"):
        parts_of(name)


def job_of(folder: Path, function: str, modules: list[str], **more: Any) -> Any:
    parts = [{"type": "python", "function": function, "weight": 2.0}, {"type": "checker", "weight": 0.5}]
    rows = [{**row, "target": {**row["target"], "wanted": "e"}} for row in prompts_of(6)]
    steps = {"type": "steps", "max_steps": 2}
    return with_task(task_of(folder, rows=rows, rewards=parts, duration=steps, **more), reward_modules=modules)


def test_a_job_is_rewarded_by_a_function(module: Path, tmp_path: Path) -> None:
    succeeded(job_of(tmp_path, "my_rewards:share", ["other", "my_rewards"]), tmp_path / "a1")
    for values in numbers_of(tmp_path / "a1").values():
        assert values["reward"] == pytest.approx(2 * values["reward_python"] + 0.5 * values["reward_checker"])
    for sample in samples_of(tmp_path / "a1"):
        answer = sample["answer"]
        assert sample["parts"]["python"] == pytest.approx(answer.count("e") / max(1, len(answer)))


@pytest.mark.parametrize("modules", [[], ["my"], ["my_rewards.inner"], ["other"]])
def test_a_module_that_is_not_allowed_is_never_imported(module: Path, tmp_path: Path, modules: list[str]) -> None:
    module.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n" + MODULE)
    record = failed(job_of(tmp_path, "my_rewards:share", modules), tmp_path / "a1")
    assert record.code == "BAD_SPEC"
    assert record.message.startswith("rewards[0].function: the server does not allow module my_rewards (allowed: ")
    assert [event.phase for event in events_of(tmp_path / "a1", Phase)] == ["loading"]
    assert not (tmp_path / "imported").exists()


def test_the_folder_that_a_worker_runs_in_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.py").write_text("def f(prompt, completion, target): return 1.0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="No module named 'here'"):
        RewardProcess(parts_of("here:f"))


def test_a_module_that_takes_long_to_import_has_its_own_limit(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start: Callable[[], RewardProcess] = lambda: RewardProcess(parts_of("my_rewards:odd"), timeout_s=0.2)  # noqa: E731
    module.write_text("import time\ntime.sleep(0.6)\n" + MODULE)
    with start() as rewards:
        assert not rewards.score(ANSWER).failure
    monkeypatch.setattr(process, "START_S", 0.5)
    before = time.monotonic()
    with pytest.raises(SpecError, match=r"no reward within 0.5 s"):
        start()
    assert time.monotonic() - before < 10
