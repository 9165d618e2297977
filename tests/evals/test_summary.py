"""The numbers for people: counts by suite, metric and shard, and what is said where an interval is undefined."""

from __future__ import annotations

import pytest

from posttrain.evals import stats
from posttrain.evals.summary import summarise

from .build import change_row, make_run


def test_scores_and_intervals_by_metric() -> None:
    scores = {("s", "a"): [1.0] * 30 + [0.0] * 10, ("s", "b"): [1.0] * 20}
    run = change_row(make_run(scores, wordings=10), 0, stop_reason="length")
    run = change_row(change_row(run, 1, stop_reason="context"), 2, scorer_error="KeyError: 'x'", score=0.0)
    suite = summarise(run)["suites"]["s"]
    values = [row.score for row in run.rows if row.metric == "a"]
    share = stats.proportion(values, [i % 10 for i in range(40)])
    assert suite["metrics"]["a"] == {
        "n": 40,
        "wordings": 10,
        "score": 0.725,
        "interval": [pytest.approx(share.low, abs=1e-6), pytest.approx(share.high, abs=1e-6)],
        "length": 1,
        "context": 1,
        "scorer_errors": 1,
    }
    assert (suite["n"], suite["wordings"], suite["metrics"]["b"]["score"]) == (60, 20, 1.0)


def test_an_undefined_interval_is_the_whole_range() -> None:
    suite = summarise(make_run({("s", "a"): [1.0] * 30}, wordings=1))["suites"]["s"]
    assert (suite["wordings"], suite["score"], suite["interval"]) == (1, 1.0, [0.0, 1.0])
