"""A gate's report: frozen records with a canonical JSON, and their explanation for people. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.policy import Baseline
from posttrain.evals.rows import Record

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
ReasonCode = Literal[
    "NONINF",
    "FLOOR",
    "CEILING",
    "IMPROVE",
    "N_TOO_SMALL",
    "NO_SENSITIVITY",
    "PAIRING_MISMATCH",
    "TEMPLATE_MISMATCH",
    "SCORER_ERROR",
    "TRUNCATED",
    "ATTEMPTS_EXHAUSTED",
    "NOISE_FLOOR",
    "CONTAMINATED",
    "STALE",
]

REASONS: dict[ReasonCode, str] = {
    "NONINF": "the candidate is, or may be, worse than the baseline by the margin or more",
    "FLOOR": "the candidate's score is not proven to reach the floor",
    "CEILING": "the candidate's score is not proven to stay under the ceiling",
    "IMPROVE": "the improvement asked for is not proven",
    "N_TOO_SMALL": "too few rows or too few wordings to judge",
    "NO_SENSITIVITY": "the baseline does not beat chance, so not being worse proves nothing; or no rule applies",
    "PAIRING_MISMATCH": "the rows compared are not answers to the same questions, or some are missing",
    "TEMPLATE_MISMATCH": "a version was evaluated under a template that is not the one it has to answer under",
    "SCORER_ERROR": "a scorer failed on a row, so its score is unknown",
    "TRUNCATED": "too many answers ended at the token cap or at the context's end",
    "ATTEMPTS_EXHAUSTED": "the lineage has been judged on this shard as often as the policy allows, or nobody counted",
    "NOISE_FLOOR": "a margin is below what the same weights run twice show, or there is no second run",
    "CONTAMINATED": "questions of the suites stand in what the version was trained on, or nobody searched it",
    "STALE": "since the verdict the policy, a suite, a scorer or the champion changed: judge again",
}


def _unset(value: object) -> bool:
    return not value


def _missing(value: object) -> bool:
    return value is None


Unit = Annotated[float, Field(ge=-1, le=1)]


class Reason(Record):
    """Why a report does not pass; `suite`, `metric` and `baseline` are empty where it is not about one of them."""

    code: ReasonCode
    verdict: Literal["FAIL", "INCONCLUSIVE"]
    suite: str = ""
    metric: str = ""
    baseline: Baseline | Literal[""] = ""
    message: str


class RuleResult(Record):
    """One rule of one metric, judged.

    Against a baseline, `estimate` and the interval are of candidate - baseline; for a floor or a ceiling (`baseline`
    empty) of the candidate's score. An undefined interval is the whole range. `needed` counts the examples that would
    probably settle an INCONCLUSIVE rule (0: unknown or settled). SKIPPED: the rule does not apply to these versions, as
    `message` says. In a sequential policy all numbers are those of the deciding `look` of `looks` (from 1), and the
    interval holds its level over all looks together (a repeated confidence interval).
    """

    suite: str
    metric: str
    rule: Literal["floor", "ceiling", "noninferior", "improve"]
    text: str
    baseline: Baseline | Literal[""] = ""
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE", "SKIPPED"]
    n: Annotated[int, Field(ge=0)] = 0
    clusters: Annotated[int, Field(ge=0)] = 0
    design_effect: Annotated[float, Field(ge=0)] = 0.0
    baseline_score: Unit = 0.0
    candidate_score: Unit = 0.0
    estimate: Unit = 0.0
    low: Unit = -1.0
    high: Unit = 1.0
    level: float
    gained: int = 0
    lost: int = 0
    mcnemar_p: Unit = 1.0
    needed: int = 0
    message: str = ""
    look: Annotated[int, Field(ge=0, exclude_if=_unset)] = 0
    looks: Annotated[int, Field(ge=0, exclude_if=_unset)] = 0


class SuiteSummary(Record):
    """All paired rows of one suite and shard, whatever their metric: for people, never deciding."""

    suite: str
    baseline: Baseline
    n: int
    clusters: int
    baseline_score: Unit
    candidate_score: Unit
    difference: Unit
    low: Unit
    high: Unit
    level: float
    gained: int
    lost: int
    mcnemar_p: Unit


class RunInfo(Record):
    """Which evidence was judged."""

    version: str
    manifest_digest: str
    weights_digest: str
    template: str
    evidence_digest: str
    rows: int


class PolicyInfo(Record):
    name: str
    version: int
    digest: str


class AttemptInfo(Record):
    """Which attempt of the policy's budget this is (0: nobody counted), and the one-sided level it was judged at."""

    number: Annotated[int, Field(ge=0)]
    budget: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0, lt=1)]


class MetricNoise(Record):
    """The smallest margin that a second run of the same weights supports."""

    suite: str
    metric: str
    floor: Unit


