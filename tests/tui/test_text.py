"""Cleaning of foreign text, and numbers for people."""

from __future__ import annotations

import math
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.tui import text
from tests.tui.hostile import HOSTILE, is_harmful


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]52;c;ZXZpbA==\x07after", "after"),
        ("\x1b]52;c;ZXZpbA==\x1b\\after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mc1", "c1"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1bcreset", "reset"),
        ("unterminated \x1b]52;c;abc", "unterminated ]52;c;abc"),
        ("a\x00b\x07c\x08d\x7fe", "abcde"),
        ("\u202eevil\u2066x\u200b\u00ad\ufeff", "evilx"),
        ("one\r\ntwo\x85three\u2028four", "one\ntwo\nthree\nfour"),
        ("tab\tstays", "tab\tstays"),
        ("[/] [red]x[/red] [@click=app.quit]y[/]", "[/] [red]x[/red] [@click=app.quit]y[/]"),
        ("\ud800", ""),
    ],
)
def test_clean(raw: str, expected: str) -> None:
    assert text.clean(raw) == expected


def test_no_control_or_bidi_character_of_all_of_unicode_survives() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = text.clean(every, limit=len(every))
    bad_bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for character in set(left) - {"\n", "\t"}:
        assert unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}, hex(ord(character))
        assert unicodedata.bidirectional(character) not in bad_bidi, hex(ord(character))
    assert {"a", "é", "א", "漢", "😀", "\u200d"} <= set(left)


@given(st.text(st.characters() | st.sampled_from("\x1b]\x9b\x07[;m\u202e"), max_size=60))
def test_clean_is_total_and_idempotent(raw: str) -> None:
    once = text.clean(raw)
    assert not is_harmful(once)
    assert text.clean(once) == once
    assert "\n" not in text.one_line(raw)


def test_a_megabyte_is_cut_in_no_time_and_says_so() -> None:
    started = time.perf_counter()
    shown = text.log_line("x\x1b[31m" * 200_000)
    assert time.perf_counter() - started < 0.2
    assert len(shown) < text.MAX_LINE + 50
    assert "more characters" in shown


def test_a_progress_bar_shows_its_last_state() -> None:
    assert text.log_line("  1%|#\r 50%|#####\r100%|##########\r\n") == "100%|##########"
    assert text.log_line("a\tb") == "a   b"


@pytest.mark.parametrize("raw", HOSTILE)
def test_cells_and_lines_of_hostile_text_are_harmless(raw: str) -> None:
    for shown in (text.one_line(raw), text.log_line(raw), text.shorten(raw, 20), text.cell(raw).plain):
        assert not is_harmful(shown)
        assert "\n" not in shown


def test_shorten_keeps_the_width() -> None:
    assert text.shorten("abcdef", 4) == "abc…"
    assert text.shorten("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (2.1354, "2.135"),
        (0.0213, "0.02130"),
        (1234.5, "1,234"),
        (2e-5, "2.00e-05"),
        (3e9, "3.00e+09"),
        (-1.5, "-1.500"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


@given(st.floats())
def test_numbers_of_any_float_are_short(value: float) -> None:
    assert 0 < len(text.number(value)) <= 10
    assert text.finite(value) is None or math.isfinite(value)
    assert text.duration(value)
    assert text.percent(value)
    assert text.points(value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59, "59s"), (185, "3m05s"), (7800, "2h10m"), (90000, "1d01h"), (-1, "–"), (math.nan, "–")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_sizes() -> None:
    assert text.num_bytes(512) == "512 B"
    assert text.num_bytes(9_437_184) == "9.0 MiB"
    assert text.num_bytes(1 << 50) == "1048576.0 GiB"
    assert text.count(4_718_592) == "4.72M"
    assert text.count(7) == "7"
