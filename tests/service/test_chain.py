"""The chain train -> register -> evaluate -> gate -> promote, and a service that is killed at each of its steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from posttrain.service.proto import gates_pb2, jobs_pb2, models_pb2

from .asking import GATE, refused, submit, train_spec
from .serving import PROJECT, Server
from .test_jobs import children_of


def versions_of(server: Server, model: str = "bot") -> list[models_pb2.ModelVersion]:
    request = models_pb2.ListModelVersionsRequest(parent=f"{PROJECT}/models/{model}")
    return list(server.models.ListModelVersions(request).versions)


def gate_runs(server: Server) -> list[gates_pb2.GateRun]:
    return list(server.gates.ListGateRuns(gates_pb2.ListGateRunsRequest(parent=PROJECT)).gate_runs)


def promotions(server: Server) -> list[gates_pb2.Promotion]:
    return list(server.promotions.ListPromotions(gates_pb2.ListPromotionsRequest(parent=PROJECT)).promotions)


def aliases(server: Server) -> dict[str, str]:
    found = server.models.ListAliases(models_pb2.ListAliasesRequest(parent=PROJECT)).aliases
    return {alias.alias: alias.version for alias in found}


def set_scores(server: Server, **scores: Any) -> None:
    (server.home / "fake_scores.json").write_text(json.dumps(scores))


def assert_finished_once(server: Server, job: jobs_pb2.Job) -> None:
    """One attempt that counts, one version, one evaluation per side, one verdict, one promotion, one move."""
    done = server.get(job.name)
    assert (done.state, done.chain.step) == (jobs_pb2.SUCCEEDED, jobs_pb2.DONE), done.chain
    assert [version.ref for version in versions_of(server)] == ["bot@1"]
    assert versions_of(server)[0].job == job.name
    children = children_of(server, job)
    assert sorted(
        (child.spec.evaluate.version, child.spec.evaluate.template.WhichOneof("type")) for child in children
    ) == [
        ("bot@1", "own"),
        ("tiny@1", "plain"),
        ("tiny@1", "version"),
    ]
    assert all(child.state == jobs_pb2.SUCCEEDED and child.parent_job == job.name for child in children)
    runs = server.evaluations.ListEvalRuns(gates_pb2.ListEvalRunsRequest(parent=PROJECT)).eval_runs
    assert sorted(run.name for run in runs) == sorted(done.chain.eval_runs)
    assert len(runs) == 3
    (gate,) = gate_runs(server)
    assert (gate.name, gate.verdict, gate.candidate) == (done.chain.gate_run, gates_pb2.PASS, "bot@1")
    assert list(gate.baselines) == ["parent tiny@1"]
    (promotion,) = promotions(server)
    assert (promotion.name, promotion.outcome) == (done.chain.promotion, gates_pb2.Promotion.APPLIED)
    assert promotion.job == job.name
    assert aliases(server) == {"production": "bot@1"}
    history = models_pb2.ListAliasHistoryRequest(name=f"{PROJECT}/models/bot/aliases/production")
    assert len(server.models.ListAliasHistory(history).moves) == 1
    steps = [event.message.split(":")[0] for event in server.events(job.name) if event.type == "chain"]
    assert len(steps) == len(set(steps)), steps


def test_the_whole_chain(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=3", then=GATE))
    assert server.get(job.name).chain.step == jobs_pb2.TRAIN
    done = server.until_chain(job.name, "DONE")
    assert done.chain.version == "bot@1"
    assert_finished_once(server, job)
    version = versions_of(server)[0]
    assert (version.parent, version.relation, version.gate_verdict) == ("tiny@1", "finetune", "PASS")
    assert list(version.aliases) == ["production"]
    lineage = server.models.GetLineage(models_pb2.GetLineageRequest(name=PROJECT))
    kinds = {(edge.parent, edge.child, edge.kind) for edge in lineage.edges}
    assert {
        ("tiny@1", "bot@1", "finetune"),
        ("sums@1", "bot@1", "trained_on"),
        ("sums@1", "bot@1", "evaluated_on"),
    } <= kinds


# Every place where something has been done and is not yet stored, or stored and not yet gone on from.
POINTS = [
    "launch:prepared",
    "launch:launched",
    "exit:before",
    "exit:after",
    "register:begin",
    "register:registered",
    "register:done",
    "evaluate:begin",
    "evaluate:created",
    "evaluate:done",
    "gate:begin",
    "gate:judged",
    "gate:done",
    "promote:begin",
    "promote:recorded",
    "promote:done",
]


# One crash each, where something has been done and not stored; the test after this one crashes at all of them.
@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["launch:launched", "exit:before", "register:registered", "evaluate:created", "gate:judged", "promote:recorded"],
)
def test_a_service_killed_at_any_step_finishes_the_chain_once(serve: Callable[..., Server], point: str) -> None:
    server = serve(fake=True, crash_at=point)
    job = submit(server, train_spec("steps=3", then=GATE))
    server.await_crash()
    server.start()
    server.until_chain(job.name, "DONE", "CHAIN_FAILED")
    assert_finished_once(server, job)
    assert server.get(job.name).attempt == 1, "the training was not begun again"
    launches = list(server.home.glob("jobs/sft-*/attempts/*"))
    assert len(launches) == 1


@pytest.mark.slow
def test_a_service_killed_again_and_again_finishes_the_chain_once(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, crash_at=POINTS[0])
    job = submit(server, train_spec("steps=3", then=GATE))
    for point in POINTS[1:]:
        server.await_crash()
        server.start(crash_at=point)
    server.await_crash()
    server.start()
    server.until_chain(job.name, "DONE", "CHAIN_FAILED")
    assert_finished_once(server, job)


def test_a_second_version_is_judged_against_the_champion(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    first = submit(server, train_spec("steps=1", then=GATE))
    server.until_chain(first.name, "DONE")
    second = submit(server, train_spec("steps=1", seed=1, then=GATE))
    done = server.until_chain(second.name, "DONE")
    assert done.chain.version == "bot@2"
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert list(gate.baselines) == ["champion bot@1", "parent tiny@1"]
    assert (gate.verdict, gate.improved) == (gates_pb2.PASS, False)
    assert "against champion" in gate.explanation
    assert aliases(server) == {"production": "bot@2"}
    # From an instruct parent that is champion too: one evaluation serves both, and nobody is asked a plain prompt.
    third = submit(server, train_spec("steps=1", base="bot@production", then=GATE))
    assert third.spec.sft.base == "bot@2"
    server.until_chain(third.name, "DONE")
    asked = [child.spec.evaluate.version for child in children_of(server, third)]
    assert sorted(asked) == ["bot@2", "bot@3"]
    rolled = server.models.RollbackAlias(
        models_pb2.RollbackAliasRequest(name=f"{PROJECT}/models/bot/aliases/production", reason="worse in the wild")
    )
    assert (rolled.version, rolled.promotion) == ("bot@2", "")


def test_a_bad_candidate_is_refused_and_stays_on_record(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    set_scores(server, **{"bot@1": 0.0})
    job = submit(server, train_spec("steps=1", then=GATE))
    done = server.until_chain(job.name, "DONE")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert gate.verdict == gates_pb2.FAIL
    (promotion,) = promotions(server)
    assert promotion.outcome == gates_pb2.Promotion.REFUSED
    assert {item.code for item in promotion.missing} >= {"FAIL", "FLOOR"}
    assert aliases(server) == {}
    assert "refused" in done.chain.message
    # By hand it is refused too, item by item, and that is on record as well.
    request = gates_pb2.CreatePromotionRequest(parent=PROJECT, version="bot@1", alias="production", reason="please")
    with refused() as said:
        server.promotions.CreatePromotion(request)
    assert (said.code, said.reason) == ("FAILED_PRECONDITION", "PROMOTION_REFUSED")
    assert ("FLOOR", "sums/sums") in {(kind, subject) for kind, subject, _ in said.unmet}
    assert said.metadata["promotion"].startswith("promotion-")
    assert len(promotions(server)) == 2
    assert aliases(server) == {}


def test_no_evidence_no_promotion(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    request = gates_pb2.CreatePromotionRequest(parent=PROJECT, version="tiny@1", alias="production")
    for asked in (request, gates_pb2.CreatePromotionRequest(**{**_fields(request), "validate_only": True})):
        if asked.validate_only:
            planned = server.promotions.CreatePromotion(asked)
            assert planned.outcome == gates_pb2.Promotion.REFUSED
            continue
        with refused() as said:
            server.promotions.CreatePromotion(asked)
        assert [(kind, subject) for kind, subject, _ in said.unmet] == [("NO_GATE_RUN", "tiny@1")]
    assert len(promotions(server)) == 1
    with refused() as said:
        server.gates.CreateGateRun(gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate="tiny@1", policy="tiny"))
    assert said.code == "FAILED_PRECONDITION"
    assert said.unmet[0][0] == "NO_EVIDENCE"
    with refused() as said:
        server.gates.CreateGateRun(gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate="tiny@1", policy="../x"))
    assert (said.code, said.reason) == ("INVALID_ARGUMENT", "BAD_POLICY")


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def test_a_failed_evaluation_fails_the_chain_and_says_why(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"workers": 3})
    set_scores(server, **{"bot@1": "fail"})
    job = submit(server, train_spec("steps=1", then=GATE))
    done = server.until_chain(job.name, "CHAIN_FAILED")
    assert "evaluation of the candidate" in done.chain.message
    assert "as the test says" in done.chain.message
    assert [version.ref for version in versions_of(server)] == ["bot@1"], "what was trained is kept"
    assert promotions(server) == []
    for child in children_of(server, job):
        server.until(child.name, "SUCCEEDED", "FAILED", "CANCELLED")


def test_the_champion_changes_while_a_chain_evaluates(serve: Callable[..., Server]) -> None:
    """A chain that began without a champion is judged against the one that there is when it is judged."""
    server = serve(fake=True, settings={"workers": 4})
    hold = server.home / "hold"
    hold.write_text("bot@1")
    slow = submit(server, train_spec("steps=1", then=GATE))
    server.until_chain(slow.name, "EVALUATE")
    quick = submit(server, train_spec("steps=1", seed=1, then=GATE))
    assert server.until_chain(quick.name, "DONE").chain.version == "bot@2"
    assert aliases(server) == {"production": "bot@2"}
    assert server.get(slow.name).chain.step == jobs_pb2.EVALUATE
    hold.unlink()
    done = server.until_chain(slow.name, "DONE")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert list(gate.baselines) == ["champion bot@2", "parent tiny@1"]
    assert sorted(child.spec.evaluate.version for child in children_of(server, slow)) == [
        "bot@1",
        "bot@2",
        "tiny@1",
        "tiny@1",
    ]


def test_a_failed_training_ends_its_chain(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=2 fail=NON_FINITE", then=GATE))
    done = server.until(job.name, "FAILED")
    assert (done.error.code, done.termination_reason) == ("NON_FINITE", "NON_FINITE")
    assert done.chain.step == jobs_pb2.CHAIN_FAILED
    assert "NON_FINITE" in done.chain.message
    assert versions_of(server) == []
