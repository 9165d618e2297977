"""Short answers behind a marker: `final_answer`."""

from __future__ import annotations

import re

from posttrain.engine.checkers.judgement import Judgement, Target, normalised, right, words, wrong

_MARKER = re.compile(r"answer\s*:", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,12}(?:,\d{3})*(?:\.\d{1,6})?")


def final_answer(answer: str, target: Target) -> Judgement:
    """Right if the text after the only `Answer:` is `target["answer"]`; steps may stand before it, nothing after it.

    A number is compared as a number (`17`, `17.0` and `$17` are equal), anything else by its normalised words.
    """
    if len(words(answer)) > int(target.get("max_words", 60)):
        return wrong("too long")
    parts = _MARKER.split(answer)
    if len(parts) != 2:
        return wrong("no answer marker" if len(parts) < 2 else "several answer markers")
    given, wanted = parts[1].strip(), str(target["answer"])
    if _NUMBER.fullmatch(wanted):
        found = _NUMBER.findall(given)
        if len(found) != 1 or len(words(given)) > 3:
            return wrong("not one number")
        return right() if _number(found[0]) == _number(wanted) else wrong("another number")
    return right() if normalised(given) == normalised(wanted) else wrong("another answer")


def _number(text: str) -> float:
    return float(text.replace(",", ""))
