"""What counts as the same word: case, marks, spacing and invisible characters do not."""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no spaces between words: each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# Soft hyphens, joiners, directions, variation selectors: they are not seen, and would split a word.
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


def words_of(text: str) -> list[str]:
    """The words of a text in compatibility form (Unicode NFKC) and folded case, without marks."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    return _WORD.findall(text.casefold())
