"""Rewards that can be computed from an answer alone. Pure functions; import no torch."""

from __future__ import annotations

from posttrain.engine.checkers import judge
from posttrain.engine.checkers.judgement import words
from posttrain.engine.data.patterns import is_found
from posttrain.engine.data.prompts import NO_CHECKER
from posttrain.engine.rewards.base import Answer, Reward
from posttrain.engine.rewards.functions import python_reward
from posttrain.engine.spec import CheckerReward, LengthReward, OverlongReward, PythonReward, RegexReward, RewardOptions

CALL_CHECKERS = ("tool_call", "no_tool_call")


def reward_of(options: RewardOptions) -> Reward:
    """The function of one part.

    Raises:
        UncheckableError: a pattern that is none, or takes too much.
    """
    match options:
        case CheckerReward():
            return checked
        case RegexReward():
            is_found(options.pattern, "")
            return lambda answer: float(is_found(options.pattern, answer.text))
        case OverlongReward():
            return lambda answer: overlong(answer, options.buffer_tokens)
        case PythonReward():
            return lambda answer: python_reward(options, answer)
        case LengthReward():
            return lambda answer: length(answer, options)
    raise TypeError(f"{type(options).__name__} is no part of a reward")


def checked(answer: Answer) -> float:
    """1 if the row's checker judges the answer right, else 0: what the gate's scorers say of it.

    Raises:
        ValueError: the row has none.
    """
    if answer.checker == NO_CHECKER:
        raise ValueError("the row has no checker")
    # What is judged about calls are those that ran, not what the model made of the answers.
    text = answer.calls if answer.calls and answer.checker in CALL_CHECKERS else answer.text
    return float(judge(answer.checker, text, answer.target).ok)


def overlong(answer: Answer, buffer_tokens: int) -> float:
    """Soft overlong punishment, arXiv:2503.14476 eq. 13: 0 up to `max_tokens - buffer_tokens`, then linearly down to -1
    at `max_tokens`; -1 without an end, which the paper's lengths beyond the limit are here."""
    if answer.is_truncated:
        return -1.0
    return min(0.0, (answer.max_tokens - buffer_tokens - answer.num_tokens) / buffer_tokens)


def length(answer: Answer, options: LengthReward) -> float:
    """1 within the range, and 0 from `falloff` beyond it on; linear in between."""
    num = answer.num_tokens if options.unit == "tokens" else len(words(answer.text))
    beyond = max(options.low - num, num - options.high, 0)
    return max(0.0, 1 - beyond / options.falloff)
