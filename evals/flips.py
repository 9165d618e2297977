"""Which examples got better and which got worse: the rows behind a difference. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.evals.pairing import found_pairs, inspect_runs
from posttrain.evals.policy import Baseline, Policy
from posttrain.evals.rows import EvalRun, Record, ResultRow


class Side(Record):
    """What one version answered."""

    score: float
    answer: str
    reason: str
    stop_reason: str


class Flip(Record):
    example_id: str
    wording_id: str
    baseline: Side
    candidate: Side


class FlipList(Record):
    """The flips of one metric against one baseline, in the order of example ids."""

    suite: str
    metric: str
    baseline: Baseline
    n: int
    better: list[Flip]
    worse: list[Flip]


def flip_lists(policy: Policy, candidate: EvalRun, baselines: Mapping[Baseline, EvalRun]) -> list[FlipList]:
    """For every metric of the policy and every baseline; rows that cannot be compared are in none.

    All rows of the policy's shard count, also those after a look that decided.
    """
    found = inspect_runs(policy, candidate, baselines)
    lists = []
    for metric in policy.metrics:
        for name in sorted(baselines):
            pairs = found_pairs(found, name, metric, policy.shard)
            flips = [(new.score > old.score, _flip(old, new)) for old, new in pairs if old.score != new.score]
            lists.append(
                FlipList(
                    suite=metric.suite,
                    metric=metric.metric,
                    baseline=name,
                    n=len(pairs),
                    better=[flip for is_better, flip in flips if is_better],
                    worse=[flip for is_better, flip in flips if not is_better],
                )
            )
    return lists


def _flip(old: ResultRow, new: ResultRow) -> Flip:
    return Flip(example_id=new.example_id, wording_id=new.wording_id, baseline=_side(old), candidate=_side(new))


def _side(row: ResultRow) -> Side:
    return Side(score=row.score, answer=row.answer, reason=row.scorer_error or row.reason, stop_reason=row.stop_reason)
