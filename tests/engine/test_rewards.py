"""Rewards: by hand, by weights, and whatever they do that they should not: raise, NaN, hang, die, print."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from posttrain.engine.checkers import judge
from posttrain.engine.errors import SpecError
from posttrain.engine.rewards import Answer, RewardProcess, Scored, names_of, total_of
from posttrain.engine.rewards.scoring import make, score
from posttrain.engine.rewards.verifiable import overlong
from posttrain.engine.spec import RewardPart

PARTS: TypeAdapter[Any] = TypeAdapter(list[RewardPart])
RIGHT = Answer("2 + 2 = 4. Answer: 4", 10, 100, False, "final_answer", {"answer": "4"})
# A process whose only part does what the answer's text says.
ODD = """
import os, sys, time, math
from posttrain.engine.rewards import scoring
def odd(answer):
    print("noise on standard output")
    if answer.text == "raise": raise ZeroDivisionError("by " + answer.text)
    if answer.text == "hang": time.sleep(60)
    if answer.text == "spin":
        while True: pass
    if answer.text == "die": os._exit(3)
    if answer.text == "grow": bytes(5 * 2**30)
    return {"nan": math.nan, "inf": math.inf, "huge": -1e200, "text": "x"}.get(answer.text, 1.0)
scoring.reward_of = lambda option: odd
scoring.main()
"""


def parts_of(*plain: dict[str, Any]) -> Any:
    return PARTS.validate_python(list(plain))


def test_the_sum_is_weighted_and_parts_have_names() -> None:
    options = parts_of(
        {"type": "checker", "weight": 2.0},
        {"type": "regex", "pattern": "Answer: [0-9]+$", "weight": 0.5},
        {"type": "regex", "pattern": "^Answer", "weight": 4.0},
        {"type": "overlong", "buffer_tokens": 20},
    )
    assert names_of(options) == ["checker", "regex", "regex_2", "overlong"]
    with RewardProcess(options) as rewards:
        scored = rewards.score(replace(RIGHT, num_tokens=90))
        assert scored == Scored({"checker": 1.0, "regex": 1.0, "regex_2": 0.0, "overlong": -0.5})
        assert total_of(scored, options) == 2.0 + 0.5 - 0.5
        wrong = rewards.score(replace(RIGHT, text="Answer: 5", is_truncated=True))
        assert total_of(wrong, options) == 0.5 + 4.0 - 1.0


@pytest.mark.parametrize("text", ["Answer: 4", "4", "", "Answer: 5", "\ud800", "Answer: 4" * 1000])
def test_the_checker_says_what_the_gates_scorer_says(text: str) -> None:
    scored = score(replace(RIGHT, text=text), make(parts_of({"type": "checker"})))
    assert scored == Scored({"checker": float(judge("final_answer", text, {"answer": "4"}).ok)})


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(1, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0)]
)
def test_soft_overlong_punishment_by_hand(num_tokens: int, expected: float) -> None:
    """arXiv:2503.14476 eq. 13 with a limit of 100 and a buffer of 20."""
    assert overlong(replace(RIGHT, num_tokens=num_tokens), 20) == pytest.approx(expected)
    assert overlong(replace(RIGHT, num_tokens=num_tokens, is_truncated=True), 20) == -1.0


def test_a_reward_that_misbehaves_costs_its_own_answer_only() -> None:
    options = parts_of({"type": "checker"})
    command = [sys.executable, "-c", ODD]
    with RewardProcess(options, timeout_s=0.5, command=command) as rewards:
        found = {text: rewards.score(replace(RIGHT, text=text)) for text in (
            "fine", "raise", "nan", "inf", "huge", "text", "hang", "after hang", "spin", "die", "after die", "grow",
            "\ud800\n\x00",
        )}  # fmt: skip
    assert {text for text, scored in found.items() if not scored.failure} == {
        "fine", "after hang", "after die", "\ud800\n\x00",
    }  # fmt: skip
    assert found["raise"].failure == "checker: ZeroDivisionError: by raise"
    assert found["nan"].failure == "checker: is nan"
    assert found["inf"].failure == "checker: is inf"
    assert found["huge"].failure == "checker: is -1e+200, beyond 1e+09", "no mean or variance can be had of it"
    assert found["text"].failure.startswith("checker: ValueError")
    assert found["grow"].failure.startswith("checker: MemoryError"), "it takes no other process's memory"
    assert found["hang"].failure == found["spin"].failure == "no reward within 0.5 s"
    assert found["die"].failure == "the reward's process ended with 3"
    assert all(math.isnan(total_of(scored, options)) for scored in found.values() if scored.failure)


def test_a_busy_machine_takes_no_reward_away_and_a_busy_reward_is_ended_by_its_own_time() -> None:
    command = [sys.executable, "-c", ODD]
    with RewardProcess(parts_of({"type": "checker"}), timeout_s=0.4, command=command, cpu_s=0.1) as rewards:
        assert rewards.score(replace(RIGHT, text="spin")).failure == "no reward within 0.1 s of CPU time"
        assert rewards.score(replace(RIGHT, text="hang")).failure == "no reward within 0.4 s", (
            "waiting takes no CPU time"
        )
    with RewardProcess(parts_of({"type": "checker"}), cpu_s=0.5) as rewards:
        assert rewards.score(RIGHT) == Scored({"checker": 1.0})
        assert rewards._process is not None
        rewards._process.send_signal(signal.SIGSTOP)
        threading.Timer(1.0, rewards._process.send_signal, (signal.SIGCONT,)).start()
        assert rewards.score(RIGHT) == Scored({"checker": 1.0}), "a second in which it did not run"


def test_a_stop_signal_to_the_whole_group_takes_no_reward_away() -> None:
    with RewardProcess(parts_of({"type": "checker"})) as rewards:
        first = rewards.score(RIGHT)
        assert rewards._process is not None
        for name in (signal.SIGTERM, signal.SIGINT):
            os.kill(rewards._process.pid, name)
        assert rewards.score(RIGHT) == first == Scored({"checker": 1.0})


def test_the_process_ends_with_the_trainer(tmp_path: Path) -> None:
    """Killed while a reward hangs, the trainer leaves nobody behind: the timer is the kernel's."""
    code = (
        "import sys\n"
        "from tests.engine.test_rewards import *\n"
        "rewards = RewardProcess(parts_of({'type': 'checker'}), timeout_s=1.0, command=[sys.executable, '-c', ODD])\n"
        "rewards.score(RIGHT)\n"
        "print(rewards._process.pid, flush=True)\n"
        "rewards.score(replace(RIGHT, text='hang'))\n"
    )
    root = Path(__file__).parents[2]
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    assert trainer.stdout is not None
    pid = int(trainer.stdout.readline())
    trainer.kill()
    trainer.communicate()
    deadline = time.monotonic() + 20
    while _is_running(pid):
        assert time.monotonic() < deadline, "the reward's process outlives its trainer"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("weight", [1.1e9, -1.1e9, math.inf, math.nan])
def test_a_weight_whose_sum_could_overflow_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        parts_of({"type": "checker", "weight": weight})


def test_a_part_that_cannot_be_made_is_named() -> None:
    for pattern in ("(a", r"(x)\1", "(a{1,500}){1,500}"):
        with pytest.raises(SpecError, match=r"rewards\[1\]\.pattern"):
            RewardProcess(parts_of({"type": "checker"}, {"type": "regex", "pattern": pattern}))


def test_rewards_load_no_torch() -> None:
    code = "import sys, posttrain.engine.rewards.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
