"""What a gate compares: which stored evaluations are evidence of which side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import desc, select

from posttrain.evals.policy import Baseline, Policy
from posttrain.registry import lineage
from posttrain.registry.errors import InvalidArgumentError, NotFoundError, Unmet, UnmetError
from posttrain.registry.evaluations import get_run
from posttrain.registry.refs import shown
from posttrain.registry.suites import list_suites
from posttrain.registry.tables import AliasRecord, EvalRunRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import checked_manifest, get_version, version_by_id

BASELINES: tuple[Baseline, ...] = ("parent", "champion", "ancestor")


@dataclass(frozen=True)
class Evidence:
    """What a gate compares: one run of the candidate, one of each baseline that there is, and the second run that the
    policy's noise floor asks for."""

    version: VersionRecord
    candidate: EvalRunRecord
    baselines: dict[Baseline, tuple[VersionRecord, EvalRunRecord]]
    repeat: EvalRunRecord | None = None

    @property
    def others(self) -> dict[str, EvalRunRecord]:
        """The run of each side but the candidate's."""
        found: dict[str, EvalRunRecord] = {name: run for name, (_, run) in self.baselines.items()}
        return found | ({"repeat": self.repeat} if self.repeat else {})


def pinned_ancestor(tx: TransactionBase, project: str, policy: Policy, descendant: str) -> VersionRecord | None:
    """The version that a policy pins; None: it pins none.

    Raises:
        InvalidArgumentError: there is no such version, or `descendant` (a ref) did not come from it.
    """
    if policy.ancestor is None:
        return None
    pins = f"policy {policy.name} pins the ancestor {policy.ancestor}"
    try:
        found = get_version(tx, project, policy.ancestor)
    except NotFoundError as error:
        raise InvalidArgumentError(f"{pins}, and there is no such version", "policy", "register it first") from error
    if found.ref not in lineage.ancestors(tx, project, descendant):
        hint = "pin a version that the candidate was trained from, near or far"
        raise InvalidArgumentError(f"{pins}, and {descendant} did not come from it", "policy", hint)
    return found


def gather(
    tx: TransactionBase, project: str, version: VersionRecord, policy: Policy, alias: str, runs: Mapping[str, str]
) -> Evidence:
    """Finds the evaluations that a gate needs, as `create_gate_run` says."""
    unknown = set(runs) - {"candidate", "repeat", *BASELINES}
    if unknown:
        raise InvalidArgumentError(f"{shown(sorted(unknown)[0])} is no side of a gate", "runs")
    named = tx.session.get(AliasRecord, (project, version.model, alias))
    sides: dict[Baseline, VersionRecord] = {}
    if version.parent is not None:
        sides["parent"] = version_by_id(tx, version.parent)
    if named is not None:
        sides["champion"] = version_by_id(tx, named.version)
    ancestor = pinned_ancestor(tx, project, policy, version.ref)
    if ancestor is not None:
        sides["ancestor"] = ancestor
    suites = {suite.name: suite.digest for suite in list_suites(tx, project)}
    wanted = {name: suites.get(name, "") for name in policy.suites}
    missing = [
        Unmet("NO_SUITE", name, f"the policy names suite {name}, which is not registered")
        for name, digest in wanted.items()
        if not digest
    ]
    found: dict[str, EvalRunRecord] = {}
    asked: list[tuple[str, VersionRecord]] = [("candidate", version), *sides.items()]
    repeated = policy.noise_floor.of if policy.noise_floor else ""
    asked += [("repeat", subject) for side, subject in asked if side == repeated]
    for side, subject in asked:
        checked_manifest(tx, subject)
        run = _pick(tx, project, subject, policy, wanted, runs.get(side, ""), version.template_digest, side == "repeat")
        if run is None:
            under = "its own template" if subject.template_digest else f"the template of {version.ref}"
            names = ", ".join(policy.suites)
            who = f"{subject.ref} ({side})"
            again = ""
            if side == "repeat":
                who, side, again = f"{subject.ref} ({repeated})", repeated, " a second time (`posttrain eval --repeat`)"
            message = f"{who} was not evaluated{again} on {names} ({policy.shard} shard) under {under}"
            missing.append(Unmet("NO_EVIDENCE", subject.ref, message, baseline="" if side == "candidate" else side))
        else:
            found[side] = run
    if missing:
        raise UnmetError("; ".join(item.message for item in missing), missing, "evaluate what is missing")
    baselines = {side: (subject, found[side]) for side, subject in sides.items()}
    return Evidence(version, found["candidate"], baselines, found.get("repeat"))


def _pick(
    tx: TransactionBase,
    project: str,
    subject: VersionRecord,
    policy: Policy,
    suites: Mapping[str, str],
    run_id: str,
    template_digest: str,
    repeat: bool,
) -> EvalRunRecord | None:
    if run_id:
        run = get_run(tx, project, run_id)
        if run.version != subject.id or run.version_digest != subject.digest:
            raise InvalidArgumentError(f"evaluation {run.id} is not of {subject.ref}", "runs")
        if run.repeat != repeat:
            what = "no second run" if repeat else "a second run, and evidence of nothing else"
            raise InvalidArgumentError(f"evaluation {run.id} is {what}", "runs")
        return run
    query = select(EvalRunRecord).where(
        EvalRunRecord.project == project,
        EvalRunRecord.version == subject.id,
        EvalRunRecord.shard == policy.shard,
        EvalRunRecord.repeat == repeat,
    )
    for run in tx.session.exec(query.order_by(desc(EvalRunRecord.seq))).all():
        if subject.template_digest:
            fits = run.template == "own"
        else:
            fits = run.template.startswith("version:") and run.template_digest == template_digest
        if fits and all(run.suites.get(name) == digest for name, digest in suites.items()):
            return run
    return None
