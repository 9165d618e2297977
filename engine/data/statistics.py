"""How long the rows of a dataset are once they are encoded, what a limit would cut, and how much is trained. Imports no
torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posttrain.engine.data.encoded import AnyRow, fit


@dataclass(frozen=True)
class Statistics:
    """Of encoded rows, before any is cut.

    A row's length is that of its longest sequence: of a pair the prompt with the longer answer. `num_tokens` counts
    what is computed, so a pair's prompt once; `num_trained` the tokens with a loss among them. Percentiles are by
    nearest rank. With `limit` tokens a row, `num_overlong` rows are longer: refused, or cut by `num_cut` tokens in
    all, of which `num_lost` rows would keep no trained token and refuse the job even so.
    """

    num_rows: int
    num_tokens: int
    num_trained: int
    mean: float
    p50: int
    p95: int
    longest: int
    limit: int
    num_overlong: int
    num_cut: int
    num_lost: int

    @property
    def trained_share(self) -> float:
        return self.num_trained / self.num_tokens if self.num_tokens else 0.0

    @property
    def overlong_share(self) -> float:
        return self.num_overlong / self.num_rows if self.num_rows else 0.0

    def __str__(self) -> str:
        trained = f"{self.trained_share:.1%} of them trained" if self.num_trained else "prompts to be answered"
        text = (
            f"{self.num_rows:,} rows, {self.num_tokens:,} tokens, {trained}; "
            f"lengths: mean {self.mean:.0f}, half up to {self.p50:,}, 95% up to {self.p95:,}, longest {self.longest:,}"
        )
        if not self.num_overlong:
            return f"{text}; none above {self.limit:,}"
        cut = f"{text}; {self.num_overlong:,} ({self.overlong_share:.1%}) above {self.limit:,}"
        lost = f", {self.num_lost:,} of them left without a trained token" if self.num_lost else ""
        return f"{cut}: cutting them drops {self.num_cut:,} tokens{lost}"


def statistics_of(rows: Iterable[AnyRow], limit: int) -> Statistics | None:
    """Statistics of rows under a limit of tokens a row; None of no rows. Four bytes of memory a row."""
    lengths = array("i")
    num_tokens = num_trained = num_overlong = num_cut = num_lost = 0
    for row in rows:
        lengths.append(row.longest)
        num_tokens += len(row)
        num_trained += row.num_targets
        if row.longest > limit:
            num_overlong += 1
            kept = fit(row, limit, "truncate")
            num_lost += kept is None
            num_cut += len(row) - len(kept) if kept is not None else 0
    if not lengths:
        return None
    ordered = sorted(lengths)
    return Statistics(
        num_rows=len(ordered),
        num_tokens=num_tokens,
        num_trained=num_trained,
        mean=sum(ordered) / len(ordered),
        p50=_percentile(ordered, 50),
        p95=_percentile(ordered, 95),
        longest=ordered[-1],
        limit=limit,
        num_overlong=num_overlong,
        num_cut=num_cut,
        num_lost=num_lost,
    )


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value with at least `percent` of all values at or below it."""
    return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]
