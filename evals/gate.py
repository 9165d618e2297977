"""The gate: a pure function of (policy, candidate rows, baseline rows) that anybody can recompute. Imports no torch.

PASS: every rule of every metric is proven. FAIL: a rule is refuted. Else INCONCLUSIVE, which blocks like FAIL. Guards
(pairing, templates, scorer errors, truncation) come first and keep a verdict from PASS whatever the numbers say. "All
must pass" is an intersection-union test and needs no correction; `improved` (at least one metric of k) is judged at
alpha / k, Holm's first step.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from posttrain.evals import planning, stats
from posttrain.evals.pairing import Inspection, inspect_runs
from posttrain.evals.policy import (
    Baseline,
    Ceiling,
    Floor,
    Improve,
    MetricPolicy,
    NonInferior,
    Policy,
    Rule,
    baseline_of,
)
from posttrain.evals.report import (
    REASONS,
    GateReport,
    PolicyInfo,
    Reason,
    ReasonCode,
    RuleResult,
    RunInfo,
    SuiteSummary,
    Verdict,
    explain,
    parse_report,
    percent,
)
from posttrain.evals.rows import EvalRun, ResultRow

__all__ = ["REASONS", "GateReport", "Reason", "RuleResult", "SuiteSummary", "explain", "parse_report", "run_gate"]

_DIGITS = 10  # numbers in a report are rounded, so that another build of the maths library gives the same bytes
_CODES: dict[str, ReasonCode] = {"floor": "FLOOR", "ceiling": "CEILING", "noninferior": "NONINF", "improve": "IMPROVE"}
Pair = tuple[ResultRow, ResultRow]
Blocking = Literal["FAIL", "INCONCLUSIVE"]


def run_gate(policy: Policy, candidate: EvalRun, baselines: Mapping[Baseline, EvalRun]) -> GateReport:
    """Judges a candidate's rows against its baselines' under a policy.

    Never raises on bad evidence: rows that are missing, edited, doubled or of another suite are reasons of the report.
    """
    found = inspect_runs(policy, candidate, baselines)
    reasons, results = list(found.reasons), []
    for metric in policy.metrics:
        judged, why = _judge_metric(policy, metric, candidate, baselines, found)
        results += judged
        reasons += why
    return GateReport(
        verdict=_overall(reasons, results),
        improved=_improved(policy, candidate, baselines, found),
        policy=PolicyInfo(name=policy.name, version=policy.version, digest=policy.digest),
        candidate=_info(candidate),
        baselines={name: _info(run) for name, run in baselines.items()},
        reasons=reasons,
        results=results,
        suites=_summaries(policy, found, policy.shard),
        unseen=_summaries(policy, found, "unseen"),
        level=stats.LEVEL,
    )


def _overall(reasons: Sequence[Reason], results: Sequence[RuleResult]) -> Verdict:
    verdicts = {reason.verdict for reason in reasons} | {result.verdict for result in results}
    if "FAIL" in verdicts:
        return "FAIL"
    # Without a single proven rule nothing passes, whatever led there.
    return "PASS" if verdicts - {"SKIPPED"} == {"PASS"} else "INCONCLUSIVE"


def _info(run: EvalRun) -> RunInfo:
    header = run.header
    return RunInfo(
        version=header.version,
        manifest_digest=header.manifest_digest,
        weights_digest=header.weights_digest,
        template=header.template.type,
        evidence_digest=run.digest,
        rows=len(run.rows),
    )


# -- one metric --------------------------------------------------------------------------------------------------------


def _judge_metric(
    policy: Policy, metric: MetricPolicy, candidate: EvalRun, baselines: Mapping[Baseline, EvalRun], found: Inspection
) -> tuple[list[RuleResult], list[Reason]]:
    rows = [row for row in candidate.rows if _belongs(row, metric, policy.shard)]
    rows.sort(key=lambda row: row.example_id)
    reasons: list[Reason] = []
    results: list[RuleResult] = []

    def reason(code: ReasonCode, verdict: Blocking, message: str, baseline: Baseline | None = None) -> None:
        where = {"suite": metric.suite, "metric": metric.metric, "baseline": baseline or ""}
        reasons.append(Reason.model_validate({"code": code, "verdict": verdict, "message": message, **where}))

    clusters = len({_cluster(row, metric) for row in rows})
    if len(rows) < metric.min_rows or clusters < metric.min_clusters:
        need = f"at least {metric.min_rows} rows in {metric.min_clusters} clusters"
        reason("N_TOO_SMALL", "INCONCLUSIVE", f"{len(rows)} rows in {clusters} clusters; the policy asks for {need}")
    truncated = sum(row.stop_reason in ("length", "context") for row in rows)
    if rows and truncated / len(rows) > metric.max_truncated:
        share = f"{percent(truncated / len(rows))}% of {len(rows)} answers ended at the token cap or the context's end"
        reason("TRUNCATED", "FAIL", f"{share}; the policy allows {percent(metric.max_truncated)}%")
    for rule in metric.rules:
        if isinstance(rule, Floor | Ceiling):
            result = _judge_bound(metric, rule, rows)
        else:
            name: Baseline = rule.to if isinstance(rule, NonInferior) else rule.over
            skipped = _why_skipped(rule, name, baselines)
            if skipped:
                result = _result(metric, rule, verdict="SKIPPED", message=skipped)
            else:
                pairs = _pairs(found, name, metric, policy.shard)
                same = candidate.header.weights_digest == baselines[name].header.weights_digest
                result, blind = _judge_difference(metric, rule, pairs, same)
                if blind:
                    reason("NO_SENSITIVITY", "INCONCLUSIVE", blind, name)
        results.append(result)
        if result.verdict == "FAIL" or result.verdict == "INCONCLUSIVE":
            reason(_CODES[rule.type], result.verdict, f"{result.text}: {result.message}", result.baseline or None)
    if all(result.verdict == "SKIPPED" for result in results):
        reason("NO_SENSITIVITY", "INCONCLUSIVE", "no rule of this metric applies to these versions")
    return results, reasons


def _belongs(row: ResultRow, metric: MetricPolicy, shard: str) -> bool:
    return row.suite == metric.suite and row.metric == metric.metric and row.shard == shard


def _pairs(found: Inspection, name: Baseline, metric: MetricPolicy, shard: str) -> list[Pair]:
    return [pair for pair in found.pairs.get(name, {}).get(metric.suite, []) if _belongs(pair[1], metric, shard)]


def _cluster(row: ResultRow, metric: MetricPolicy) -> Hashable:
    return row.wording_id if metric.cluster == "wording" else row.cluster_id


def _why_skipped(rule: NonInferior | Improve, name: Baseline, baselines: Mapping[Baseline, EvalRun]) -> str:
    if name not in baselines:
        return "the alias has no champion" if name == "champion" else "there are no rows of the parent"
    is_base = not baselines[name].header.template.has_own
    if isinstance(rule, NonInferior) and name == "parent" and is_base:
        return "the parent is a base without a template of its own"
    if isinstance(rule, Improve) and rule.when == "base" and not is_base:
        return f"the {name} has a template of its own"
    return ""


def _judge_bound(metric: MetricPolicy, rule: Floor | Ceiling, rows: list[ResultRow]) -> RuleResult:
    try:
        share = stats.proportion([row.score for row in rows], [_cluster(row, metric) for row in rows])
    except stats.UndefinedError as error:
        return _result(metric, rule, verdict="INCONCLUSIVE", n=len(rows), message=str(error))
    if isinstance(rule, Floor):
        verdict = _decide(share.low >= rule.at_least, share.high < rule.at_least)
        shown = f"the lower bound is {percent(share.low)}%, the upper {percent(share.high)}%"
    else:
        verdict = _decide(share.high <= rule.at_most, share.low > rule.at_most)
        shown = f"the upper bound is {percent(share.high)}%, the lower {percent(share.low)}%"
    return _result(
        metric,
        rule,
        verdict=verdict,
        n=share.n,
        clusters=share.clusters,
        design_effect=share.design_effect,
        candidate_score=share.estimate,
        estimate=share.estimate,
        low=share.low,
        high=share.high,
        message=shown,
    )


def _judge_difference(
    metric: MetricPolicy, rule: NonInferior | Improve, pairs: list[Pair], same_weights: bool
) -> tuple[RuleResult, str]:
    """The rule's result, and why the baseline cannot carry it (empty: it can)."""
    old, new = [pair[0].score for pair in pairs], [pair[1].score for pair in pairs]
    clusters = [_cluster(pair[1], metric) for pair in pairs]
    try:
        gap = stats.paired_difference(old, new, clusters)
        before = stats.proportion(old, clusters)
    except stats.UndefinedError as error:
        return _result(metric, rule, verdict="INCONCLUSIVE", n=len(pairs), message=str(error)), ""
    blind, needed = "", 0
    flips = stats.count_flips(old, new)
    shown = f"the interval of the difference is [{percent(gap.low)}, {percent(gap.high)}] points"
    if isinstance(rule, NonInferior):
        verdict = _decide(gap.low > -rule.margin, gap.high < -rule.margin)
        if verdict != "FAIL" and before.low <= metric.chance:
            blind = (
                f"the baseline scores {percent(before.estimate)}%, not proven above chance ({percent(metric.chance)}%)"
            )
        if verdict == "INCONCLUSIVE":
            needed, hint = _needed(flips, gap, rule.margin)
            shown += f"; {hint}"
    else:
        verdict = "FAIL" if same_weights else _decide(gap.low > rule.by, gap.high < rule.by)
        if same_weights:
            shown = "the candidate's weights are the baseline's"
    result = _result(
        metric,
        rule,
        verdict=verdict,
        n=gap.n,
        clusters=gap.clusters,
        design_effect=gap.design_effect,
        baseline_score=before.estimate,
        candidate_score=sum(new) / len(new),
        estimate=gap.estimate,
        low=gap.low,
        high=gap.high,
        gained=flips.gained,
        lost=flips.lost,
        mcnemar_p=stats.mcnemar(flips),
        needed=needed,
        message=shown,
    )
    return result, blind


