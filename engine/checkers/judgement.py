"""What a checker returns, and the text handling that all checkers share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_ANSWER_CHARS = 4000


@dataclass(frozen=True)
class Judgement:
    """Whether an answer is right, and why in a few words (stable for equal input)."""

    ok: bool
    reason: str


Target = Mapping[str, Any]
Checker = Callable[[str, Target], Judgement]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_GAPS = re.compile(r"[\W_]+")


def words(text: str) -> list[str]:
    """Words in order: letters and digits, with inner apostrophes and hyphens."""
    return _WORD.findall(text)


def normalised(text: str) -> str:
    """NFKC, casefolded, each run of spaces and punctuation one space, none at the ends."""
    return _GAPS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def has_phrase(text: str, phrase: str) -> bool:
    """True if the words of `phrase` stand in `text` in this order, side by side; case and punctuation do not count."""
    wanted = normalised(phrase)
    return bool(wanted) and f" {wanted} " in f" {normalised(text)} "


def count_word(text: str, word: str) -> int:
    """How often `word` (one or more words) stands in `text`, without overlaps."""
    wanted = normalised(word)
    return len(re.findall(rf"(?<!\S){re.escape(wanted)}(?!\S)", normalised(text))) if wanted else 0


def right(reason: str = "ok") -> Judgement:
    return Judgement(True, reason)


def wrong(reason: str) -> Judgement:
    return Judgement(False, reason)
