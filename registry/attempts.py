"""Attempts: how often a lineage has seen the questions that it is judged by. One number for each, never given twice.

A lineage is everything that could be one line of a model under other names: versions of one name, versions that came
from one another, and versions of equal weights, whatever their project. An attempt is an evaluation of one of them on
questions of the shard, counted when its rows are recorded, whether anybody judges them or not; the first verdict over
these rows has the evaluation's number, and each other verdict over them (another policy, alias or baseline) draws one
of its own, in the transaction that records it. Not counted: rows that are there already, byte for byte; an import
without a template, which no gate passes; a second run (of a noise floor) of a version that was counted before; and a
baseline that a chain evaluates, if it was counted before or is an import.

Two suites count together if their shards share a question, whatever they are called. Numbers are kept in records that
the database neither changes nor deletes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import col, desc, select

from posttrain.evals.errors import SuiteError
from posttrain.evals.policy import Policy
from posttrain.evals.rows import messages_digest
from posttrain.evals.suites.load import load_suite
from posttrain.registry.chains import ChainOperations
from posttrain.registry.errors import NotFoundError, TamperedError
from posttrain.registry.lineage import VERSION_KINDS
from posttrain.registry.tables import (
    EdgeRecord,
    EvalRunRecord,
    GateRunRecord,
    ShardLookRecord,
    SuiteRecord,
    VersionRecord,
)
from posttrain.registry.transaction import TransactionBase

_QUESTIONS: dict[tuple[str, str], frozenset[str]] = {}  # (suite's digest, shard): a digest's content never changes


@dataclass(frozen=True)
class Attempt:
    """The number of a verdict. `drawn` has a new number for each suite; empty: the number was there before."""

    number: int
    drawn: Mapping[str, int]


def next_attempt(
    tx: TransactionBase,
    policy: Policy,
    alias: str,
    version: VersionRecord,
    run: EvalRunRecord,
    others: Mapping[str, EvalRunRecord],
) -> Attempt | None:
    """Which attempt a verdict over `run` is, given the runs of the other sides. None: the policy has no budget.

    The same inputs again have the number that they had.
    """
    if policy.attempts is None:
        return None
    judged = _judged(tx, run)
    given = {name: other.rows_digest for name, other in others.items()}
    for gate in judged:
        if (gate.alias, gate.policy_digest) == (alias, policy.digest) and _sides(tx, gate) == given:
            return Attempt(gate.attempt, {})
    names = [name for name in policy.suites if name in run.suites] or list(run.suites)
    look = look_of(tx, run.rows_digest)
    if look is not None and not judged:
        return Attempt(max(look.numbers[name] for name in names), {})
    drawn = _draw(tx, version, run.shard, {name: run.suites[name] for name in names})
    return Attempt(max(drawn.values()), drawn)


def keep_attempt(
    tx: TransactionBase, version: VersionRecord, run: EvalRunRecord, gate: GateRunRecord, found: Attempt | None
) -> None:
    """Records the numbers that a verdict has drawn, in the transaction that records the verdict."""
    if found is not None and found.drawn:
        _add(tx, version, run, dict(found.drawn), gate.id)


def count_evaluation(tx: ChainOperations, version: VersionRecord, run: EvalRunRecord) -> None:
    """Counts recorded rows as an attempt, in the transaction that records them, unless they are none."""
    is_raw = version.parent is None and not version.template_digest
    if is_raw or look_of(tx, run.rows_digest) is not None:
        return
    looks = tx.session.exec(select(ShardLookRecord).where(ShardLookRecord.version == version.id)).all()
    if run.repeat and any(_covers(look, run) for look in looks):
        return  # it shows nothing that the first run has not shown, and is no evidence of a candidate
    if _is_baseline(tx, run) and (looks or version.parent is None):
        return
    _add(tx, version, run, _draw(tx, version, run.shard, run.suites), None)


def _covers(look: ShardLookRecord, run: EvalRunRecord) -> bool:
    """Whether the look was at all that the run asks."""
    return look.shard == run.shard and run.suites.items() <= look.suites.items()


def look_of(tx: TransactionBase, rows_digest: str) -> ShardLookRecord | None:
    """The attempt that was counted when these rows were recorded first; None: they were not counted."""
    query = select(ShardLookRecord).where(
        ShardLookRecord.rows_digest == rows_digest, col(ShardLookRecord.gate_run).is_(None)
    )
    return tx.session.exec(query).first()


def _add(
    tx: TransactionBase, version: VersionRecord, run: EvalRunRecord, numbers: dict[str, int], gate_run: str | None
) -> None:
    assert version.id is not None
    tx.add(
        ShardLookRecord(
            project=version.project,
            version=version.id,
            shard=run.shard,
            suites={name: run.suites[name] for name in numbers},
            numbers=numbers,
            rows_digest=run.rows_digest,
            eval_run=run.id,
            gate_run=gate_run,
            created=tx.now,
        )
    )


def _judged(tx: TransactionBase, run: EvalRunRecord) -> list[GateRunRecord]:
    """Counted verdicts over these rows, newest first, whichever evaluation they were read from."""
    query = (
        select(GateRunRecord)
        .join(EvalRunRecord, col(EvalRunRecord.id) == col(GateRunRecord.candidate_run))
        .where(EvalRunRecord.rows_digest == run.rows_digest, GateRunRecord.attempt > 0)
    )
    return list(tx.session.exec(query.order_by(desc(GateRunRecord.seq))).all())


def _sides(tx: TransactionBase, gate: GateRunRecord) -> dict[str, str]:
    """What else a verdict was given: side -> digest of its rows."""
    found = {}
    for item in gate.baselines:
        query = select(EvalRunRecord).where(EvalRunRecord.id == item["eval_run"])
        found[item["name"]] = tx.one(query, f"no evaluation {item['eval_run']}").rows_digest
    if gate.repeat_run:
        query = select(EvalRunRecord).where(EvalRunRecord.id == gate.repeat_run)
        found["repeat"] = tx.one(query, f"no evaluation {gate.repeat_run}").rows_digest
    return found


def _is_baseline(tx: ChainOperations, run: EvalRunRecord) -> bool:
    """Whether a chain had this evaluated for another side than the candidate's."""
    parent = tx.get_job(run.project, run.job).parent_job
    chain = tx.get_chain(parent) if parent else None
    return chain is not None and run.job in chain.eval_jobs.values() and chain.eval_jobs.get("candidate") != run.job


