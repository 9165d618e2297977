"""Checkers: pure, total functions that judge an answer. Scorers of the suites and rewards of RL use the same ones.

A checker never raises on an answer, whatever the text; a target that lacks a field is a defect of the suite and raises
KeyError.
"""

from __future__ import annotations

from posttrain.engine.checkers.abstention import abstains, knows
from posttrain.engine.checkers.calls import no_tool_call, tool_call
from posttrain.engine.checkers.constraints import constraints
from posttrain.engine.checkers.judgement import MAX_ANSWER_CHARS, Checker, Judgement, Target
from posttrain.engine.checkers.mathematics import math
from posttrain.engine.checkers.maths import final_answer
from posttrain.engine.checkers.refusal import helps, refuses
from posttrain.engine.checkers.schema import json_schema
from posttrain.engine.checkers.text import exact, mentions, regex

__all__ = ["CHECKERS", "FIELDS", "TIMED_CHECKERS", "Checker", "Judgement", "Target", "judge"]

CHECKERS: dict[str, Checker] = {
    "abstains": abstains,
    "constraints": constraints,
    "exact": exact,
    "final_answer": final_answer,
    "helps": helps,
    "json_schema": json_schema,
    "knows": knows,
    "mentions": mentions,
    "no_tool_call": no_tool_call,
    "refuses": refuses,
    "regex": regex,
    "tool_call": tool_call,
}

# Of rewards alone: they have no bound of their own, and run in a process with a timer (engine/rewards).
TIMED_CHECKERS: dict[str, Checker] = {"math": math}

# What a target must have; a row for RL is checked against it before it is sealed.
FIELDS: dict[str, tuple[str, ...]] = {
    "abstains": (),
    "constraints": ("constraints",),
    "exact": ("answer",),
    "final_answer": ("answer",),
    "helps": ("all",),
    "json_schema": ("schema",),
    "knows": ("all",),
    "math": ("answer",),
    "mentions": ("all",),
    "no_tool_call": ("mode",),
    "refuses": (),
    "regex": ("pattern",),
    "tool_call": ("name", "arguments"),
}


def judge(checker: str, answer: str, target: Target) -> Judgement:
    """Judges an answer by a checker's name. An answer beyond MAX_ANSWER_CHARS is wrong unread, but for
    `TIMED_CHECKERS`, which are called under a timer only.

    Raises:
        KeyError: no such checker, or the target lacks one of its fields.
    """
    if checker in TIMED_CHECKERS:
        return TIMED_CHECKERS[checker](answer, target)
    judging = CHECKERS[checker]
    if len(answer) > MAX_ANSWER_CHARS:
        return Judgement(False, "too long")
    return judging(answer, target)
