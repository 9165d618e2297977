"""A run's numbers for people and for `summary.json`: by suite and metric, with intervals. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.evals import stats
from posttrain.evals.rows import EvalRun, ResultRow


def summarise(run: EvalRun) -> dict[str, Any]:
    """Counts, scores and intervals by suite, metric and shard; plain JSON."""
    suites: dict[str, Any] = {}
    for info in run.header.suites:
        rows = [row for row in run.rows if row.suite == info.name]
        main = [row for row in rows if row.shard == run.header.shard]
        unseen = [row for row in rows if row.shard == "unseen"]
        suites[info.name] = {
            "version": info.version,
            "digest": info.digest,
            **_share(main),
            "metrics": {metric: _share(part) for metric, part in _by_metric(main).items()},
            "unseen": {metric: _share(part) for metric, part in _by_metric(unseen).items()},
        }
    return {
        "version": run.header.version,
        "template": run.header.template.type,
        "shard": run.header.shard,
        "rows": len(run.rows),
        "level": stats.LEVEL,
        "suites": suites,
    }


def _by_metric(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    return {metric: [row for row in rows if row.metric == metric] for metric in sorted({row.metric for row in rows})}


def _share(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """`interval` is the whole range where it is undefined (no rows, one wording), as in a gate's report."""
    try:
        share = stats.proportion([row.score for row in rows], [row.wording_id for row in rows])
        interval = [round(share.low, 6), round(share.high, 6)]
    except stats.UndefinedError:
        interval = [0.0, 1.0]
    return {
        "n": len(rows),
        "wordings": len({row.wording_id for row in rows}),
        "score": round(sum(row.score for row in rows) / len(rows), 6) if rows else 0.0,
        "interval": interval,
        "length": sum(row.stop_reason == "length" for row in rows),
        "context": sum(row.stop_reason == "context" for row in rows),
        "scorer_errors": sum(bool(row.scorer_error) for row in rows),
    }