class NoiseInfo(Record):
    of: Baseline | Literal["candidate"]
    repeat: RunInfo
    metrics: list[MetricNoise]


class SuiteOverlap(Record):
    """How many questions of a suite were found by matches that count, and how many of those are waived."""

    suite: str
    found: Annotated[int, Field(ge=0)]
    waived: Annotated[int, Field(ge=0)]


class ContaminationInfo(Record):
    """What was searched, with the digest of the evidence, and when."""

    action: Literal["block", "warn"]
    date: str
    evidence_digest: str
    datasets: list[str]
    suites: list[SuiteOverlap]


class GateReport(Record):
    """A verdict with everything that led to it. Equal inputs give equal bytes.

    What a policy did not ask for is left out: `attempt`, `noise`, `contamination`, and `improved_metrics`, the metrics
    (SUITE/METRIC) that are better by what `improve_any` asks, family-wise.
    """

    type: Literal["gate_report"] = "gate_report"
    format: Literal[1] = 1
    verdict: Verdict
    improved: bool
    policy: PolicyInfo
    candidate: RunInfo
    baselines: dict[Baseline, RunInfo]
    reasons: list[Reason]
    results: list[RuleResult]
    suites: list[SuiteSummary]
    unseen: list[SuiteSummary]
    level: float
    attempt: AttemptInfo | None = Field(default=None, exclude_if=_missing)
    noise: NoiseInfo | None = Field(default=None, exclude_if=_missing)
    improved_metrics: list[str] | None = Field(default=None, exclude_if=_missing)
    contamination: ContaminationInfo | None = Field(default=None, exclude_if=_missing)

    def canonical_json(self) -> str:
        return canonical_json(self)

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return sha256_text(self.canonical_json())


def parse_report(text: str | bytes) -> GateReport:
    """A stored report.

    Raises:
        pydantic.ValidationError: not a report of this format.
    """
    return GateReport.model_validate_json(text)


def percent(value: float) -> str:
    """A share for people: +4.0, -0.5, 100.0 (points)."""
    return f"{100 * value:.1f}"


def _level(level: float) -> str:
    return f"{round(100 * level, 2):g}%"


def explain(report: GateReport) -> str:
    """The report as plain text."""
    lines = [
        f"verdict    {report.verdict}" + (" (improved)" if report.improved else ""),
        f"policy     {report.policy.name} version {report.policy.version}",
        f"candidate  {report.candidate.version}",
    ]
    lines += [f"{name:<10} {run.version} (template: {run.template})" for name, run in sorted(report.baselines.items())]
    if report.attempt:
        spent = f"one-sided level {report.attempt.alpha:.4f}"
        lines.append(f"attempt    {report.attempt.number or 'not counted'} of {report.attempt.budget}, {spent}")
    if report.improved_metrics is not None:
        lines.append(f"better     {', '.join(report.improved_metrics) or 'no metric'}")
    if report.noise:
        floors = [f"{item.suite}/{item.metric} {percent(item.floor)}" for item in report.noise.metrics]
        lines.append(f"noise      of the {report.noise.of}, points: {', '.join(floors) or 'unknown'}")
    if report.contamination:
        found = [f"{item.suite} {item.found} ({item.waived} waived)" for item in report.contamination.suites]
        where = ", ".join(report.contamination.datasets) or "no dataset"
        lines.append(f"searched   {where}; questions found: {', '.join(found)}")
    if report.reasons:
        lines += ["", "why not"]
        for reason in report.reasons:
            place = "/".join(part for part in (reason.suite, reason.metric) if part)
            lines.append(f"  {reason.code:<18}{place + ': ' if place else ''}{reason.message}")
    lines += ["", f"rules (two-sided {_level(report.level)} intervals, points)"]
    for result in report.results:
        place = f"{result.suite}/{result.metric}"
        if result.verdict == "SKIPPED":
            lines.append(f"  {result.verdict:<13}{place}: {result.text}: {result.message}")
            continue
        interval = f"[{percent(result.low)}, {percent(result.high)}]"
        scores = percent(result.candidate_score)
        if result.baseline:
            scores = f"{percent(result.baseline_score)} -> {scores}, difference {100 * result.estimate:+.1f}"
        size = f"n {result.n}, {result.clusters} clusters"
        if result.looks:
            size += f", look {result.look} of {result.looks}"
        lines.append(f"  {result.verdict:<13}{place}: {result.text}: {scores} {interval}; {size}")
    for title, rows in (("suites", report.suites), ("unseen wordings (reported, never deciding)", report.unseen)):
        if rows:
            lines += ["", title]
        for row in rows:
            change = f"{percent(row.baseline_score)} -> {percent(row.candidate_score)}"
            interval = f"{100 * row.difference:+.1f} [{percent(row.low)}, {percent(row.high)}]"
            lines.append(f"  {row.suite}: {change}, {interval}, n {row.n}, against {row.baseline}")
    return "\n".join(lines) + "\n"
