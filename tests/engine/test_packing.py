"""Mixing and packing: every row once, in an order that a position fixes; nothing lost, nothing padded."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.data.encoded import Row
from posttrain.engine.data.mixing import Mix, check_shares, plan
from posttrain.engine.data.packing import collate, split
from posttrain.engine.errors import EmptyDatasetError, MaskedLabelsError
from posttrain.engine.spec import EpochsDuration, StepsDuration


def row(*ids: int, mask: str = "", number: int = 1) -> Row:
    return Row(array("i", ids), bytes(int(c) for c in mask or "1" * len(ids)), "d@1", number)


def test_an_epoch_draws_each_row_by_its_weight() -> None:
    mix = Mix([10, 8], [1.0, 2.5], seed=3)
    assert mix.epoch_rows == 10 + 20
    drawn = Counter(mix.at(i) for i in range(30))
    assert {drawn[0, i] for i in range(10)} == {1}
    assert sorted(drawn[1, i] for i in range(8)) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert [mix.at(i) for i in range(30)] != [mix.at(30 + i) for i in range(30)]


def test_a_position_gives_the_same_row_in_any_order_of_asking() -> None:
    forward = [Mix([7, 5], [1.0, 0.4], seed=1).at(i) for i in range(40)]
    mix = Mix([7, 5], [1.0, 0.4], seed=1)
    assert [mix.at(i) for i in reversed(range(40))] == forward[::-1]
    assert [Mix([7, 5], [1.0, 0.4], seed=2).at(i) for i in range(40)] != forward


@pytest.mark.parametrize(("size", "weight", "hint"), [(3, 0.1, 0.33), (5, 0.1, 0.2), (700, 0.0007, 0.0014)])
def test_a_source_that_draws_nothing_is_refused_by_name(size: int, weight: float, hint: float) -> None:
    with pytest.raises(EmptyDatasetError, match=rf"small@1: {size} rows at weight {weight} are .* none") as caught:
        check_shares(["big@1", "small@1"], [10, size], [1.0, weight])
    assert caught.value.hint == f"a weight of {hint} draws one row"
    check_shares(["big@1", "small@1"], [10, size], [1.0, hint])
    with pytest.raises(EmptyDatasetError, match="source 1"):
        Mix([10, size], [1.0, weight], seed=0)
    mix = Mix([10, size], [1.0, hint], seed=0)
    assert mix.epoch_rows == 11
    assert [mix.at(i)[0] for i in range(11)].count(1) == 1


def test_a_source_without_rows_is_refused() -> None:
    with pytest.raises(EmptyDatasetError, match="none@1: 0 rows at weight 1") as caught:
        check_shares(["none@1"], [0], [1.0])
    assert caught.value.hint == "add at least one row"


def test_plans() -> None:
    epochs = plan(EpochsDuration(num_epochs=2.5), num_rows=4, epoch_rows=10)
    assert epochs.total_steps == 7
    assert [len(epochs.positions(i)) for i in range(7)] == [4, 4, 4, 4, 4, 4, 1]
    steps = plan(StepsDuration(max_steps=3), num_rows=4, epoch_rows=10)
    assert (steps.total_steps, list(steps.positions(2))) == (3, [8, 9, 10, 11])


def test_a_batch_is_laid_out_by_hand() -> None:
    batch = collate([row(5, 6, 7, mask="101"), row(8, 9, mask="01")])
    assert batch.input_ids_T.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.segments.bounds == (0, 3, 5)
    # Token 5 is marked but has nothing before it; 7 is predicted at 6, 9 at 8; none of it crosses from 7 to 8.
    assert batch.loss_positions_N.tolist() == [1, 3]
    assert batch.targets_N.tolist() == [7, 9]


@pytest.mark.parametrize("mask", ["000", "100"])
def test_a_row_with_all_labels_masked_is_named(mask: str) -> None:
    with pytest.raises(MaskedLabelsError, match="d@1 row 9: all labels are masked"):
        collate([row(1, 2), row(1, 2, 3, mask=mask, number=9)])


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(4, 60))
def test_splitting_loses_no_row_and_keeps_the_bound(lengths: list[int], micro_tokens: int) -> None:
    rows = [row(*range(n), number=i) for i, n in enumerate(lengths)]
    micros = split(rows, micro_tokens)
    assert sorted(r.number for micro in micros for r in micro) == list(range(len(rows)))
    for micro in micros:
        assert sum(map(len, micro)) <= micro_tokens or len(micro) == 1
    assert micros == split(rows, micro_tokens)


def test_tokens_are_on_the_device_and_nothing_is_padded() -> None:
    batch = collate([row(1, 2, 3), row(4, 5)], torch.device("cpu"))
    assert batch.num_tokens == 5
    assert batch.row_names == ["d@1 row 1", "d@1 row 1"]