def _needed(flips: stats.Flips, gap: stats.Interval, margin: float) -> tuple[int, str]:
    """Examples that would settle a non-inferiority rule with 80% power, and the sentence that says so."""
    discordance = max(flips.gained + flips.lost, 1) / flips.n
    for assumed, words in ((0.0, "there is no true difference"), (gap.estimate, "the difference seen is the true one")):
        if assumed + margin > 0:
            total = planning.examples_needed(discordance, margin, assumed, gap.design_effect)
            if total > gap.n:
                return total, f"{total} examples would settle it with 80% power if {words} (now {gap.n})"
    return 0, "the difference seen is near the margin: more examples would probably not prove it"


def _decide(proven: bool, refuted: bool) -> Verdict:
    return "PASS" if proven else "FAIL" if refuted else "INCONCLUSIVE"


def _result(metric: MetricPolicy, rule: Rule, **numbers: Any) -> RuleResult:
    rounded: dict[str, Any] = {
        name: round(value, _DIGITS) if isinstance(value, float) else value for name, value in numbers.items()
    }
    return RuleResult(
        suite=metric.suite,
        metric=metric.metric,
        rule=rule.type,
        text=_text(rule),
        baseline=baseline_of(rule),
        level=stats.LEVEL,
        **rounded,
    )


