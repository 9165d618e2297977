"""Strings that attack a terminal or a markup parser, and the test for what must never reach the screen."""

from __future__ import annotations

import unicodedata

HOSTILE = (
    "[/",
    "[/red]",
    "[red]loud[/red] [@click=app.quit]quit[/]",
    "\x1b[2J\x1b[31mred",
    "\x1b]52;c;ZXZpbA==\x07clip",
    "\x1b]0;title\x1b\\after",
    "\x9b2Jc1",
    "prod\u202eduction",
    "\u2066isolate\u2069 \u200bzero",
    "שלום עולם",
    "😀👩‍👩‍👧 emoji 漢字",
    "line one\nline two\r\nthree\ttab",
    "x" * 1_000_000,
)
NASTY = "[/ [red]a[/] \x1b[31mb \x1b]52;c;ZXZpbA==\x07c \u202ed שלום 😀 \x9b2J\x00 e\nf"


def is_harmful(shown: str) -> bool:
    """Whether a terminal would do more than print this."""
    return any(
        (unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t")
        or unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for character in shown
    )
