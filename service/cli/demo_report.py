"""What came of a demo: the one line of JSON, and the same for people."""

from __future__ import annotations

import json
import math
from typing import Any

from posttrain.service.cli.follow import Outcome
from posttrain.service.cli.records import enum_name
from posttrain.service.cli.show import echo_gate_run, echo_promotion
from posttrain.service.cli.text import echo, seconds, span_s
from posttrain.service.proto import gates_pb2


def as_record(outcome: Outcome, took_s: float) -> dict[str, Any]:
    """The result as plain JSON values; what there is none of (the job failed before it) is "" or empty.

    `suites` holds, by name, the paired comparison with the champion if there was one, else with the parent (`against`
    says which): scores and differences are shares of 1, `interval` is of candidate minus baseline at `level`.
    """
    job, gate_run, promotion = outcome.job, outcome.gate_run, outcome.promotion
    spec = json.loads(job.spec_json)
    reasons = [*(gate_run.reasons if gate_run else ()), *(promotion.missing if promotion else ())]
    unique = {(r.code, r.metric, r.baseline, r.message): r for r in reasons}
    listed = [
        {"code": r.code, "metric": r.metric, "against": r.baseline, "message": r.message} for r in unique.values()
    ]
    if job.error.code:
        listed.append({"code": job.error.code, "metric": "", "against": "", "message": job.error.message})
    return {
        "base": spec["base"],
        "candidate": job.chain.version,
        "baselines": list(gate_run.baselines) if gate_run else [],
        "verdict": enum_name(gates_pb2.Verdict, gate_run.verdict) if gate_run else "",
        "promotion": enum_name(gates_pb2.Promotion.Outcome, promotion.outcome) if promotion else "",
        "alias": spec["then"]["alias"],
        "suites": {name: _comparison(result) for name, result in by_suite(gate_run).items()},
        "reasons": listed,
        "seconds": {
            "training": _finite(span_s(job.start_time, job.end_time)),
            "evaluation": round(outcome.evaluation_s, 3),
            "all": round(took_s, 3),
        },
        "records": {"job": job.name, "gate_run": job.chain.gate_run, "promotion": job.chain.promotion},
    }


def by_suite(gate_run: gates_pb2.GateRun | None) -> dict[str, gates_pb2.GateResult]:
    """Each suite's comparison with the champion if there is one, else with the parent."""
    chosen: dict[str, gates_pb2.GateResult] = {}
    for result in gate_run.suites if gate_run is not None else ():
        if result.metric not in chosen or result.baseline_name.startswith("champion"):
            chosen[result.metric] = result
    return chosen


def _comparison(result: gates_pb2.GateResult) -> dict[str, Any]:
    return {
        "n": result.n,
        "baseline": _finite(result.baseline),
        "candidate": _finite(result.candidate),
        "difference": _finite(result.difference),
        "interval": [_finite(result.low), _finite(result.high)],
        "level": _finite(result.level),
        "against": result.baseline_name,
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def echo_result(outcome: Outcome, record: dict[str, Any]) -> None:
    """The verdict, the table and the decision."""
    job = outcome.job
    if outcome.gate_run is not None:
        echo_gate_run(outcome.gate_run, full=False)
    elif job.error.code:
        echo(f"the job failed: {job.error.code}: {job.error.message}")
    elif job.chain.message:
        echo(f"the chain stopped: {job.chain.message}")
    if outcome.promotion is not None:
        echo_promotion(outcome.promotion)
    spent = record["seconds"]
    parts = [f"{name} {seconds(spent[name])}" for name in ("training", "evaluation") if spent[name] is not None]
    echo(", ".join(parts))
