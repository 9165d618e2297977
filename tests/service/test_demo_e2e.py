"""The issue's claims about `posttrain demo`, on the real service, model and data. Minutes long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.service.cli.exits import Exit
from posttrain.service.cli.settings import Settings
from posttrain.service.cli.spawn import running_server
from posttrain.service.client import Client
from posttrain.service.proto import gates_pb2

pytestmark = pytest.mark.slow
SUITES = {"instruction_following", "conversation", "reasoning", "refusal", "tool_use"}


def demo(home: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Runs it from a folder that is not the repository, as an installed program is."""
    command = [sys.executable, "-m", "posttrain.service.cli", "demo", "--json", "--home", str(home), *options]
    done = subprocess.run(command, cwd=home.parent, capture_output=True, text=True, timeout=1800)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def first(home: Path) -> tuple[int, dict[str, Any]]:
    return demo(home)


@pytest.fixture(scope="module")
def second(home: Path, first: object) -> tuple[int, dict[str, Any]]:
    return demo(home)


@pytest.fixture(scope="module")
def sabotaged(home: Path, second: object) -> tuple[int, dict[str, Any]]:
    return demo(home, "--sabotage")


def production(home: Path) -> str:
    with running_server(Settings(home)) as (address, _), Client(address) as client:
        aliases = {alias.alias: alias.version for alias in client.list_aliases("tiny-instruct")}
    return aliases.get("production", "")


def test_a_base_becomes_a_promoted_instruct_model(first: tuple[int, dict[str, Any]]) -> None:
    code, record = first
    assert (code, record["verdict"], record["promotion"]) == (Exit.OK, "PASS", "APPLIED"), record
    assert (record["base"], record["candidate"]) == ("tiny-base@1", "tiny-instruct@1")
    assert set(record["suites"]) == SUITES
    for name, entry in record["suites"].items():
        assert entry["interval"][0] > (0.40 if name == "instruction_following" else 0.0), (name, entry)
        assert entry["against"].startswith("parent")
        assert entry["n"] >= 500
    assert all(seconds > 0 for seconds in record["seconds"].values())


def test_a_second_run_is_judged_against_the_first(home: Path, second: tuple[int, dict[str, Any]]) -> None:
    _, record = second
    assert record["candidate"] == "tiny-instruct@2"
    assert "champion tiny-instruct@1" in record["baselines"]
    with running_server(Settings(home)) as (address, _), Client(address) as client:
        one, two = client.get_model("tiny-instruct@1"), client.get_model("tiny-instruct@2")
        gate_run = client.get_gate_run(record["records"]["gate_run"])
    assert one.job != two.job == record["records"]["job"]
    assert one.digest != two.digest, "each has its own job in its manifest"
    blobs = [{file.sha256 for file in version.files} for version in (one, two)]
    assert blobs[0] & blobs[1], "files that are equal are stored once"
    assert one.weights_digest == two.weights_digest, "the same machine, task and seed: the same weights"
    champion = [result for result in gate_run.suites if result.baseline_name.startswith("champion")]
    assert {result.metric for result in champion} == SUITES
    assert all(result.difference == 0 for result in champion)
    assert not gate_run.improved, "equal weights are no improvement"


def test_a_bad_candidate_is_blocked(
    home: Path, second: tuple[int, dict[str, Any]], sabotaged: tuple[int, dict[str, Any]]
) -> None:
    code, record = sabotaged
    assert code in {Exit.GATE_FAIL, Exit.INCONCLUSIVE}
    assert record["verdict"] in {"FAIL", "INCONCLUSIVE"}
    assert record["promotion"] == "REFUSED"
    assert record["reasons"]
    assert all(reason["code"] and reason["message"] for reason in record["reasons"])
    before = second[1]["candidate"] if second[1]["promotion"] == "APPLIED" else "tiny-instruct@1"
    assert production(home) == before, "the alias has not moved"
    with running_server(Settings(home)) as (address, _), Client(address) as client:
        refused = client.get_promotion(record["records"]["promotion"])
        listed = client.list_promotions("tiny-instruct")
    assert refused.outcome == gates_pb2.Promotion.REFUSED
    assert refused.version == record["candidate"] == "tiny-instruct@3"
    assert refused.missing
    assert refused.name in {promotion.name for promotion in listed}
