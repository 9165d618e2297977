"""Statistics against numbers worked by hand, and against what encoding gives on the small model's tokenizer."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.data.encoded import Branch, Group, Row
from posttrain.engine.data.statistics import statistics_of


def row(length: int, num_trained: int) -> Row:
    """The last tokens are trained."""
    return Row(array("i", range(length)), bytes(length - num_trained) + b"\1" * num_trained)


def branch(length: int) -> Branch:
    return Branch(array("i", range(length)), b"\1" * length)


def test_rows_by_hand() -> None:
    found = statistics_of([row(10, 4), row(20, 4), row(30, 4), row(100, 90)], limit=25)
    assert found is not None
    assert (found.num_rows, found.num_tokens, found.num_trained) == (4, 160, 102)
    assert (found.mean, found.p50, found.p95, found.longest) == (40.0, 20, 100, 100)
    # The third row's trained tokens lie behind the limit: it is lost. The fourth is cut by 75.
    assert (found.num_overlong, found.num_cut, found.num_lost) == (2, 75, 1)
    assert (found.trained_share, found.overlong_share) == (102 / 160, 0.5)
    assert str(found) == (
        "4 rows, 160 tokens, 63.7% of them trained; lengths: mean 40, half up to 20, 95% up to 100, longest 100; "
        "2 (50.0%) above 25: cutting them drops 75 tokens, 1 of them left without a trained token"
    )


def test_a_pairs_prompt_is_computed_once_and_its_length_is_the_longer_answers() -> None:
    pair = Group(array("i", range(10)), (branch(5), branch(8)))
    found = statistics_of([pair], limit=16)
    assert found is not None
    assert (found.num_tokens, found.num_trained, found.longest, found.num_cut) == (23, 13, 18, 2)
    assert str(statistics_of([pair], limit=18)).endswith("longest 18; none above 18")
    lost = statistics_of([pair], limit=10)
    assert lost is not None
    assert lost.num_lost == 1


def test_of_no_rows_there_are_none() -> None:
    assert statistics_of([], 10) is None


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 60))
def test_percentiles_and_the_limit_agree_with_their_definition(lengths: list[int], limit: int) -> None:
    found = statistics_of([row(length, 1) for length in lengths], limit)
    assert found is not None
    for percent, value in ((50, found.p50), (95, found.p95)):
        assert value in lengths
        at_or_below = sum(length <= value for length in lengths)
        below = sum(length < value for length in lengths)
        assert at_or_below * 100 >= percent * len(lengths) > below * 100
    assert found.num_overlong == sum(length > limit for length in lengths)
    assert min(lengths) <= found.mean <= found.longest == max(lengths)
