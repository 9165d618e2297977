"""Verifiable instructions: `constraints` checks each `{"kind": ..., parameters}` of `target["constraints"]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.engine.checkers.calls import same_value, strict_json
from posttrain.engine.checkers.judgement import (
    Judgement,
    Target,
    count_word,
    has_phrase,
    normalised,
    right,
    words,
    wrong,
)

Parameters = Mapping[str, Any]


def _start_word(answer: str, p: Parameters) -> bool:
    found = words(answer)
    return bool(found) and normalised(found[0]) == normalised(p["word"])


def _end_word(answer: str, p: Parameters) -> bool:
    found = words(answer)
    return bool(found) and normalised(found[-1]) == normalised(p["word"])


def _include(answer: str, p: Parameters) -> bool:
    return has_phrase(answer, p["phrase"])


def _word_times(answer: str, p: Parameters) -> bool:
    return count_word(answer, str(p["word"])) == int(p["times"])


def _lowercase(answer: str, p: Parameters) -> bool:
    return any(c.isalpha() for c in answer) and answer == answer.lower()


def _uppercase(answer: str, p: Parameters) -> bool:
    return any(c.isalpha() for c in answer) and answer == answer.upper()


def _num_words(answer: str, p: Parameters) -> bool:
    return int(p["low"]) <= len(words(answer)) <= int(p["high"])


def _items(answer: str, p: Parameters) -> bool:
    """The items, in order, between the separator and nothing else; case and a last full stop do not count."""
    body = answer.strip().removesuffix(".")
    found = [part.strip().casefold() for part in body.split(str(p["separator"]).strip() or " ")]
    return found == [str(item).casefold() for item in p["items"]]


def _lines(answer: str, p: Parameters) -> bool:
    """One item a line, each behind `marker`; `{i}` in the marker stands for the line's number."""
    found = [line.strip().casefold() for line in answer.strip().split("\n")]
    wanted = [str(p["marker"]).replace("{i}", str(i)) + " " + str(item) for i, item in enumerate(p["items"], 1)]
    return found == [line.casefold() for line in wanted]


def _json(answer: str, p: Parameters) -> bool:
    try:
        return same_value(strict_json(answer.strip()), p["value"])
    except ValueError:
        return False


def _repeat(answer: str, p: Parameters) -> bool:
    """The phrase, `times` times, and no other word."""
    return normalised(answer) == " ".join([normalised(p["phrase"])] * int(p["times"]))


def _without(answer: str, p: Parameters) -> bool:
    return str(p["text"]).casefold() not in answer.casefold()


def _wrapped(answer: str, p: Parameters) -> bool:
    """Between `left` and `right`, both used once, with something inside."""
    left, end, body = str(p["left"]), str(p["right"]), answer.strip()
    inside = body[len(left) : len(body) - len(end)]
    if not (body.startswith(left) and body.endswith(end) and inside.strip()):
        return False
    return left not in inside and end not in inside


def _marked(answer: str, p: Parameters) -> bool:
    """The exact text (marks and case included) stands somewhere, once."""
    return answer.count(str(p["text"])) == 1


def _last_line(answer: str, p: Parameters) -> bool:
    """A last line that opens with `opens` and names `phrase`, behind at least one other line."""
    lines = [line for line in answer.strip().split("\n") if line.strip()]
    return len(lines) >= 2 and lines[-1].strip().startswith(str(p["opens"])) and has_phrase(lines[-1], p["phrase"])


def _one_sentence(answer: str, p: Parameters) -> bool:
    return len(re.findall(r"[.!?](?:\s|$)", answer.strip())) == 1 and answer.strip().endswith((".", "!", "?"))


KINDS: dict[str, Callable[[str, Parameters], bool]] = {
    "start_word": _start_word,
    "end_word": _end_word,
    "include": _include,
    "word_times": _word_times,
    "lowercase": _lowercase,
    "uppercase": _uppercase,
    "num_words": _num_words,
    "items": _items,
    "lines": _lines,
    "json": _json,
    "repeat": _repeat,
    "without": _without,
    "wrapped": _wrapped,
    "marked": _marked,
    "last_line": _last_line,
    "one_sentence": _one_sentence,
}


def constraints(answer: str, target: Target) -> Judgement:
    """Right if every constraint holds, in at most `max_words` words (default 40)."""
    if not answer.strip():
        return wrong("empty")
    if len(words(answer)) > int(target.get("max_words", 40)):
        return wrong("too long")
    for constraint in target["constraints"]:
        if not KINDS[constraint["kind"]](answer, constraint):
            return wrong(f"not met: {constraint['kind']}")
    return right()
