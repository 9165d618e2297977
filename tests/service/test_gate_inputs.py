"""What a policy asks for beside parent and champion, through the real service with scripted workers."""

from __future__ import annotations

from collections.abc import Callable

from posttrain.service.proto import gates_pb2, jobs_pb2

from .asking import GATE, refused, submit, train_spec
from .serving import PROJECT, Server
from .test_chain import aliases, gate_runs
from .test_jobs import children_of

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