def _text(rule: Rule) -> str:
    if isinstance(rule, Floor):
        return f"at least {percent(rule.at_least)}%"
    if isinstance(rule, Ceiling):
        return f"at most {percent(rule.at_most)}%"
    if isinstance(rule, NonInferior):
        return f"not worse than the {rule.to} by {percent(rule.margin)} points"
    return f"better than the {rule.over} by more than {percent(rule.by)} points"


# -- over the metrics --------------------------------------------------------------------------------------------------


def _improved(policy: Policy, candidate: EvalRun, baselines: Mapping[Baseline, EvalRun], found: Inspection) -> bool:
    """Whether some metric is better than the champion's (the parent's, where there is none).

    Equal weights never are.
    """
    if any(run.header.weights_digest == candidate.header.weights_digest for run in baselines.values()):
        return False
    name: Baseline = "champion" if "champion" in baselines else "parent"
    for metric in policy.metrics:
        pairs = _pairs(found, name, metric, policy.shard)
        try:
            gap = stats.paired_difference(
                [pair[0].score for pair in pairs],
                [pair[1].score for pair in pairs],
                [_cluster(pair[1], metric) for pair in pairs],
                alpha=stats.ALPHA / len(policy.metrics),
            )
        except stats.UndefinedError:
            continue  # nothing known of this metric: it does not count as better
        if gap.low > 0:
            return True
    return False


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
                    baseline_score=round(sum(old) / gap.n, _DIGITS),
                    candidate_score=round(sum(new) / gap.n, _DIGITS),
                    difference=round(gap.estimate, _DIGITS),
                    low=round(gap.low, _DIGITS),
                    high=round(gap.high, _DIGITS),
                    level=stats.LEVEL,
                    gained=flips.gained,
                    lost=flips.lost,
                    mcnemar_p=round(stats.mcnemar(flips), _DIGITS),
                )
            )
    return summaries
