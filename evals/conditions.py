"""What a policy asks for beside rows: attempts of a lineage, a second run for the noise floor, a search of the training
data. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.evals import stats
from posttrain.evals.attempts import attempt_alpha
from posttrain.evals.noise import noise_floor
from posttrain.evals.overlaps import Searched
from posttrain.evals.pairing import Inspection, belongs, inspect_repeat
from posttrain.evals.policy import Baseline, NonInferior, Policy
from posttrain.evals.report import (
    AttemptInfo,
    ContaminationInfo,
    MetricNoise,
    NoiseInfo,
    Reason,
    RunInfo,
    SuiteOverlap,
    percent,
)
from posttrain.evals.rows import EvalRun
from posttrain.evals.rules import DIGITS, cluster_of


def run_info(run: EvalRun) -> RunInfo:
    header = run.header
    return RunInfo(
        version=header.version,
        manifest_digest=header.manifest_digest,
        weights_digest=header.weights_digest,
        template=header.template.type,
        evidence_digest=run.digest,
        rows=len(run.rows),
    )


def spend_attempt(policy: Policy, attempt: int | None, found: Inspection) -> tuple[float, AttemptInfo | None]:
    """The one-sided level of this attempt; a reason where none is left, or nobody counted.

    Without a level of its own a report shows its numbers at the last attempt's.

    Raises:
        ValueError: an attempt below 1.
    """
    if attempt is not None and attempt < 1:
        raise ValueError(f"attempt {attempt}: attempts count from 1")
    if policy.attempts is None:
        return stats.ALPHA, None
    budget, spend = policy.attempts.budget, policy.attempts.spend
    if attempt is None:
        found.add("ATTEMPTS_EXHAUSTED", f"the policy allows {budget} attempts, and nobody counted this one")
    elif attempt > budget:
        again = "confirm on a fresh shard"
        found.add(
            "ATTEMPTS_EXHAUSTED", f"this is attempt {attempt} of the lineage, the policy allows {budget}: {again}"
        )
    alpha = attempt_alpha(min(attempt or budget, budget), budget, spend)
    return alpha, AttemptInfo(number=attempt or 0, budget=budget, alpha=round(alpha, DIGITS))


def measure_noise(
    policy: Policy,
    candidate: EvalRun,
    baselines: Mapping[Baseline, EvalRun],
    repeat: EvalRun | None,
    alpha: float,
    found: Inspection,
) -> NoiseInfo | None:
    """The noise floor of each metric; a reason for each margin below it, or where it cannot be measured."""
    if policy.noise_floor is None:
        return None
    of = policy.noise_floor.of
    first = candidate if of == "candidate" else baselines.get(of)
    if first is None or repeat is None:
        missing = "no run" if first is None else "no second run"
        found.add("NOISE_FLOOR", f"the policy asks for the noise floor of the {of}, and there is {missing} of it")
        return None
    copied = _why_no_second_run(first, repeat)
    if copied:
        found.add("NOISE_FLOOR", f"what was given as the second run of the {of} is none: {copied}")
        return None
    pairs = inspect_repeat(policy, of, first, repeat, found)
    floors = []
    for metric in policy.metrics:
        rules = [rule for rule in metric.rules if isinstance(rule, NonInferior) and rule.to in baselines]
        mine = [pair for pair in pairs[metric.suite] if belongs(pair[1], metric, policy.shard)]
        runs = [[pair[side].score for pair in mine] for side in (0, 1)]
        try:
            floor = noise_floor(runs, [cluster_of(pair[1], metric) for pair in mine], alpha)
        except stats.UndefinedError as error:
            _noise_reason(found, metric.suite, metric.metric, "", f"the noise floor is unknown: {error}")
            continue
        floors.append(MetricNoise(suite=metric.suite, metric=metric.metric, floor=round(floor, DIGITS)))
        for rule in rules:
            if rule.margin < floor:
                margin = f"a margin of {percent(rule.margin)} points is below the noise floor of {percent(floor)}"
                message = f"{margin}, which the {of} run twice shows"
                _noise_reason(found, metric.suite, metric.metric, rule.to, message)
    return NoiseInfo(of=of, repeat=run_info(repeat), metrics=floors)


def _why_no_second_run(first: EvalRun, repeat: EvalRun) -> str:
    """Why rows can be a copy of the first run's, which would show no noise whatever the model; empty: they are not."""
    mark = repeat.header.repeat
    if mark is None:
        return "its rows do not say that each answer was generated anew"
    if mark.num_cached:
        return f"{mark.num_cached} of its answers came from a cache"
    if first.header.repeat is not None and first.header.repeat.job == mark.job:
        return "it is the first run itself"
    return ""


def _noise_reason(found: Inspection, suite: str, metric: str, baseline: str, message: str) -> None:
    where = {"suite": suite, "metric": metric, "baseline": baseline}
    found.reasons.append(
        Reason.model_validate({"code": "NOISE_FLOOR", "verdict": "INCONCLUSIVE", "message": message, **where})
    )


def check_contamination(
    policy: Policy, candidate: EvalRun, searched: Searched | None, found: Inspection
) -> ContaminationInfo | None:
    """What was found of the suites' questions in the training data; a reason for each suite where that blocks, and for
    whatever was not searched.
    """
    wanted = policy.contamination
    if wanted is None:
        return None
    if searched is None:
        found.add("CONTAMINATED", "the policy asks for a search of the training data, and there is none")
        return None
    digests = {info.name: info.digest for info in candidate.header.suites}
    valid = {waiver.question for waiver in wanted.waivers if searched.date <= waiver.expires}
    suites = []
    for suite in policy.suites:
        matched: dict[str, str] = {}  # question -> where it was first found
        for dataset, digest in sorted(searched.datasets.items()):
            searches = [
                item
                for item in searched.overlaps
                if (item.dataset, item.dataset_digest, item.suite, item.suite_digest)
                == (dataset, digest, suite, digests.get(suite))
            ]
            if not searches:
                found.add("CONTAMINATED", f"{dataset} was not searched for this version of the suite", suite)
            for item in searches:
                if item.num_unread:
                    found.add("CONTAMINATED", f"{item.num_unread} rows of {dataset} could not be searched", suite)
                for question, kind in sorted(item.questions.items()):
                    if kind in wanted.kinds:
                        matched.setdefault(question, dataset)
        waived = [question for question in matched if f"{suite}/{question}" in valid]
        counted = [question for question in matched if f"{suite}/{question}" not in valid]
        suites.append(SuiteOverlap(suite=suite, found=len(matched), waived=len(waived)))
        if counted and wanted.action == "block":
            shown = ", ".join(f"{question} in {matched[question]}" for question in counted[:3])
            message = f"questions in the training data: {len(counted)} ({shown})"
            found.reasons.append(Reason(code="CONTAMINATED", verdict="FAIL", suite=suite, message=message))
    return ContaminationInfo(
        action=wanted.action,
        date=searched.date.isoformat(),
        evidence_digest=searched.digest,
        datasets=sorted(searched.datasets),
        suites=suites,
    )
