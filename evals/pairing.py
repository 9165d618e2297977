"""Whether runs may be compared at all: the guards that come before any statistic. Imports no torch.

Rows are paired by suite and example id, and two rows of a pair must have asked the same thing (`messages_digest`),
under the same metric and wording. Whatever does not match is a reason that keeps the gate from passing; nothing is
dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from posttrain.evals.policy import Baseline, MetricPolicy, Policy
from posttrain.evals.report import Reason, ReasonCode
from posttrain.evals.rows import EvalRun, ResultRow, RowsHeader

_SHOWN = 3  # ids named in a message
Pair = tuple[ResultRow, ResultRow]


@dataclass
class Inspection:
    """`pairs[baseline][suite]` holds (baseline row, candidate row) where they can be compared, in the order of ids."""

    reasons: list[Reason] = field(default_factory=list)
    pairs: dict[Baseline, dict[str, list[Pair]]] = field(default_factory=dict)

    def add(self, code: ReasonCode, message: str, suite: str = "", baseline: Baseline | None = None) -> None:
        self.reasons.append(
            Reason(code=code, verdict="INCONCLUSIVE", suite=suite, baseline=baseline or "", message=message)
        )


def inspect_runs(policy: Policy, candidate: EvalRun, baselines: Mapping[Baseline, EvalRun]) -> Inspection:
    """Checks the runs against the policy and each other, and pairs their rows."""
    found = Inspection()
    if candidate.header.template.type != "own":
        found.add(
            "TEMPLATE_MISMATCH",
            f"the candidate was evaluated under {_template(candidate.header)}; it has to answer under its own",
        )
    _inspect_run(policy, "the candidate", candidate, found, None)
    for name in sorted(baselines):
        run = baselines[name]
        _inspect_template(candidate.header, name, run.header, found)
        _inspect_run(policy, f"the {name}", run, found, name)
        _inspect_settings(candidate.header, name, run.header, found)
        found.pairs[name] = {}
        for suite in policy.suites:
            found.pairs[name][suite] = _pair(suite, "the candidate", candidate, f"the {name}", run, found, name)
    if "parent" in policy.compared and "parent" not in baselines:
        found.add("PAIRING_MISMATCH", "the policy compares with the parent, and there are no rows of it", "", "parent")
    _inspect_ancestor(policy, baselines, found)
    return found


def _inspect_ancestor(policy: Policy, baselines: Mapping[Baseline, EvalRun], found: Inspection) -> None:
    """The ancestor is the version that the policy pins, and no other."""
    run = baselines.get("ancestor")
    if run is None and policy.ancestor:
        message = f"the policy compares with its ancestor {policy.ancestor}, and there are no rows of it"
        found.add("PAIRING_MISMATCH", message, "", "ancestor")
    elif run is not None and run.header.version != policy.ancestor:
        pinned = policy.ancestor or "none"
        message = f"the rows given as the ancestor are of {run.header.version}; the policy pins {pinned}"
        found.add("PAIRING_MISMATCH", message, "", "ancestor")


def inspect_repeat(policy: Policy, of: str, first: EvalRun, again: EvalRun, found: Inspection) -> dict[str, list[Pair]]:
    """Checks that `again` is a second run of `first`'s weights, asked the same; the dtype may be another one.

    Returns (row of the first run, row of the second) by suite.
    """
    who = f"the second run of the {of}"
    _inspect_run(policy, who, again, found, None)
    for what, ours, theirs in (
        ("weights", first.header.weights_digest, again.header.weights_digest),
        ("template", first.header.template, again.header.template),
        ("generation settings", first.header.generation, again.header.generation),
        ("scorers", first.header.scorer_digest, again.header.scorer_digest),
    ):
        if ours != theirs:
            found.add("PAIRING_MISMATCH", f"{who} has not the {what} of the first")
    return {suite: _pair(suite, who, again, f"the {of}", first, found, None) for suite in policy.suites}


def _template(header: RowsHeader) -> str:
    template = header.template
    return {"own": "its own template", "version": f"the template of {template.source}", "plain": "a plain prompt"}[
        template.type
    ]


def _inspect_template(candidate: RowsHeader, name: Baseline, header: RowsHeader, found: Inspection) -> None:
    template = header.template
    if template.type == "own":
        return
    if template.has_own:
        found.add(
            "TEMPLATE_MISMATCH",
            f"{header.version} has a template, but was evaluated under {_template(header)}",
            "",
            name,
        )
    elif name == "champion":
        found.add("TEMPLATE_MISMATCH", f"the champion was evaluated under {_template(header)}", "", name)
    elif template.type == "plain" or template.digest != candidate.template.digest:
        message = f"{header.version} was evaluated under {_template(header)}, which is not the candidate's"
        found.add("TEMPLATE_MISMATCH", message, "", name)


def _inspect_run(policy: Policy, who: str, run: EvalRun, found: Inspection, name: Baseline | None) -> None:
    """Shard, completeness, duplicates, scorer errors of one run."""
    header = run.header
    if header.shard != policy.shard:
        found.add(
            "PAIRING_MISMATCH", f"{who} was run on the {header.shard} shard; the policy judges {policy.shard}", "", name
        )
    infos = {info.name: info for info in header.suites}
    if len(infos) < len(header.suites):
        found.add("PAIRING_MISMATCH", f"{who} lists a suite twice", "", name)
    rows = Counter(row.suite for row in run.rows)
    for suite in policy.suites:
        if suite not in infos:
            found.add("PAIRING_MISMATCH", f"{who} has not been run on {suite}", suite, name)
        elif rows[suite] != infos[suite].num_rows:
            message = f"{who} has {rows[suite]} rows of {suite}, {infos[suite].num_rows} make a complete run"
            found.add("PAIRING_MISMATCH", message, suite, name)
    doubled = sorted(key for key, count in Counter(row.key for row in run.rows).items() if count > 1)
    if doubled:
        found.add("PAIRING_MISMATCH", f"{who} has rows twice: {_some([id for _, id in doubled])}", doubled[0][0], name)
    errors = [row for row in run.rows if row.scorer_error]
    if errors:
        shown = f"{errors[0].example_id}: {errors[0].scorer_error[:200]}"
        found.add("SCORER_ERROR", f"{len(errors)} rows of {who} have no score ({shown})", errors[0].suite, name)


def _inspect_settings(candidate: RowsHeader, name: Baseline, header: RowsHeader, found: Inspection) -> None:
    """What changes answers or scores must be equal on both sides."""
    for what, ours, theirs in (
        ("generation settings", candidate.generation, header.generation),
        ("scorers", candidate.scorer_digest, header.scorer_digest),
        ("dtype", candidate.dtype, header.dtype),
    ):
        if ours != theirs:
            found.add("PAIRING_MISMATCH", f"the candidate and the {name} were run with different {what}", "", name)


def _pair(
    suite: str, our: str, candidate: EvalRun, their: str, run: EvalRun, found: Inspection, name: Baseline | None
) -> list[Pair]:
    """(row of `run`, row of `candidate`) where they can be compared, in the order of ids."""
    digests = [
        {(info.version, info.digest) for info in header.suites if info.name == suite}
        for header in (candidate.header, run.header)
    ]
    if not digests[0] or not digests[1]:
        return []  # named already as a suite that was not run
    if digests[0] != digests[1]:
        found.add("PAIRING_MISMATCH", f"{our} and {their} were run on different versions of {suite}", suite, name)
        return []
    ours = {row.example_id: row for row in candidate.rows if row.suite == suite}
    theirs = {row.example_id: row for row in run.rows if row.suite == suite}
    for ids, what in (
        (set(ours) - set(theirs), f"only {our} has {suite} rows"),
        (set(theirs) - set(ours), f"only {their} has {suite} rows"),
    ):
        if ids:
            found.add("PAIRING_MISMATCH", f"{what} {_some(sorted(ids))}", suite, name)
    both = sorted(set(ours) & set(theirs))
    edited = [id for id in both if _question(ours[id]) != _question(theirs[id])]
    if edited:
        found.add("PAIRING_MISMATCH", f"{suite} rows ask different things: {_some(edited)}", suite, name)
    changed = set(edited)
    return [(theirs[id], ours[id]) for id in both if id not in changed]


def _question(row: ResultRow) -> tuple[str, ...]:
    return (row.messages_digest, row.task, row.metric, row.shard, row.wording_id, row.cluster_id)


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more


def belongs(row: ResultRow, metric: MetricPolicy, shard: str) -> bool:
    return row.suite == metric.suite and row.metric == metric.metric and row.shard == shard


def found_pairs(found: Inspection, name: Baseline, metric: MetricPolicy, shard: str) -> list[Pair]:
    return [pair for pair in found.pairs.get(name, {}).get(metric.suite, []) if belongs(pair[1], metric, shard)]
