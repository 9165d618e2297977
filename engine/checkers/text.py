"""Answers that must name a value, or be one: `mentions`, `exact`, `regex`."""

from __future__ import annotations

from posttrain.engine.checkers.judgement import Judgement, Target, has_phrase, right, words, wrong
from posttrain.engine.data.patterns import is_found


def mentions(answer: str, target: Target) -> Judgement:
    """Right if `answer` names every phrase of `all` and none of `forbid`, in at most `max_words` words (default 30).

    `forbid` holds the other values of the prompt, so that reciting the conversation is wrong.
    """
    count = len(words(answer))
    if count == 0:
        return wrong("empty")
    if count > int(target.get("max_words", 30)):
        return wrong("too long")
    for phrase in target["all"]:
        if not has_phrase(answer, phrase):
            return wrong("value missing")
    for phrase in target.get("forbid", ()):
        if has_phrase(answer, phrase):
            return wrong("names another value")
    return right()


def exact(answer: str, target: Target) -> Judgement:
    """Right if the answer is `answer` and nothing else; space around either does not count, case does."""
    return right() if answer.strip() == str(target["answer"]).strip() else wrong("another answer")


def regex(answer: str, target: Target) -> Judgement:
    """Right if `pattern` is found in the answer; matched in linear time, see `engine/data/patterns.py`.

    Raises:
        UncheckableError: the pattern is none, or takes too much.
    """
    return right() if is_found(str(target["pattern"]), answer) else wrong("no match")
