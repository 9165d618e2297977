"""How fast this machine multiplies matrices: what an estimate of time is measured against."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch


def products_per_s(shapes: Sequence[tuple[int, int]], tokens: int, seconds: float = 0.5) -> float:
    """Operations a second of the products of `tokens` rows with weights of these (outputs, inputs), float32 on the CPU,
    each at its best of at least two. Takes about `seconds`, or longer where two of each take longer."""
    flops = spent = 0.0
    counts = Counter(shapes)
    for (outputs, inputs), count in sorted(counts.items()):
        x, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs)
        best, begun, runs = float("inf"), time.perf_counter(), 0
        while runs < 2 or time.perf_counter() - begun < seconds / len(counts):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best, runs = min(best, time.perf_counter() - start), runs + 1
        flops += count * 2.0 * tokens * outputs * inputs
        spent += count * best
    return flops / spent
