"""Scores one answer, and the loop that does it for a `RewardProcess`. Imports no torch."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from posttrain.engine.data.patterns import UncheckableError
from posttrain.engine.errors import SpecError
from posttrain.engine.rewards.base import Answer, Reward, Scored, names_of, problem_of
from posttrain.engine.rewards.functions import function_of
from posttrain.engine.rewards.verifiable import reward_of
from posttrain.engine.spec import ModelReward, PythonReward, RewardOptions, RewardPart

MAX_MEMORY_BYTES = 4 * 2**30  # of addresses: an answer that makes a checker grow fails, and takes nobody's memory
MAX_FAILURE = 200  # characters of a failure's reason
PARTS: TypeAdapter[Any] = TypeAdapter(list[RewardPart])


def make(options: Sequence[RewardOptions]) -> list[tuple[str, Reward]]:
    """The parts by name, but those of reward models.

    Raises:
        SpecError: names the part that cannot be made.
    """
    made = []
    for index, (name, option) in enumerate(zip(names_of(options), options, strict=True)):
        if isinstance(option, ModelReward):
            continue  # scored beside the trained model, see model.py
        try:
            made.append((name, reward_of(option)))
        except UncheckableError as error:
            raise SpecError(
                f"rewards[{index}].pattern: {error}", hint="write it in the syntax of Rust's regex"
            ) from None
    return made


def score(answer: Answer, parts: Sequence[tuple[str, Reward]]) -> Scored:
    """All parts; the first that raises, or is not finite or too large, is the failure."""
    found: dict[str, float] = {}
    for name, reward in parts:
        try:
            value = float(reward(answer))
        except Exception as error:  # whatever a reward raises is told with its answer, and counted
            reason = f"{name}: {type(error).__name__}: {error}"
            return Scored(found, reason[:MAX_FAILURE])
        problem = problem_of(value)
        if problem:
            return Scored(found, f"{name}: {problem}")
        found[name] = value
    return Scored(found)


def import_functions(options: Sequence[RewardOptions]) -> str:
    """Why a part's function cannot be used, by its place in the spec; empty: all can."""
    for index, option in enumerate(options):
        if isinstance(option, PythonReward):
            try:
                function_of(option.function)
            except (Exception, SystemExit) as error:  # whatever a module raises is told with its name
                return f"rewards[{index}].function: {type(error).__name__}: {error}"[:MAX_FAILURE]
    return ""


def main() -> None:
    """First line: the parts and the limits in seconds; answered by why they cannot be used, if they cannot. Then an
    answer a line, and for each a line with its score."""
    output, own = os.dup(1), os.getpid()
    os.dup2(2, 1)  # what a reward prints is no score
    lines = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # what a reward reads is no answer
    head = json.loads(lines.readline())
    options = PARTS.validate_python(head["parts"])
    parts = make(options)
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, signal.SIG_DFL)
    # What asks the trainer's group to stop is for the trainer to answer: a reward that is missing for it would be
    # another trajectory.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    if not any(isinstance(option, PythonReward) for option in options):  # what is trusted needs what it needs
        _limit_memory()
    signal.setitimer(signal.ITIMER_REAL, head["start_s"])
    _say(output, {"failure": import_functions(options)})
    for line in lines:
        signal.setitimer(signal.ITIMER_REAL, head["timeout_s"])
        signal.setitimer(signal.ITIMER_PROF, head["cpu_s"])
        answer = json.loads(line)
        number, scored = answer.pop("number"), score(Answer(**answer), parts)
        if os.getpid() != own:
            os._exit(0)  # a copy that a reward made of the process: the original answers
        _say(output, {"number": number, **asdict(scored)})


def _say(output: int, what: dict[str, Any]) -> None:
    said = json.dumps(what).encode() + b"\n"
    for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    while said:
        said = said[os.write(output, said) :]


def _limit_memory() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MAX_MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
