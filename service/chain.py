"""The chain after a training job: register, evaluate, gate, promote. Each step is stored before the next begins.

    REGISTER   the output becomes a version (once per job)
    EVALUATE   child jobs: the candidate, its parent, the alias's champion, the ancestor that the policy pins; all
               are made in one transaction
    GATE       a verdict over the children's rows (once per inputs)
    PROMOTE    a promotion is asked for whatever the verdict, so that a refusal is on record too (once per job)

Every call into the registry is idempotent and every step is a compare-and-swap, so a server that dies anywhere finishes
the chain once, and a cancel wins or loses as a whole. A version that has no template of its own (a base) is evaluated
under the candidate's, and a sample once more by a plain few-shot prompt, which is kept on record and decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from posttrain.engine.errors import EngineError
from posttrain.engine.spec import (
    EvalTemplate,
    EvaluateSpec,
    OwnEvalTemplate,
    PlainEvalTemplate,
    ThenGate,
    TrainSpec,
    VersionEvalTemplate,
    parse_spec,
    spec_digest,
)
from posttrain.engine.task import CHECKPOINTS_FOLDER, OUTPUT_FOLDER, TrainTask, read_assignment
from posttrain.evals.policy import Policy
from posttrain.evals.suites.load import read_manifest
from posttrain.registry import evaluations, evidence, gates, promotion, suites, versions
from posttrain.registry.errors import ConflictError, InvalidArgumentError, UnmetError
from posttrain.registry.store import Transaction
from posttrain.registry.tables import AliasRecord, ChainRecord, JobRecord, VersionRecord
from posttrain.service import lifecycle, states
from posttrain.service.core import Core
from posttrain.service.errors import ChainError
from posttrain.service.loops import IDLE_S, StoreLoop
from posttrain.service.states import JobEvent

ACTOR = "chain"
MAX_SURPRISES = 5
REPEAT = "repeat"  # a second run of the side that the policy's noise floor names
SIDES = ("candidate", REPEAT, *evidence.BASELINES)
PLAIN = "parent_plain"
PLAIN_MAX_ROWS = 100  # stratified, per task: enough to tell a lack of skill from an untrained template
log = logging.getLogger(__name__)


class ChainRunner:
    """Brings the chain of one job to its end."""

    def __init__(self, core: Core, project: str, job_id: str) -> None:
        self._core = core
        self._project = project
        self._id = job_id
        self._point = core.settings.point

    async def run(self) -> None:
        while True:
            ticket = self._core.bell.ticket()
            job, chain = await self._core.read(self._read)
            if chain is None or chain.step == "TRAIN" or chain.step in lifecycle.CHAIN_OVER:
                return
            self._point(f"{chain.step.lower()}:begin")
            try:
                idle = await self._step(job, chain)
            except ConflictError:
                continue  # the chain, or the alias, moved meanwhile: look again
            if idle:
                await self._core.bell.wait(ticket, IDLE_S)

    def _read(self, tx: Transaction) -> tuple[JobRecord, ChainRecord | None]:
        return tx.get_job(self._project, self._id), tx.get_chain(self._id)

    async def _step(self, job: JobRecord, chain: ChainRecord) -> bool:
        """Does the next thing; whether there was nothing to do but wait."""
        spec = parse_spec(json.loads(job.spec_json))
        assert isinstance(spec, TrainSpec)
        if chain.step == "REGISTER":
            await self._register(job, chain, spec.then if isinstance(spec.then, ThenGate) else None)
            return False
        assert isinstance(spec.then, ThenGate)
        policy = await self._core.thread(self._core.policy, spec.then.policy)
        if chain.step == "EVALUATE":
            return await self._evaluate(job, chain, spec, spec.then, policy)
        if chain.step == "GATE":
            await self._gate(chain, spec.then, policy)
        else:
            await self._promote(chain, spec.then)
        return False

    async def _swap(self, chain: ChainRecord, **changes: Any) -> None:
        after = await self._core.write(lambda tx: tx.swap_chain(chain.job, chain.version, changes), ACTOR)
        log.info("chain step", extra={"job": chain.job, "step": after.step, "note": after.message})
        self._point(f"{chain.step.lower()}:done")

    # -- steps --------------------------------------------------------------------------------------------------------

    async def _register(self, job: JobRecord, chain: ChainRecord, then: ThenGate | None) -> None:
        folder = lifecycle.attempt_folder(self._core.home, job.id, job.attempt)
        task = read_assignment(folder)
        assert isinstance(task, TrainTask)
        version = await self._core.thread(
            versions.register_trained, self._core.store, self._project, task, folder / OUTPUT_FOLDER, actor=ACTOR
        )
        self._point("register:registered")
        await self._swap(chain, step="EVALUATE" if then else "DONE", model_version=version.ref, message="")
        # The store has it now; the attempts' copies would only fill the disk.
        for number in range(1, job.attempt + 1):
            attempt = lifecycle.attempt_folder(self._core.home, job.id, number)
            for name in (OUTPUT_FOLDER, CHECKPOINTS_FOLDER):
                await self._core.thread(shutil.rmtree, attempt / name, ignore_errors=True)

    async def _evaluate(
        self, job: JobRecord, chain: ChainRecord, spec: TrainSpec, then: ThenGate, policy: Policy
    ) -> bool:
        def begin(tx: Transaction) -> ChainRecord:
            wanted = self._wanted(tx, chain, spec, then, policy, num_shots)
            made = {side: self._child(tx, job, child) for side, child in wanted.items()}
            return tx.swap_chain(chain.job, chain.version, {"eval_jobs": made, "message": "evaluating"})

        if not chain.eval_jobs:
            num_shots = await self._core.thread(self._num_shots, then.suites)
            await self._core.write(begin, ACTOR)
            self._point("evaluate:created")
            return False
        children = await self._core.read(
            lambda tx: {side: tx.get_job(self._project, child) for side, child in chain.eval_jobs.items()}
        )
        for side, child in children.items():
            if child.state in (states.FAILED, states.CANCELLED):
                why = child.error.get("message") or child.termination_reason
                raise ChainError(f"the evaluation of the {side} ({child.id}) is {child.state}: {why}")
        if any(child.state not in states.TERMINAL for child in children.values()):
            return True
        first = chain.eval_jobs.get(policy.noise_floor.of, "") if policy.noise_floor else ""
        if first and REPEAT not in chain.eval_jobs:
            # After the others: as an attempt the second run of a candidate counts with the first (attempts.py).
            await self._core.write(lambda tx: self._repeat(tx, job, chain, first), ACTOR)
            self._point("evaluate:repeated")
            return False
        runs = await self._core.read(lambda tx: self._runs(tx, chain))
        await self._swap(chain, step="GATE", eval_runs=list(dict.fromkeys(runs.values())), message="")
        return False

    async def _gate(self, chain: ChainRecord, then: ThenGate, policy: Policy) -> None:
        runs = await self._core.read(lambda tx: self._runs(tx, chain))
        champion = await self._core.read(lambda tx: self._champion_of(tx, chain, then))
        now = {"champion": champion, "ancestor": policy.ancestor or ""}
        before = await self._core.read(lambda tx: {side: self._judged(tx, chain, side) for side in now})
        changed = [side for side in now if now[side] != before[side]]
        if changed:
            # Somebody was promoted while this chain evaluated, or the policy pins another version: judge against those.
            message = f"the {' and the '.join(changed)} has changed"
            await self._swap(chain, step="EVALUATE", eval_jobs={}, eval_runs=[], message=message)
            return
        sides = {side: run for side, run in runs.items() if side in SIDES}
        try:
            gate = await self._core.thread(
                gates.create_gate_run,
                self._core.store, self._project, chain.model_version, policy, then.alias, runs=sides, actor=ACTOR,
            )  # fmt: skip
        except (UnmetError, InvalidArgumentError) as error:
            if champion != await self._core.read(lambda tx: self._champion_of(tx, chain, then)):
                raise ConflictError("the champion has changed") from error
            raise
        self._point("gate:judged")
        self._core.metrics.verdicts.labels(gate.verdict).inc()
        await self._swap(chain, step="PROMOTE", gate_run=gate.id, message=f"verdict {gate.verdict}")

    async def _promote(self, chain: ChainRecord, then: ThenGate) -> None:
        record = await self._core.thread(
            promotion.promote,
            self._core.store, self._project, chain.model_version, then.alias, gate_run=chain.gate_run,
            reason=f"chain of job {chain.job}", job=chain.job, actor=ACTOR, policies=self._core.policy,
        )  # fmt: skip
        self._point("promote:recorded")
        self._core.metrics.promotions.labels(record.outcome).inc()
        missing = "; ".join(dict.fromkeys(item["message"] for item in record.missing))[:500]
        message = f"{then.alias} names {chain.model_version}" if record.outcome == "APPLIED" else f"refused: {missing}"
        await self._swap(chain, step="DONE", promotion=record.id, message=message)

    # -- evaluations --------------------------------------------------------------------------------------------------

    def _wanted(
        self,
        tx: Transaction,
        chain: ChainRecord,
        spec: TrainSpec,
        then: ThenGate,
        policy: Policy,
        num_shots: int,
    ) -> dict[str, EvaluateSpec]:
        """What to evaluate, by side."""
        candidate = versions.get_version(tx, self._project, chain.model_version)
        sides: dict[str, VersionRecord] = {"candidate": candidate}
        if candidate.parent is not None:
            sides["parent"] = versions.version_by_id(tx, candidate.parent)
        champion = self._champion_of(tx, chain, then)
        if champion:
            sides["champion"] = versions.get_version(tx, self._project, champion)
        ancestor = evidence.pinned_ancestor(tx, self._project, policy, candidate.ref)
        if ancestor is not None:
            sides["ancestor"] = ancestor
        wanted: dict[str, EvaluateSpec] = {}

        def ask(side: str, version: VersionRecord, template: EvalTemplate, max_rows: int = 0) -> None:
            what = f"{version.ref} for {candidate.ref}{', plain prompt' if max_rows else ''}"
            wanted[side] = EvaluateSpec(
                display_name=what, version=version.ref, suites=then.suites, template=template, shard=policy.shard,
                max_rows=max_rows, dtype=spec.dtype, timeout_s=spec.timeout_s,
            )  # fmt: skip

        for side, version in sides.items():
            if version.template_digest:
                ask(side, version, OwnEvalTemplate())
            else:
                ask(side, version, VersionEvalTemplate(version=candidate.ref))
        if "parent" in sides and not sides["parent"].template_digest:
            ask(PLAIN, sides["parent"], PlainEvalTemplate(num_shots=num_shots), PLAIN_MAX_ROWS)
        return wanted

    def _repeat(self, tx: Transaction, job: JobRecord, chain: ChainRecord, first: str) -> ChainRecord:
        """The same evaluation once more, each answer generated anew."""
        spec = parse_spec(json.loads(tx.get_job(self._project, first).spec_json))
        again = spec.model_copy(update={"repeat": True, "display_name": f"{spec.display_name}, second run"[:200]})
        assert isinstance(again, EvaluateSpec)
        made = {**chain.eval_jobs, REPEAT: self._child(tx, job, again)}
        return tx.swap_chain(chain.job, chain.version, {"eval_jobs": made, "message": "evaluating a second time"})

    def _num_shots(self, suite_names: list[str]) -> int:
        """As many worked examples as a plain prompt wants and every suite has."""
        found = [PlainEvalTemplate().num_shots]
        for name in suite_names:
            given = suites.suite_input(self._core.store, self._project, name)
            found += [len(task.shots) for task in read_manifest(Path(given.manifest)).tasks]
        return min(found)

    def _child(self, tx: Transaction, job: JobRecord, spec: EvaluateSpec) -> str:
        """The child job for a spec, made once: a version on two sides, like a parent that is champion, shares it."""
        key = f"chain:{job.id}:{spec_digest(spec)}"
        child = tx.create_job(self._project, spec, request_id=key, parent_job=job.id)
        if child.state == states.VALIDATING:
            child = lifecycle.move(tx, child, JobEvent.ACCEPTED, "accept")
        return child.id

    def _runs(self, tx: Transaction, chain: ChainRecord) -> dict[str, str]:
        found = {}
        for side, child in chain.eval_jobs.items():
            run = evaluations.run_of_job(tx, child)
            if run is None:
                raise ChainError(f"job {child} left no evaluation")
            found[side] = run.id
        return found

    def _champion_of(self, tx: Transaction, chain: ChainRecord, then: ThenGate) -> str:
        """Whom the alias names now, as a ref; empty: nobody."""
        model = chain.model_version.partition("@")[0]
        alias = tx.session.get(AliasRecord, (self._project, model, then.alias))
        return versions.version_by_id(tx, alias.version).ref if alias else ""

    def _judged(self, tx: Transaction, chain: ChainRecord, side: str) -> str:
        """The version that this chain evaluated for a side, as a ref; empty: none."""
        child = chain.eval_jobs.get(side, "")
        return str(json.loads(tx.get_job(self._project, child).spec_json)["version"]) if child else ""


async def run_chain(core: Core, project: str, job_id: str) -> None:
    """Runs a chain to its end. What a retry may heal is tried again, more and more slowly; the rest ends the chain."""
    delay_s, surprises = 0.5, 0
    while True:
        try:
            await ChainRunner(core, project, job_id).run()
            return
        except EngineError as error:
            log.error("chain error", extra={"job": job_id, "code": error.code, "error": str(error)})
            if not error.retryable and await _give_up(core, project, job_id, error.code, f"{error.code}: {error}"):
                return
        except Exception:
            surprises += 1
            log.exception("chain error", extra={"job": job_id})
            core.metrics.loop_errors.labels("chain").inc()
            if surprises >= MAX_SURPRISES and await _give_up(core, project, job_id, "INTERNAL", "see the server's log"):
                return
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 30.0)


async def _give_up(core: Core, project: str, job_id: str, code: str, message: str) -> bool:
    """Ends a chain and its evaluations; False if that could not be stored now."""

    def end(tx: Transaction) -> None:
        chain = tx.get_chain(job_id)
        if chain is None or chain.step in lifecycle.CHAIN_OVER:
            return
        lifecycle.end_chain(tx, tx.get_job(project, job_id), chain, message[:1000])

    try:
        await core.write(end, ACTOR)
    except EngineError as error:
        log.error("a chain's end could not be stored", extra={"job": job_id, "code": code, "error": str(error)})
        return False
    return True


class Chains(StoreLoop):
    """Runs every open chain whose training is over; the next server takes them up where they stand."""

    NAME = "chains"

    async def tick(self) -> None:
        chains = await self._core.read(lambda tx: tx.open_chains())
        for chain in chains:
            if chain.step != "TRAIN" and chain.job not in self._tasks:
                work = run_chain(self._core, chain.project, chain.job)
                self._tasks[chain.job] = asyncio.create_task(work, name=f"chain {chain.job}")
