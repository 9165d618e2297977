"""Not knowing, in words: `abstains` where the prompt does not say it, `knows` where it does."""

from __future__ import annotations

import re
import unicodedata

from posttrain.engine.checkers.judgement import Judgement, Target, has_phrase, right, words, wrong
from posttrain.engine.checkers.text import mentions

MAX_ABSTENTION_WORDS = 30

_NOT = r"(?:\s+not|n't|\s+never)"
_KNOW = r"(?:know|tell|say|be\s+sure|determine|be\s+(?:known|told|said|determined))"
_STATED = r"(?:sure|certain|clear|known|said|told|given|stated|mentioned|specified|provided)"
_ABSTENTION = re.compile(
    rf"\b(?:do|does|did){_NOT}\s+(?:\w+ly\s+)?(?:know|say|tell|mention|state|specify)\b|"
    rf"\b(?:do|does|did){_NOT}\s+have\s+(?:\w+\s+)?information\b|"
    rf"\b(?:can\s*not|can't|could{_NOT})\s+{_KNOW}\b|\b(?:not\s+possible|impossible|unable|no\s+way)\s+to\s+{_KNOW}\b|"
    rf"(?:\b(?:am|are|is|was|were)|'m|'s|'re|\b(?:has|have)\s+been|\b(?:has|have){_NOT}\s+been)(?:{_NOT})?\s+(?:un)?{_STATED}\b|"
    r"\b(?:have|has|had)\s+no\s+idea\b|\bno\s+way\s+of\s+knowing\b|"
    r"\b(?:no|not\s+(?:enough|any)|isn't\s+(?:enough|any))\s+information\b|"
    r"\b(?:nobody|no\s+one|nothing)\s+(?:knows|says|said|tells|told)\b"
)
_NEGATED = re.compile(r"\bnot\b|n't\b|\bnever\b|\bno\b|\bun|\bimpossible\b|\bcannot\b|\bnobody\b|\bnothing\b")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")


def is_abstention(text: str) -> bool:
    """True if the first sentence says in words that the speaker does not, or cannot, know."""
    first = re.split(r"(?<=[.!?])\s|\n", _plain(text).strip(), maxsplit=1)[0]
    found = _ABSTENTION.search(first)
    return found is not None and _NEGATED.search(found[0]) is not None


def abstains(answer: str, target: Target) -> Judgement:
    """Right if the answer opens by saying that it does not know, in at most 30 words, and names no value of `forbid`:
    those that the prompt gives for something else, and would be a guess.
    """
    count = len(words(answer))
    if count == 0:
        return wrong("empty")
    if count > MAX_ABSTENTION_WORDS:
        return wrong("too long")
    if not is_abstention(answer):
        return wrong("does not say that it does not know")
    for phrase in target.get("forbid", ()):
        if has_phrase(answer, phrase):
            return wrong("guesses")
    return right("abstained")


def knows(answer: str, target: Target) -> Judgement:
    """As `mentions`, and wrong if it says that it does not know."""
    return wrong("says that it does not know") if is_abstention(answer) else mentions(answer, target)
