"""One rule of one metric, judged on rows that were paired before. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.engine.spec import sha256_text
from posttrain.evals import planning, sequential, stats
from posttrain.evals.pairing import Pair
from posttrain.evals.policy import (
    Baseline,
    Ceiling,
    Floor,
    Improve,
    MetricPolicy,
    NonInferior,
    Rule,
    Sequential,
    baseline_of,
)
from posttrain.evals.report import RuleResult, Verdict, percent
from posttrain.evals.rows import EvalRun, ResultRow

DIGITS = 10  # numbers in a report are rounded, so that another build of the maths library gives the same bytes


def cluster_of(row: ResultRow, metric: MetricPolicy) -> Hashable:
    return row.wording_id if metric.cluster == "wording" else row.cluster_id


def why_skipped(rule: NonInferior | Improve, name: Baseline, baselines: Mapping[Baseline, EvalRun]) -> str:
    if name not in baselines:
        return "the alias has no champion" if name == "champion" else f"there are no rows of the {name}"
    is_base = not baselines[name].header.template.has_own
    if isinstance(rule, NonInferior) and name == "parent" and is_base:
        return "the parent is a base without a template of its own"
    if isinstance(rule, Improve) and rule.when == "base" and not is_base:
        return f"the {name} has a template of its own"
    return ""


def judge_bound(metric: MetricPolicy, rule: Floor | Ceiling, rows: list[ResultRow], alpha: float) -> RuleResult:
    """A floor or a ceiling, on all rows."""
    try:
        share = stats.proportion([row.score for row in rows], [cluster_of(row, metric) for row in rows], alpha)
    except stats.UndefinedError as error:
        return result_of(metric, rule, alpha, verdict="INCONCLUSIVE", n=len(rows), message=str(error))
    if isinstance(rule, Floor):
        verdict = _decide(share.low >= rule.at_least, share.high < rule.at_least)
        shown = f"the lower bound is {percent(share.low)}%, the upper {percent(share.high)}%"
    else:
        verdict = _decide(share.high <= rule.at_most, share.low > rule.at_most)
        shown = f"the upper bound is {percent(share.high)}%, the lower {percent(share.low)}%"
    return result_of(
        metric,
        rule,
        alpha,
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


def judge_difference(
    metric: MetricPolicy,
    rule: NonInferior | Improve,
    pairs: list[Pair],
    same_weights: bool,
    alpha: float,
    plan: Sequential | None,
) -> tuple[RuleResult, str]:
    """The rule's result, and why the baseline cannot carry it (empty: it can)."""
    margin = rule.margin if isinstance(rule, NonInferior) else -rule.by
    try:
        look = _look(pairs, metric, margin, alpha, plan)
        pairs, gap = look.pairs, look.gap
        old, new = [pair[0].score for pair in pairs], [pair[1].score for pair in pairs]
        before = stats.proportion(old, [cluster_of(pair[1], metric) for pair in pairs], alpha)
    except stats.UndefinedError as error:
        return result_of(metric, rule, alpha, verdict="INCONCLUSIVE", n=len(pairs), message=str(error)), ""
    blind, needed = "", 0
    flips = stats.count_flips(old, new)
    shown = f"the interval of the difference is [{percent(gap.low)}, {percent(gap.high)}] points"
    if look.is_futile:
        shown += f"; stopped for futility at look {look.number} of {look.total}"
    if isinstance(rule, NonInferior):
        verdict = _decide(gap.low > -margin, gap.high < -margin)
        if verdict != "FAIL" and before.low <= metric.chance:
            blind = (
                f"the baseline scores {percent(before.estimate)}%, not proven above chance ({percent(metric.chance)}%)"
            )
        if verdict == "INCONCLUSIVE" and not look.is_futile:
            needed, hint = _needed(flips, gap, rule.margin, alpha)
            shown += f"; {hint}"
    else:
        verdict = "FAIL" if same_weights else _decide(gap.low > rule.by, gap.high < rule.by)
        if same_weights:
            shown = "the candidate's weights are the baseline's"
    result = result_of(
        metric,
        rule,
        alpha,
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
        look=look.number,
        looks=look.total,
    )
    return result, blind


