"""What a policy asks for beside parent and champion, through the real service with scripted workers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.service.proto import gates_pb2, jobs_pb2

from .asking import GATE, refused, submit, train_spec
from .conftest import POLICY
from .serving import PROJECT, Server
from .test_chain import aliases, gate_runs, promotions, set_scores
from .test_jobs import children_of

pytestmark = pytest.mark.slow

PINNED = """
name: tiny
version: 2
ancestor: ANCESTOR
metrics:
  - suite: sums
    metric: sums
    min_rows: 10
    min_clusters: 10
    max_truncated: 1.0
    rules:
      - {type: floor, at_least: 0.5}
      - {type: improve, over: ancestor, by: 0.1}
"""


def set_policy(server: Server, text: str) -> None:
    (server.home / "policies" / "tiny.yaml").write_text(text)


def test_a_pinned_ancestor_is_evaluated_and_judged(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    first = submit(server, train_spec("steps=1", then=GATE))
    assert server.until_chain(first.name, "DONE").chain.version == "bot@1"
    set_policy(server, PINNED.replace("ANCESTOR", "tiny@1"))
    second = submit(server, train_spec("steps=1", base="bot@1", then=GATE))
    done = server.until_chain(second.name, "DONE")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert list(gate.baselines) == ["ancestor tiny@1", "champion bot@1", "parent bot@1"]
    assert gate.verdict == gates_pb2.PASS
    asked = sorted(
        (child.spec.evaluate.version, child.spec.evaluate.template.version.version)
        for child in children_of(server, second)
    )
    assert asked == [("bot@1", ""), ("bot@2", ""), ("tiny@1", "bot@2")]
    assert aliases(server) == {"production": "bot@2"}


def test_an_ancestor_that_is_none_is_said_before_training(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    first = submit(server, train_spec("steps=1", then=GATE))
    server.until_chain(first.name, "DONE")
    for pinned, what in (("bot@1", "tiny@1 did not come from it"), ("bot@7", "there is no such version")):
        set_policy(server, PINNED.replace("ANCESTOR", pinned))
        with refused() as said:
            submit(server, train_spec("steps=1", then=GATE))
        assert what in said.fields["then.policy"]
        if pinned == "bot@1":  # the base itself is what the candidate will come from
            submit(server, train_spec("steps=1", base="bot@1", then=GATE), validate_only=True)
    with refused() as said:
        server.gates.CreateGateRun(gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate="bot@1", policy="tiny"))
    assert (said.code, said.reason) == ("INVALID_ARGUMENT", "INVALID")
    with refused() as said:
        submit(server, train_spec("steps=1", base="nope@1", then=GATE))
    assert set(said.fields) == {"base"}, "one mistake is one message"


def test_the_policy_pins_another_version_while_a_chain_evaluates(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"workers": 4})
    first = submit(server, train_spec("steps=1", then=GATE))
    server.until_chain(first.name, "DONE")
    set_policy(server, PINNED.replace("ANCESTOR", "bot@1"))
    hold = server.home / "hold"
    hold.write_text("bot@2")
    slow = submit(server, train_spec("steps=1", base="bot@1", then=GATE))
    server.until_chain(slow.name, "EVALUATE")
    server.wait(lambda: children_of(server, slow), "its evaluations")
    set_policy(server, PINNED.replace("ANCESTOR", "tiny@1").replace("version: 2", "version: 3"))
    hold.unlink()
    done = server.until_chain(slow.name, "DONE", "CHAIN_FAILED")
    assert done.chain.step == jobs_pb2.DONE, done.chain.message
    assert [item for item in gate_runs(server)[0].baselines if "ancestor" in item] == ["ancestor tiny@1"]


# -- attempts ----------------------------------------------------------------------------------------------------------

BUDGET = POLICY.replace("version: 1", "version: 2\nattempts: {budget: 2}")


def test_attempts_are_counted_over_names_and_kills_and_shown(serve: Callable[..., Server]) -> None:
    """A service that dies between evaluating and judging, an output that is renamed, a verdict for another alias."""
    server = serve(fake=True, crash_at="gate:begin")
    set_policy(server, BUDGET)
    first = submit(server, train_spec("steps=1", then=GATE))
    server.await_crash()
    server.start()
    done = server.until_chain(first.name, "DONE")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert (gate.attempt, gate.attempts_budget, gate.verdict) == (1, 2, gates_pb2.PASS), "neither base nor kill counts"
    assert "attempt    1 of 2, one-sided level 0.0250" in gate.explanation
    second = submit(server, train_spec("steps=1", seed=1, output="other", then=GATE))
    done = server.until_chain(second.name, "DONE")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert (gate.attempt, gate.verdict) == (2, gates_pb2.PASS)
    third = submit(server, train_spec("steps=1", seed=2, then=GATE))
    done = server.until_chain(third.name, "DONE")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert (gate.attempt, gate.verdict) == (3, gates_pb2.INCONCLUSIVE), "the champion again is no attempt"
    assert [reason.code for reason in gate.reasons] == ["ATTEMPTS_EXHAUSTED"]
    assert "ATTEMPTS_EXHAUSTED" in {item.code for item in promotions(server)[0].missing}
    by_hand = gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate=gate.candidate, policy="tiny")
    assert server.gates.CreateGateRun(by_hand).name == gate.name, "the same verdict has the same number"
    by_hand.alias = "staging"
    assert server.gates.CreateGateRun(by_hand).attempt == 4


# -- the noise floor ---------------------------------------------------------------------------------------------------

NOISE = """
name: tiny
version: 2
noise_floor: {of: candidate}
attempts: {budget: 5}
metrics:
  - suite: sums
    metric: sums
    min_rows: 10
    min_clusters: 10
    max_truncated: 1.0
    rules:
      - {type: floor, at_least: 0.5}
      - {type: noninferior, to: champion, margin: 0.3}
