"""Builds evaluation runs from score lists, for tests of the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.engine.spec import sha256_text
from posttrain.evals.policy import MetricPolicy, Policy, Rule
from posttrain.evals.rows import EvalRun, GenerationInfo, ResultRow, RowsHeader, SuiteInfo, TemplateInfo

Scores = Mapping[tuple[str, str], Sequence[float]]


def one_metric(*rules: Rule, **options: Any) -> Policy:
    """A policy for suite s, metric m alone; options are fields of its `MetricPolicy`."""
    metric = {"suite": "s", "metric": "m", "min_rows": 2, "min_clusters": 2, "rules": list(rules), **options}
    return Policy(name="t", version=1, metrics=[MetricPolicy(**metric)])


def make_row(suite: str, metric: str, number: int, score: float, wordings: int = 50, **changes: Any) -> ResultRow:
    """Row `number`: of one of two tasks, one of the wordings in turn, and a cluster of 20 neighbours.

    So task, wording and cluster cut the rows in three different ways.
    """
    example = f"{metric}-{number:05d}"
    values: dict[str, Any] = {
        "example_id": example,
        "suite": suite,
        "task": f"{metric}-t{number % 2}",
        "metric": metric,
        "shard": "gate",
        "wording_id": f"{metric}-w{number % wordings}",
        "cluster_id": f"{metric}-c{number // 20}",
        "messages_digest": sha256_text(f"{suite}/{example}"),
        "prompt_digest": sha256_text(f"prompt {suite}/{example}"),
        "score": float(score),
        "answer": "an answer",
        "stop_reason": "stop",
        "num_tokens": 3,
    }
    return ResultRow(**{**values, **changes})


def make_run(
    scores: Scores,
    *,
    version: str = "bot@2",
    weights: str = "candidate",
    template: Literal["own", "version", "plain"] = "own",
    has_own: bool | None = None,
    template_text: str = "chatml",
    shard: Literal["gate", "dev"] = "gate",
    wordings: int = 50,
    suite_digest: str = "suite",
    dtype: str = "float32",
) -> EvalRun:
    """A run with one row per score, `scores` keyed by (suite, metric)."""
    rows = [
        make_row(suite, metric, number, score, wordings)
        for (suite, metric), values in scores.items()
        for number, score in enumerate(values)
    ]
    names = sorted({suite for suite, _ in scores})
    return EvalRun(
        header=RowsHeader(
            version=version,
            manifest_digest=sha256_text(f"manifest {version}"),
            weights_digest=sha256_text(weights),
            template=TemplateInfo(
                type=template,
                digest=sha256_text(template_text),
                source=version,
                has_own=template == "own" if has_own is None else has_own,
            ),
            shard=shard,
            suites=[
                SuiteInfo(
                    name=name,
                    version="1",
                    digest=sha256_text(f"{suite_digest} {name}"),
                    num_rows=sum(row.suite == name for row in rows),
                )
                for name in names
            ],
            scorer_digest=sha256_text("scorers"),
            generation=GenerationInfo(max_new_tokens=0, max_rows=0, seed=0),
            dtype=dtype,
            packages={"torch": "2.13.0"},
        ),
        rows=tuple(rows),
    )


def change_header(run: EvalRun, **changes: Any) -> EvalRun:
    return run.model_copy(update={"header": run.header.model_copy(update=changes)})


def change_row(run: EvalRun, index: int, **changes: Any) -> EvalRun:
    rows = list(run.rows)
    rows[index] = rows[index].model_copy(update=changes)
    return run.model_copy(update={"rows": tuple(rows)})
