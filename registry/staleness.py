"""Whether a verdict is about what there is now: its policy, suites, scorers and champion. Changes nothing.

A promotion asks inside its transaction; `posttrain gate show` asks for whoever wants to know before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from posttrain.evals.errors import PolicyError
from posttrain.evals.policy import Policy
from posttrain.evals.report import ReasonCode
from posttrain.evals.rows import read_header
from posttrain.evals.scorers import scorer_digest
from posttrain.registry.errors import NotFoundError, Unmet
from posttrain.registry.evaluations import get_run
from posttrain.registry.suites import list_suites
from posttrain.registry.tables import AliasRecord, EvalRunRecord, GateRunRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import version_by_id

STALE: ReasonCode = "STALE"


def stale_items(tx: TransactionBase, gate: GateRunRecord, policies: Callable[[str], Policy]) -> list[Unmet]:
    """What a verdict does not know of; empty: it is of today. `policies` gives the policy in force by its name."""
    runs = [gate.candidate_run, *(item["eval_run"] for item in gate.baselines), gate.repeat_run]
    used = [get_run(tx, gate.project, run) for run in runs if run]
    found = [*_policy(gate, policies), *_champion(tx, gate), *_suites(tx, gate, used), *_scorers(tx, gate, used)]
    return [Unmet(STALE, subject, message) for subject, message in found]


def _policy(gate: GateRunRecord, policies: Callable[[str], Policy]) -> Iterator[tuple[str, str]]:
    try:
        policy = policies(gate.policy)
    except PolicyError as error:
        yield gate.policy, f"policy {gate.policy} is not in force: {error}"
        return
    if (policy.name, policy.digest) != (gate.policy, gate.policy_digest):
        yield gate.policy, f"policy {gate.policy} has changed since {gate.id}"


def _champion(tx: TransactionBase, gate: GateRunRecord) -> Iterator[tuple[str, str]]:
    model = version_by_id(tx, gate.version).model
    current = tx.session.get(AliasRecord, (gate.project, model, gate.alias))
    champion = version_by_id(tx, current.version) if current else None
    judged = next((item["digest"] for item in gate.baselines if item["name"] == "champion"), "")
    if judged != (champion.digest if champion else ""):
        now = champion.ref if champion else "nothing"
        yield gate.id, f"the alias now names {now}, which {gate.id} did not judge against"


def _suites(tx: TransactionBase, gate: GateRunRecord, used: list[EvalRunRecord]) -> Iterator[tuple[str, str]]:
    registered = {suite.name: suite.digest for suite in list_suites(tx, gate.project)}
    for name in sorted({name for run in used for name in run.suites}):
        if any(run.suites.get(name, registered.get(name)) != registered.get(name) for run in used):
            yield name, f"suite {name} is not what the evaluations of {gate.id} ran"


def _scorers(tx: TransactionBase, gate: GateRunRecord, used: list[EvalRunRecord]) -> Iterator[tuple[str, str]]:
    """Of rows that cannot be read nothing is said here: whoever hashes them says what is wrong."""
    for run in used:
        try:
            header = read_header(tx.artifacts.path(run.rows_digest))
        except (NotFoundError, FileNotFoundError, ValueError):
            continue
        if header.scorer_digest != scorer_digest():
            yield run.id, f"the scorers have changed since {run.id} was scored: evaluate again (answers are cached)"
