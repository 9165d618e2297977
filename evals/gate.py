"""The gate: a pure function of (policy, candidate rows, baseline rows) that anybody can recompute. Imports no torch.

PASS: every rule of every metric is proven. FAIL: a rule is refuted. Else INCONCLUSIVE, which blocks like FAIL. Guards
(pairing, templates, scorer errors, truncation) come first and keep a verdict from PASS whatever the numbers say. "All
must pass" is an intersection-union test and needs no correction; `improved` (at least one metric of k) is judged at
alpha / k, Holm's first step, and `improve_any` by all of Holm's steps.

rules.py judges one rule, conditions.py what a policy asks for beside rows, pairing.py whether rows may be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from posttrain.evals import stats
from posttrain.evals.conditions import check_contamination, measure_noise, run_info, spend_attempt
from posttrain.evals.overlaps import Searched
from posttrain.evals.pairing import Inspection, belongs, found_pairs, inspect_runs
from posttrain.evals.policy import Baseline, Ceiling, Floor, MetricPolicy, NonInferior, Policy
from posttrain.evals.report import (
    REASONS,
    GateReport,
    PolicyInfo,
    Reason,
    ReasonCode,
    RuleResult,
    SuiteSummary,
    Verdict,
    explain,
    parse_report,
    percent,
)
from posttrain.evals.rows import EvalRun
from posttrain.evals.rules import DIGITS, cluster_of, judge_bound, judge_difference, level_of, result_of, why_skipped

__all__ = ["REASONS", "GateReport", "Reason", "RuleResult", "SuiteSummary", "explain", "parse_report", "run_gate"]

_CODES: dict[str, ReasonCode] = {"floor": "FLOOR", "ceiling": "CEILING", "noninferior": "NONINF", "improve": "IMPROVE"}
Blocking = Literal["FAIL", "INCONCLUSIVE"]


def run_gate(
    policy: Policy,
    candidate: EvalRun,
    baselines: Mapping[Baseline, EvalRun],
    *,
    attempt: int | None = None,
    repeat: EvalRun | None = None,
    searched: Searched | None = None,
) -> GateReport:
    """Judges a candidate's rows against its baselines' under a policy.

    `attempt` counts, from 1, the versions of this lineage that were judged on this shard, this one included; a policy
    with an attempts budget asks for it. `repeat` is a second run of the side that the policy's `noise_floor` names.
    `searched` is what a search of the candidate's training data found. Where a policy asks for one of them and it is
    not given, the report does not pass.

    Never raises on bad evidence: rows that are missing, edited, doubled or of another suite are reasons of the report.

    Raises:
        ValueError: an attempt below 1.
    """
    found = inspect_runs(policy, candidate, baselines)
    alpha, counted = spend_attempt(policy, attempt, found)
    noise = measure_noise(policy, candidate, baselines, repeat, alpha, found)
    contamination = check_contamination(policy, candidate, searched, found)
    reasons, results = list(found.reasons), []
    for metric in policy.metrics:
        judged, why = _judge_metric(policy, metric, candidate, baselines, found, alpha)
        results += judged
        reasons += why
    better = _improved_metrics(policy, candidate, baselines, found, alpha, reasons)
    return GateReport(
        verdict=_overall(reasons, results),
        improved=_improved(policy, candidate, baselines, found, alpha),
        policy=PolicyInfo(name=policy.name, version=policy.version, digest=policy.digest),
        candidate=run_info(candidate),
        baselines={name: run_info(run) for name, run in baselines.items()},
        reasons=reasons,
        results=results,
        suites=_summaries(policy, found, policy.shard),
        unseen=_summaries(policy, found, "unseen"),
        level=level_of(alpha),
        attempt=counted,
        noise=noise,
        improved_metrics=better,
        contamination=contamination,
    )


def _overall(reasons: Sequence[Reason], results: Sequence[RuleResult]) -> Verdict:
    verdicts = {reason.verdict for reason in reasons} | {result.verdict for result in results}
    if "FAIL" in verdicts:
        return "FAIL"
    # Without a single proven rule nothing passes, whatever led there.
    return "PASS" if verdicts - {"SKIPPED"} == {"PASS"} else "INCONCLUSIVE"


# -- one metric --------------------------------------------------------------------------------------------------------


def _judge_metric(
    policy: Policy,
    metric: MetricPolicy,
    candidate: EvalRun,
    baselines: Mapping[Baseline, EvalRun],
    found: Inspection,
    alpha: float,
) -> tuple[list[RuleResult], list[Reason]]:
    rows = [row for row in candidate.rows if belongs(row, metric, policy.shard)]
    rows.sort(key=lambda row: row.example_id)
    reasons: list[Reason] = []
    results: list[RuleResult] = []

    def reason(code: ReasonCode, verdict: Blocking, message: str, baseline: Baseline | None = None) -> None:
        where = {"suite": metric.suite, "metric": metric.metric, "baseline": baseline or ""}
        reasons.append(Reason.model_validate({"code": code, "verdict": verdict, "message": message, **where}))

    clusters = len({cluster_of(row, metric) for row in rows})
    if len(rows) < metric.min_rows or clusters < metric.min_clusters:
        need = f"at least {metric.min_rows} rows in {metric.min_clusters} clusters"
        reason("N_TOO_SMALL", "INCONCLUSIVE", f"{len(rows)} rows in {clusters} clusters; the policy asks for {need}")
    truncated = sum(row.stop_reason in ("length", "context") for row in rows)
    if rows and truncated / len(rows) > metric.max_truncated:
        share = f"{percent(truncated / len(rows))}% of {len(rows)} answers ended at the token cap or the context's end"
        reason("TRUNCATED", "FAIL", f"{share}; the policy allows {percent(metric.max_truncated)}%")
    for rule in metric.rules:
        if isinstance(rule, Floor | Ceiling):
            result = judge_bound(metric, rule, rows, alpha)
        else:
            name: Baseline = rule.to if isinstance(rule, NonInferior) else rule.over
            skipped = why_skipped(rule, name, baselines)
            if skipped:
                result = result_of(metric, rule, alpha, verdict="SKIPPED", message=skipped)
            else:
                pairs = found_pairs(found, name, metric, policy.shard)
                same = candidate.header.weights_digest == baselines[name].header.weights_digest
                result, blind = judge_difference(metric, rule, pairs, same, alpha, policy.sequential)
                if blind:
                    reason("NO_SENSITIVITY", "INCONCLUSIVE", blind, name)
        results.append(result)
        if result.verdict == "FAIL" or result.verdict == "INCONCLUSIVE":
            reason(_CODES[rule.type], result.verdict, f"{result.text}: {result.message}", result.baseline or None)
    if all(result.verdict == "SKIPPED" for result in results):
        reason("NO_SENSITIVITY", "INCONCLUSIVE", "no rule of this metric applies to these versions")
    return results, reasons


# -- over the metrics --------------------------------------------------------------------------------------------------


def _improved(
    policy: Policy, candidate: EvalRun, baselines: Mapping[Baseline, EvalRun], found: Inspection, alpha: float
) -> bool:
    """Whether some metric is better than the champion's (the parent's, where there is none).

    Equal weights never are.
    """
    if any(run.header.weights_digest == candidate.header.weights_digest for run in baselines.values()):
        return False
    name: Baseline = "champion" if "champion" in baselines else "parent"
    for metric in policy.metrics:
        pairs = found_pairs(found, name, metric, policy.shard)
        try:
            gap = stats.paired_difference(
                [pair[0].score for pair in pairs],
                [pair[1].score for pair in pairs],
                [cluster_of(pair[1], metric) for pair in pairs],
                alpha=alpha / len(policy.metrics),
            )
        except stats.UndefinedError:
            continue  # nothing known of this metric: it does not count as better
        if gap.low > 0:
            return True
    return False


def _improved_metrics(
    policy: Policy,
    candidate: EvalRun,
    baselines: Mapping[Baseline, EvalRun],
    found: Inspection,
    alpha: float,
    reasons: list[Reason],
) -> list[str] | None:
    """The metrics that are better as `improve_any` asks, by Holm's procedure over all of the policy's metrics.

    Adds a reason where there is none of them. None: the policy does not ask, or the alias has no champion.
    """
    wanted = policy.improve_any
    if wanted is None or wanted.over not in baselines:
        return None  # a parent or an ancestor that is missing is a reason already
    p_values = []
    for metric in policy.metrics:
        pairs = found_pairs(found, wanted.over, metric, policy.shard)
        old, new = [pair[0].score for pair in pairs], [pair[1].score for pair in pairs]
        try:
            p_values.append(stats.improvement_p(old, new, [cluster_of(pair[1], metric) for pair in pairs], wanted.by))
        except stats.UndefinedError:
            p_values.append(1.0)  # nothing known of this metric: it does not count as better
    is_same = candidate.header.weights_digest == baselines[wanted.over].header.weights_digest
    rejected = [False] * len(p_values) if is_same else stats.holm(p_values, alpha)
    better = [f"{metric.suite}/{metric.metric}" for metric, yes in zip(policy.metrics, rejected, strict=True) if yes]
    if not better:
        what = f"none of {len(p_values)} metrics is proven better than the {wanted.over} by {percent(wanted.by)} points"
        why = (
            "the candidate's weights are the baseline's" if is_same else f"the smallest p-value is {min(p_values):.3f}"
        )
        reasons.append(Reason(code="IMPROVE", verdict="INCONCLUSIVE", baseline=wanted.over, message=f"{what}: {why}"))
    return better


def _summaries(policy: Policy, found: Inspection, shard: str) -> list[SuiteSummary]:
    """Every suite against every baseline, all metrics together, clustered by wording."""
    summaries = []
    for name in sorted(found.pairs):
        for suite in policy.suites:
            pairs = [pair for pair in found.pairs[name].get(suite, []) if pair[1].shard == shard]
            old, new = [pair[0].score for pair in pairs], [pair[1].score for pair in pairs]
            try:
                gap = stats.paired_difference(old, new, [pair[1].wording_id for pair in pairs])
            except stats.UndefinedError:
                continue  # no rows, or one wording: there is no interval to report
            flips = stats.count_flips(old, new)
            summaries.append(
                SuiteSummary(
                    suite=suite,
                    baseline=name,
                    n=gap.n,
                    clusters=gap.clusters,
                    baseline_score=round(sum(old) / gap.n, DIGITS),
                    candidate_score=round(sum(new) / gap.n, DIGITS),
                    difference=round(gap.estimate, DIGITS),
                    low=round(gap.low, DIGITS),
                    high=round(gap.high, DIGITS),
                    level=stats.LEVEL,
                    gained=flips.gained,
                    lost=flips.lost,
                    mcnemar_p=round(stats.mcnemar(flips), DIGITS),
                )
            )
    return summaries
