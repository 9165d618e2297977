"""The noise floor: what a model's own repetition looks like. Pure; imports no torch.

The same weights evaluated again with another batch size, dtype or machine flip some answers. The rows of one run say
nothing about that: their standard error is of the sample of questions, not of the run. A margin that the repetition
itself would not have met judges the noise and not the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations

from posttrain.evals.stats import ALPHA, UndefinedError, paired_difference


def noise_floor(runs: Sequence[Sequence[float]], clusters: Sequence[Hashable], alpha: float = ALPHA) -> float:
    """The smallest margin at which every run of the same model is proven not worse than every other one.

    `runs[i][j]` is the score of example j in run i. For two runs it is the farther end of the interval of their
    difference, whichever of them is called the baseline: above 0 even where nothing flips, because n examples without a
    flip do not prove that there are none.

    Raises:
        UndefinedError: fewer than two runs or clusters.
        ValueError: runs of unequal length, or scores other than 0 and 1.
    """
    if len(runs) < 2:
        raise UndefinedError(f"{len(runs)} run(s): noise between runs needs at least two")
    gaps = [paired_difference(first, again, clusters, alpha) for first, again in combinations(runs, 2)]
    return max(max(-gap.low, gap.high) for gap in gaps)