# -- counting ---------------------------------------------------------------------------------------------------------


def _draw(tx: TransactionBase, version: VersionRecord, shard: str, suites: Mapping[str, str]) -> dict[str, int]:
    """The next number for each suite: one more than the lineage's attempts at questions that the suite has."""
    line = line_of(tx, version)
    looks = tx.session.exec(select(ShardLookRecord).where(ShardLookRecord.shard == shard)).all()
    mine = [look for look in looks if look.version in line]
    return {
        name: 1 + sum(any(_is_shared(tx, shard, digest, other) for other in look.suites.values()) for look in mine)
        for name, digest in suites.items()
    }


def line_of(tx: TransactionBase, version: VersionRecord) -> set[int]:
    """Keys of all versions of a version's lineage, itself included."""
    versions = tx.session.exec(select(VersionRecord)).all()
    edges = tx.session.exec(select(EdgeRecord).where(col(EdgeRecord.kind).in_(VERSION_KINDS))).all()
    groups: dict[tuple[str, ...], tuple[str, ...]] = {}

    def root(key: tuple[str, ...]) -> tuple[str, ...]:
        while groups.setdefault(key, key) != key:
            groups[key] = groups[groups[key]]
            key = groups[key]
        return key

    for one in versions:
        me = ("version", one.project, one.ref)
        for other in (("model", one.project, one.model), ("weights", one.weights_digest)):
            groups[root(other)] = root(me)
    for edge in edges:
        groups[root(("version", edge.project, edge.parent))] = root(("version", edge.project, edge.child))
    mine = root(("version", version.project, version.ref))
    return {one.id for one in versions if one.id is not None and root(("version", one.project, one.ref)) == mine}


def _is_shared(tx: TransactionBase, shard: str, suite: str, other: str) -> bool:
    """Whether two suites, by their digests, share a question of a shard. One that cannot be read any more does."""
    if suite == other:
        return True
    try:
        return not _questions(tx, suite, shard).isdisjoint(_questions(tx, other, shard))
    except (SuiteError, TamperedError):
        return True  # a fresh shard is proven, not assumed; and an old suite keeps nobody from evaluating


def _questions(tx: TransactionBase, digest: str, shard: str) -> frozenset[str]:
    found = _QUESTIONS.get((digest, shard))
    if found is None:
        record = tx.session.exec(select(SuiteRecord).where(SuiteRecord.digest == digest)).first()
        if record is None:
            raise NotFoundError(f"no suite with digest {digest}")
        suite = load_suite(tx.artifacts.materialise(record.files) / record.manifest, environment={})
        examples = [example for task in suite.tasks for example in task.examples if example.shard == shard]
        found = frozenset(messages_digest(example.messages, example.tools) for example in examples)
        _QUESTIONS[digest, shard] = found
    return found
