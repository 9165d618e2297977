"""Token ids of a text piece by piece, each as it follows what is before it. Imports no torch.

A piece's ids are those that an encoding of the whole beginning of the text has there. To encode that beginning anew for
each piece takes time that grows with the square of their number; but a tokenizer splits a text at its special tokens
before it does anything else, so that what stands before one does not change what comes behind. The beginning is
encoded from a late special token on, the anchor.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANCHOR_CHARACTERS = 1024  # as much text behind the anchor is encoded again rather than looking for another one

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Anchors:
    """Spellings at which a tokenizer splits: added tokens that it looks for in the text as it is. `usable` are those
    that take no space before them; `longest` is the longest spelling's length, in characters."""

    pattern: re.Pattern[str]
    usable: frozenset[str]
    longest: int

    @classmethod
    def of(cls, tokenizer: Any) -> Anchors | None:
        """None of a tokenizer that is not known to split so."""
        found = [token for token in tokenizer.added_tokens_decoder.values() if token.content and not token.normalized]
        usable = frozenset(token.content for token in found if not (token.lstrip or token.single_word))
        if not usable or not tokenizer.is_fast:
            return None
        # As tokenizers does: the leftmost, and of those the longest.
        spellings = sorted((token.content for token in found), key=len, reverse=True)
        return cls(re.compile("|".join(map(re.escape, spellings))), usable, len(spellings[0]))

    def last(self, text: str, start: int, end: int) -> int:
        """Where the last usable one in text[start:end] begins, which must not be its first character; `start` if there
        is none. One at the very end does not count: with more text it could be part of a longer one."""
        place = start
        for match in self.pattern.finditer(text, start, end):
            if match.start() + self.longest > end:
                break
            if match[0] in self.usable:
                place = match.start()
        return place


class GrowingIds:
    """The ids of text[:end], for an end that is moved on and on.

    `encode` gives the ids of a text. Where it would merge tokens across an end, `alone` encodes the rest piece by
    piece.
    """

    def __init__(self, text: str, encode: Encode, alone: Encode, anchors: Anchors | None) -> None:
        self.ids: list[int] = []
        self._text = text
        self._encode = encode
        self._alone = alone
        self._anchors = anchors
        self._end = 0
        self._anchor = 0  # a place in the text,
        self._num_before = 0  # and the number of ids before it
        self._is_whole = True  # `ids` are those of an encoding of text[:end]

    def extend(self, end: int) -> None:
        """Appends the ids of the text up to `end` as they follow those before, or else by themselves."""
        if self._is_whole:
            behind = self._encode(self._text[self._anchor : end])
            known = self.ids[self._num_before :]
            self._is_whole = behind[: len(known)] == known
            if self._is_whole:
                self.ids += behind[len(known) :]
                self._move_anchor(end)
        if not self._is_whole:
            self.ids += self._alone(self._text[self._end : end])
        self._end = end

    def _move_anchor(self, end: int) -> None:
        if self._anchors is None or end - self._anchor < ANCHOR_CHARACTERS:
            return
        place = self._anchors.last(self._text, self._anchor, end)
        if place > self._anchor:
            behind = self._encode(self._text[place:end])
            if self.ids[-len(behind) :] == behind:  # or else it does not split there
                self._anchor, self._num_before = place, len(self.ids) - len(behind)
