"""Charts, intervals, the chain and the marks, as pure functions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.service.proto import gates_pb2, jobs_pb2
from posttrain.tui import marks
from posttrain.tui.marks import DARK, LIGHT, Palette
from posttrain.tui.widgets.chain import chain_cell, chain_line
from posttrain.tui.widgets.chart import bucket, draw, smooth
from posttrain.tui.widgets.interval import axis_of, axis_title, draw_interval
from tests.tui import records

PALETTE = Palette.of(DARK, is_ascii=False)
ASCII = Palette.of(LIGHT, is_ascii=True)


def dots(plain: str) -> int:
    return sum(bin(ord(character) - 0x2800).count("1") for character in plain if 0x2800 <= ord(character) <= 0x28FF)


def test_a_line_rises_from_the_lower_left_to_the_upper_right() -> None:
    rows = draw([(step, float(step)) for step in range(100)], 50, 12, PALETTE).plain.split("\n")
    assert rows[0].startswith("    99.0│")
    assert rows[9].startswith("       0│")
    assert rows[0].rstrip()[-1] > "\u2800"
    assert rows[0][9:20].strip() == ""
    assert rows[9][9] > "\u2800"
    assert rows[-1].split() == ["0", "99"]


def test_a_spike_survives_the_squeeze() -> None:
    points = [(step, 1.0) for step in range(10_000)]
    points[5_003] = (5_003, 9.0)
    rows = draw(points, 60, 10, PALETTE).plain.split("\n")
    assert rows[0].startswith("    9.00│")
    assert dots(rows[0]) > 0


def test_gaps_are_marked_where_they_are() -> None:
    points = [(step, math.nan if step == 50 else math.inf if step == 51 else 1.0 + step) for step in range(101)]
    chart = draw(points, 60, 10, PALETTE)
    axis = chart.plain.split("\n")[-2]
    crosses = [index - 9 for index, glyph in enumerate(axis) if glyph == "×"]
    assert crosses
    assert all(abs(cross - 25) <= 1 for cross in crosses)


@pytest.mark.parametrize(
    ("points", "note"),
    [([], "no points yet"), ([(1, math.nan)], "NaN or infinite"), ([(1, math.inf), (2, -math.inf)], "NaN or infinite")],
)
def test_nothing_to_draw_says_why(points: list[tuple[int, float]], note: str) -> None:
    assert note in draw(points, 60, 10, PALETTE).plain


def test_one_point_and_a_flat_line_are_drawn() -> None:
    assert dots(draw([(7, 2.5)], 40, 8, PALETTE).plain) >= 1
    flat = draw([(step, 0.0) for step in range(50)], 40, 8, PALETTE).plain
    assert dots(flat) >= 50
    assert draw([(7, 2.5)], 40, 8, PALETTE).plain.split("\n")[-1].split() == ["7"]


def test_a_log_axis_has_no_place_for_zero() -> None:
    points = [(step, 10.0 ** (step - 2)) for step in range(5)] + [(5, 0.0)]
    rows = draw(points, 50, 12, PALETTE, is_log=True).plain.split("\n")
    assert rows[0].startswith("   100.0│") or rows[0].startswith("     100│")
    assert "×" in rows[-2]


def test_ascii_charts_are_ascii() -> None:
    draw(records_points(), 60, 12, ASCII).plain.encode("ascii")


def records_points() -> list[tuple[int, float]]:
    return [(point.step, point.values["loss"]) for point in records.metrics(200)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200),
    st.integers(0, 90),
    st.integers(0, 30),
    st.booleans(),
)
def test_any_numbers_in_any_place_make_a_chart_that_fits(
    values: list[float], width: int, height: int, is_log: bool
) -> None:
    for palette in (PALETTE, ASCII):
        rows = draw(list(enumerate(values)), width, height, palette, is_log).plain.split("\n")
        assert len(rows) <= max(height, 1)
        assert all(len(row) <= max(width, 1) for row in rows)


def test_smoothing_ignores_what_is_not_finite() -> None:
    smoothed = smooth([(0, 1.0), (1, math.nan), (2, 1.0), (3, math.inf), (4, 1.0)])
    assert [value for _, value in smoothed if math.isfinite(value)] == pytest.approx([1.0, 1.0, 1.0])


def test_buckets_keep_first_lowest_highest_and_last() -> None:
    (only,), holes = bucket([(0, 3.0), (0, 1.0), (0, 9.0), (0, math.nan), (0, 4.0)], 1)
    assert only is not None
    assert (only.first, only.low, only.high, only.last) == (3.0, 1.0, 9.0, 4.0)
    assert holes == {0}


def test_an_interval_stands_where_its_numbers_are() -> None:
    axis = axis_of([-0.04, 0.04])
    assert axis == (-0.05, 0.05)
    assert draw_interval((0.01, 0.02, 0.03), axis, 21, "#ffffff", PALETTE).plain == "          ┊ ├─●─┤    "
    assert draw_interval((-0.03, -0.01, 0.01), axis, 21, "#ffffff", PALETTE).plain == "    ├───●───┤        "
    assert axis_title(axis, 21) == "-5        0        +5"


def test_an_axis_holds_all_values_and_zero() -> None:
    assert axis_of([0.58, 0.66, 0.12]) == (-0.05, 1.0)
    assert axis_of([]) == (-0.05, 0.05)
    assert axis_of([math.nan, -0.3]) == (-0.5, 0.05)


@given(st.tuples(st.floats(), st.floats(), st.floats()), st.integers(0, 50))
def test_any_interval_fits(ends: tuple[float, float, float], width: int) -> None:
    ordered = tuple(sorted(ends)) if not any(map(math.isnan, ends)) else ends
    axis = axis_of(ordered)
    for palette in (PALETTE, ASCII):
        assert len(draw_interval(ordered, axis, width, "#ffffff", palette).plain) == width  # type: ignore[arg-type]


def test_each_state_and_verdict_differs_by_word_and_by_glyph_in_unicode_and_ascii() -> None:
    for make, known in ((marks.state_mark, jobs_pb2.JobState), (marks.verdict_mark, gates_pb2.Verdict)):
        found = [make(value) for value in known.values()]
        for facet in ("word", "glyph", "ascii"):
            assert len({getattr(mark, facet) for mark in found}) == len(found), facet
        assert all(mark.ascii.isascii() for mark in found)
    assert marks.state_mark(99).word == "unknown"


def test_colours_of_both_themes_are_what_rich_understands() -> None:
    for theme in (DARK, LIGHT):
        palette = Palette.of(theme, is_ascii=False)
        for name in ("primary", "success", "warning", "error", "accent", "foreground", "background", "muted", "track"):
            assert palette.colour(name).startswith("#"), name


def test_a_bar_is_as_full_as_the_work() -> None:
    assert PALETTE.bar(0, 10, 8).plain == "─" * 8
    assert PALETTE.bar(5, 10, 8).plain == "━━━━────"
    assert PALETTE.bar(1, 16, 8).plain == "╸───────"
    assert ASCII.bar(5, 10, 8).plain == "####...."
    assert ASCII.bar(20, 10, 8).plain == "#" * 8
    assert ASCII.bar(1, 0, 8).plain == "." * 8


def chain(step: int, state: int = jobs_pb2.SUCCEEDED, **fields: object) -> object:
    return records.job("j", state, chain=jobs_pb2.Chain(step=step, **fields))


@pytest.mark.parametrize(
    ("job", "run", "line", "cell"),
    [
        (records.job("j"), None, "", "–"),
        (
            chain(jobs_pb2.TRAIN, jobs_pb2.RUNNING),
            None,
            "● train ── ○ register ── ○ evaluate ── ○ gate ── ○ promote",
            "● train",
        ),
        (
            chain(jobs_pb2.EVALUATE, version="bot@1"),
            None,
            "✓ train ── ✓ register ── ● evaluate ── ○ gate ── ○ promote",
            "● evaluate",
        ),
        (
            chain(jobs_pb2.CHAIN_FAILED, jobs_pb2.FAILED),
            None,
            "✗ train ── ○ register ── ○ evaluate ── ○ gate ── ○ promote",
            "✗ train",
        ),
        (
            chain(jobs_pb2.CHAIN_FAILED, version="bot@1"),
            None,
            "✓ train ── ✓ register ── ✗ evaluate ── ○ gate ── ○ promote",
            "✗ evaluate",
        ),
        (
            chain(jobs_pb2.DONE, version="b", eval_runs=["e"], gate_run="g"),
            records.gate_run("g", "bot@1", gates_pb2.FAIL),
            "✓ train ── ✓ register ── ✓ evaluate ── ✗ gate FAIL ── ⊘ promote",
            "✗ FAIL",
        ),
        (
            chain(jobs_pb2.DONE, version="b", eval_runs=["e"], gate_run="g", promotion="p"),
            records.gate_run("g", "bot@1"),
            "✓ train ── ✓ register ── ✓ evaluate ── ✓ gate PASS ── ✓ promote",
            "✓ PASS",
        ),
    ],
)
def test_the_chain(job: object, run: object, line: str, cell: str) -> None:
    assert chain_line(job, run, PALETTE).plain == line
    assert chain_cell(job, run, PALETTE).plain == cell
