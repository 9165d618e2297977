"""The base model's pre-training text: documents drawn from seeded families of prose and records.

A document is a pure function of (seed, index). The text holds no instructions, no chat markup and no evaluation's
wordings: it is what a small world's books, notes, tables and logs might say, so a model trained on it continues text
and does not answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from posttrain.engine.base import corpus_prose, corpus_records
from posttrain.engine.base.words import Draw

FAMILIES = corpus_prose.FAMILIES + corpus_records.FAMILIES
_CUMULATIVE = list(itertools.accumulate(weight for _, weight in FAMILIES))


def document(seed: int, index: int) -> str:
    """Document `index` of the corpus with this seed."""
    d = Draw(f"{seed}:{index}")
    family = d.rng.choices([f for f, _ in FAMILIES], cum_weights=_CUMULATIVE)[0]
    return family(d)


def documents(seed: int, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Documents start, start + 1, ... (without end where stop is None)."""
    indices = itertools.count(start) if stop is None else range(start, stop)
    return (document(seed, i) for i in indices)
