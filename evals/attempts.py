"""How a lineage's attempts against one gate shard share alpha. Pure; imports no torch.

Each re-submission that is judged by the same rows is another chance to pass by luck. A policy with an attempts budget
gives attempt number i its own level alpha(i), and the levels of all attempts add up to alpha: whatever the attempts
have in common, a model that is not good enough passes in one of them at most so often (Bonferroni). When the budget is
spent the answer is a fresh shard.
"""

from __future__ import annotations

import math
from typing import Literal

from posttrain.evals.stats import ALPHA

Spend = Literal["equal", "halving"]
MAX_ATTEMPTS = 100


def attempt_alpha(attempt: int, budget: int, spend: Spend = "equal", alpha: float = ALPHA) -> float:
    """The one-sided level of attempt number `attempt`, from 1; 0 when the budget is spent.

    `equal`: alpha / budget each. `halving`: half of alpha for the first attempt, half of what is left for each later
    one, and all that is left for the last.

    Raises:
        ValueError: an attempt or a budget below 1.
    """
    if attempt < 1 or budget < 1:
        raise ValueError(f"attempt {attempt} of {budget}: both count from 1")
    if attempt > budget:
        return 0.0
    if spend == "equal":
        return alpha / budget
    return math.ldexp(alpha, -min(attempt, budget - 1))
