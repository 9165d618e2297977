"""Tool calls, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: `tool_call` and `no_tool_call`."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from posttrain.engine.checkers.judgement import Judgement, Target, has_phrase, right, words, wrong

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_MARKUP = re.compile(r"</?tool_call|[\"']arguments[\"']\s*:|[\"']name[\"']\s*:|\b[a-z]+_[a-z_]+\s*\(", re.IGNORECASE)
_DECLINE = re.compile(
    r"\b(?:no|none\s+of\s+(?:the|these|my))\s+(?:\w+\s+){0,2}tools?\b[^.?!]{0,40}"
    r"\b(?:fits?|can|does|do|is|works?|helps?|match(?:es)?|for)\b|"
    r"\b(?:cannot|can't|can\s+not|not\s+able\s+to|unable\s+to)\b[^.?!]{0,60}"
    r"\b(?:the|these|my|any)\s+(?:\w+\s+){0,2}tools?\b|"
    r"\b(?:do\s+not|don't)\s+have\s+(?:a|any)\s+(?:\w+\s+){0,2}tools?\b"
)


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def strict_json(text: str) -> Any:
    """`text` as JSON without constants such as NaN and without doubled keys.

    Raises:
        ValueError: it is not, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def same_value(a: Any, b: Any) -> bool:
    """Equality of JSON values in which true is not 1, and 1 equals 1.0."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)


def tool_call(answer: str, target: Target) -> Judgement:
    """Right if the answer is exactly one well-formed call with the wanted name and arguments, and nothing else."""
    bodies = _CALL.findall(answer)
    if len(bodies) != 1:
        return wrong("no call" if not bodies else "several calls")
    if _CALL.sub("", answer).strip():
        return wrong("text around the call")
    try:
        call = strict_json(bodies[0])
    except ValueError:
        return wrong("not JSON")
    if not isinstance(call, dict) or call.keys() != {"name", "arguments"}:
        return wrong("not a name with arguments")
    if call["name"] != target["name"]:
        return wrong("another tool")
    return right() if same_value(call["arguments"], target["arguments"]) else wrong("other arguments")


def no_tool_call(answer: str, target: Target) -> Judgement:
    """Right without any call markup, and only with what `mode` asks for.

    `answer`: names every phrase of `all` and none of `forbid`; a decline is wrong.
    `decline`: says in words that no tool fits.
    """
    count = len(words(answer))
    if count == 0:
        return wrong("empty")
    if count > int(target.get("max_words", 30)):
        return wrong("too long")
    if _MARKUP.search(answer):
        return wrong("calls a tool")
    declines = _DECLINE.search(answer.casefold().replace("’", "'")) is not None
    if target["mode"] == "decline":
        return right("declined") if declines else wrong("no decline in words")
    if declines:
        return wrong("declines what it could answer")
    if not all(has_phrase(answer, phrase) for phrase in target["all"]):
        return wrong("value missing")
    if any(has_phrase(answer, phrase) for phrase in target.get("forbid", ())):
        return wrong("names another value")
    return right()