@dataclass(frozen=True)
class _Look:
    """The look that decides: its pairs, the interval there, its number (from 1) of so many; 0 of 0: there are none."""

    pairs: list[Pair]
    gap: stats.Interval
    number: int = 0
    total: int = 0
    is_futile: bool = False


def _look(pairs: list[Pair], metric: MetricPolicy, margin: float, alpha: float, plan: Sequential | None) -> _Look:
    """The first look that proves, refutes or gives up; the last one if none does. Without a plan, all rows at once.

    Clusters come in the order of a hash of their ids, which no result can move. Rows after the deciding look do not
    count, even where they are there: a verdict does not depend on whether a run was stopped.
    """
    if plan is None:
        return _Look(pairs, _gap(pairs, metric, alpha))
    groups: dict[Hashable, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(cluster_of(pair[1], metric), []).append(pair)
    order = sorted(groups, key=lambda cluster: sha256_text(f"{metric.suite}/{cluster}"))
    ends = sequential.prefixes([len(groups[cluster]) for cluster in order], plan.looks)
    if not ends:
        return _Look(pairs, _gap(pairs, metric, alpha))  # fewer than two clusters: undefined
    parts = [[pair for cluster in order[:end] for pair in groups[cluster]] for end in ends]
    design = sequential.design(tuple(len(part) / len(pairs) for part in parts), alpha, plan.futility)
    last = len(parts) - 1
    for index, part in enumerate(parts):
        gap = _gap(part, metric, design.nominal(index))
        flips = stats.count_flips([pair[0].score for pair in part], [pair[1].score for pair in part])
        effect = gap.design_effect
        z = stats.tango_z(flips.n / effect, flips.gained / effect, flips.lost / effect, -margin)
        is_settled = gap.low > -margin or gap.high < -margin
        is_futile = not is_settled and index < last and z <= design.futility[index]
        if is_settled or is_futile or index == last:
            return _Look(part, gap, index + 1, len(parts), is_futile)
    raise AssertionError("the last look always ends the loop")


def _gap(pairs: list[Pair], metric: MetricPolicy, alpha: float) -> stats.Interval:
    return stats.paired_difference(
        [pair[0].score for pair in pairs],
        [pair[1].score for pair in pairs],
        [cluster_of(pair[1], metric) for pair in pairs],
        alpha,
    )


def _needed(flips: stats.Flips, gap: stats.Interval, margin: float, alpha: float) -> tuple[int, str]:
    """Examples that would settle a non-inferiority rule with 80% power, and the sentence that says so."""
    discordance = max(flips.gained + flips.lost, 1) / flips.n
    for assumed, words in ((0.0, "there is no true difference"), (gap.estimate, "the difference seen is the true one")):
        if assumed + margin > 0:
            total = planning.examples_needed(discordance, margin, assumed, gap.design_effect, alpha=alpha)
            if total > gap.n:
                return total, f"{total} examples would settle it with 80% power if {words} (now {gap.n})"
    return 0, "the difference seen is near the margin: more examples would probably not prove it"


def level_of(alpha: float) -> float:
    """The two-sided level whose ends are one-sided bounds at `alpha`."""
    return stats.LEVEL if alpha == stats.ALPHA else round(1 - 2 * alpha, DIGITS)


def _decide(proven: bool, refuted: bool) -> Verdict:
    return "PASS" if proven else "FAIL" if refuted else "INCONCLUSIVE"


def result_of(metric: MetricPolicy, rule: Rule, alpha: float, **numbers: Any) -> RuleResult:
    rounded: dict[str, Any] = {
        name: round(value, DIGITS) if isinstance(value, float) else value for name, value in numbers.items()
    }
    return RuleResult(
        suite=metric.suite,
        metric=metric.metric,
        rule=rule.type,
        text=text_of(rule),
        baseline=baseline_of(rule),
        level=level_of(alpha),
        **rounded,
    )


def text_of(rule: Rule) -> str:
    if isinstance(rule, Floor):
        return f"at least {percent(rule.at_least)}%"
    if isinstance(rule, Ceiling):
        return f"at most {percent(rule.at_most)}%"
    if isinstance(rule, NonInferior):
        return f"not worse than the {rule.to} by {percent(rule.margin)} points"
    return f"better than the {rule.over} by more than {percent(rule.by)} points"