"""


def test_the_chain_makes_the_second_run(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, crash_at="evaluate:repeated")
    set_policy(server, NOISE)
    set_scores(server, **{"bot@2 again": 0.4})
    first = submit(server, train_spec("steps=1", then=GATE))
    server.await_crash()
    server.start()
    done = server.until_chain(first.name, "DONE", "CHAIN_FAILED")
    assert done.chain.step == jobs_pb2.DONE, done.chain.message
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert (gate.verdict, gate.attempt) == (gates_pb2.PASS, 1), "the second run is no attempt of its own"
    again = server.evaluations.GetEvalRun(gates_pb2.GetEvalRunRequest(name=gate.repeat_run))
    assert (again.version, again.repeat) == ("bot@1", True)
    assert again.name in gate.eval_runs
    assert again.name in done.chain.eval_runs
    assert sum(child.spec.evaluate.repeat for child in children_of(server, first)) == 1
    second = submit(server, train_spec("steps=1", seed=1, then=GATE))
    done = server.until_chain(second.name, "DONE", "CHAIN_FAILED")
    gate = server.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert [reason.code for reason in gate.reasons] == ["NOISE_FLOOR"], "60 points between its runs, and a margin of 30"
    assert gate.attempt == 2
    by_hand = gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate="bot@2", policy="tiny")
    assert server.gates.CreateGateRun(by_hand).name == gate.name


# -- stale -------------------------------------------------------------------------------------------------------------


def test_a_stale_verdict_says_so_and_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=1", then={**GATE, "alias": "staging"}))
    done = server.until_chain(job.name, "DONE")
    verdict = server.gates.CreateGateRun(
        gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate="bot@1", policy="tiny", alias="production")
    )
    show = gates_pb2.GetGateRunRequest(name=verdict.name)
    assert list(server.gates.GetGateRun(show).stale) == []
    set_policy(server, POLICY.replace("0.5", "0.6"))
    assert [(item.code, item.message) for item in server.gates.GetGateRun(show).stale] == [
        ("STALE", f"policy tiny has changed since {verdict.name.rpartition('/')[2]}")
    ]
    with refused() as said:
        server.promotions.CreatePromotion(
            gates_pb2.CreatePromotionRequest(parent=PROJECT, version="bot@1", gate_run=verdict.name)
        )
    assert [(kind, subject) for kind, subject, _ in said.unmet] == [("STALE", "tiny")]
    assert aliases(server) == {"staging": "bot@1"}
    assert done.chain.version == "bot@1"
