"""`posttrain gate explain` and `posttrain gate replay`: without a server, from files and from a data folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.evals.gate import run_gate
from posttrain.evals.policy import load_policy, parse_policy
from posttrain.evals.rows import EvalRun, read_rows, write_rows
from posttrain.registry.store import open_store
from posttrain.registry.tables import GateRunRecord
from posttrain.registry.versions import get_version
from posttrain.service.cli.exits import Exit
from posttrain.service.proto import gates_pb2
from tests.registry.world import FLOOR, IMPROVE, NUM_ROWS, P, World, policy_of

from .answers import Cli
from .fake_server import FakeServer

POLICY = policy_of("mine", FLOOR, IMPROVE)


@pytest.fixture
def cli(call: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command without a server and without a data folder."""
    monkeypatch.delenv("POSTTRAIN_HOME", raising=False)
    return call


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, GateRunRecord]]:
    """A data folder with a version whose gate run says PASS; the server's lock stays held."""
    folder = tmp_path_factory.mktemp("judged")
    with open_store(folder / "home") as store:
        world = World(store, folder)
        base = world.base()
        world.dataset()
        world.suite()
        yield world, world.gate(world.candidate(base, right=NUM_ROWS - 20))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(POLICY)
    return path


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_prints_a_table_and_the_same_as_a_record(cli: Cli, mine: Path) -> None:
    code, out, err = cli("gate", "explain", mine, "--trials", 200)
    assert (code, err) == (Exit.OK, "")
    code, text, _ = cli("gate", "explain", mine, "--trials", 200, "--json")
    record = json.loads(text)
    assert (code, record["digest"]) == (Exit.OK, load_policy(mine).digest)
    assert len(record["curves"]) == 4
    for curve in record["curves"]:
        flips = [f"{100 * curve['flips']:.1f}"] if curve["flips"] else []
        start = ["toy/toy", *curve["text"].split(), "100", "40", *flips]
        (line,) = [line for line in out.splitlines() if line.split()[: len(start)] == start]
        for point in curve["points"]:
            assert (f"{100 * point['passed']:.1f}" if point["passed"] is not None else "-") in line.split()
    assert cli("gate", "explain", mine, "--trials", 200, "--json")[1] == text, "seeded"
    assert cli("gate", "explain", mine, "--trials", 200, "--seed", 1, "--json")[1] != text


def test_explain_of_looks_and_attempts(cli: Cli, mine: Path) -> None:
    mine.write_text(POLICY.replace("metrics:", "sequential: {looks: 3}\nattempts: {budget: 4}\nmetrics:"))
    code, out, _ = cli("gate", "explain", mine, "--trials", 100, "--attempt", 2, "--flips", 0.3)
    assert code == Exit.OK
    assert "at attempt 2 of the budget" in out
    assert "MEAN N" in out
    assert cli("gate", "explain", mine, "--attempt", 5)[::2] == (
        Exit.USAGE,
        "Usage: posttrain gate explain [OPTIONS] POLICY\nTry 'posttrain gate explain --help' for help.\n\n"
        "Error: attempt 5: the policy allows 4\n",
    )


def test_explain_of_what_is_no_policy(cli: Cli, mine: Path) -> None:
    assert "no policy named 'nope'" in cli("gate", "explain", "nope")[2]
    mine.write_text("name: \x1b[2J\n")
    code, _, err = cli("gate", "explain", mine)
    assert code == Exit.USAGE
    assert "\x1b" not in err
    assert cli("gate", "explain", "default", "--rows", 3, "--clusters", 5)[0] == Exit.USAGE


def test_a_version_is_still_judged_by_its_name(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("gate", "bot@1", "--home", tmp_path)
    assert (code, "no server runs on" in err) == (Exit.NOT_FOUND, True)
    assert "Missing argument 'VERSION'" in cli("gate")[2]
    code, out, _ = cli("gate", "--help")
    assert (code, "explain  Print how often" in out, "replay   Compute a verdict" in out) == (Exit.OK, True, True)


# -- replay of a gate run ----------------------------------------------------------------------------------------------


def test_a_gate_run_comes_out_byte_for_byte(cli: Cli, judged: tuple[World, GateRunRecord], tmp_path: Path) -> None:
    world, gate = judged
    out = tmp_path / "report.json"
    code, said, err = cli("gate", "replay", gate.id, "--home", world.store.home, "--out", out)
    assert (code, err) == (Exit.OK, "byte for byte the stored report\n")
    assert out.read_bytes() == gate.report_json.encode()
    assert said.startswith("verdict    PASS")
    assert f"flips      toy/toy against parent: {NUM_ROWS - 20} better, 0 worse of {NUM_ROWS}" in said
    full = f"projects/{P}/gateRuns/{gate.id}"
    code, text, _ = cli("gate", "replay", full, "--home", world.store.home, "--json")
    assert (code, json.loads(text)) == (Exit.OK, json.loads(gate.report_json))


def test_every_input_of_a_gate_run_is_read_from_the_store(cli: Cli, tmp_path: Path) -> None:
    """Attempt, ancestor and second run come out byte for byte without being named."""
    text = POLICY.replace("metrics:", "ancestor: bot@1\nattempts: {budget: 5}\nnoise_floor: {of: parent}\nmetrics:")
    text += "      - {type: noninferior, to: ancestor, margin: 0.1}\n"
    with open_store(tmp_path / "home") as store:
        world = World(store, tmp_path)
        base = world.base()
        world.dataset()
        world.suite()
        first = world.candidate(base, right=NUM_ROWS - 20)
        world.evaluated(first, NUM_ROWS - 21, repeat=True)
        second = world.trained(first.ref, 2.0)
        world.evaluated(second, NUM_ROWS - 20)
        world.policies["mine"] = parse_policy(text)
        gate = world.gate(second, policy="mine")
    assert (gate.verdict, gate.attempt) == ("PASS", 2)
    home = ("--home", tmp_path / "home")
    code, said, err = cli("gate", "replay", gate.id, *home)
    assert (code, err) == (Exit.OK, "byte for byte the stored report\n")
    assert "attempt    2 of 5" in said
    assert "go with --policy" in cli("gate", "replay", gate.id, "--attempt", 1, *home)[2]
    other = tmp_path / "other.yaml"
    other.write_text(text)
    code, said, err = cli("gate", "replay", gate.id, "--policy", other, "--attempt", 1, *home)
    assert (code, "attempt    1 of 5" in said) == (Exit.OK, True)


def test_a_gate_run_under_another_policy(cli: Cli, judged: tuple[World, GateRunRecord], mine: Path) -> None:
    world, gate = judged
    mine.write_text(POLICY.replace("at_least: 0.5", "at_least: 0.99"))
    before = world.query("SELECT count(*) FROM gate_runs")
    code, out, err = cli("gate", "replay", gate.id, "--policy", mine, "--home", world.store.home)
    assert (code, err) == (Exit.GATE_FAIL, "")
    assert "FLOOR" in out
    assert "policy     mine version 1" in out
    assert world.query("SELECT count(*) FROM gate_runs") == before, "nothing is recorded"


def test_reports_are_written(cli: Cli, judged: tuple[World, GateRunRecord], tmp_path: Path) -> None:
    world, gate = judged
    markdown, html = tmp_path / "gate.md", tmp_path / "gate.html"
    common = ("gate", "replay", gate.id, "--home", world.store.home)
    assert cli(*common, "--markdown", markdown, "--html", html)[0] == Exit.OK
    assert markdown.read_text().startswith("# Gate: PASS\n")
    assert "toy-0000" in markdown.read_text()
    assert "<svg" in html.read_text()
    assert gate.report_digest in html.read_text()
    code, _, err = cli(*common, "--html", tmp_path / "no" / "gate.html")
    assert (code, "No such file" in err) == (Exit.CONFLICT, True)


def test_a_gate_run_that_is_not_there(cli: Cli, judged: tuple[World, GateRunRecord], tmp_path: Path) -> None:
    world, _ = judged
    assert cli("gate", "replay", "gate-0", "--home", world.store.home)[0] == Exit.NOT_FOUND
    assert cli("gate", "replay", "gate-0", "--home", tmp_path / "none")[0] == Exit.NOT_FOUND
    assert not (tmp_path / "none").exists()
    assert cli("gate", "replay")[0] == Exit.USAGE


# -- replay of files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(judged: tuple[World, GateRunRecord], tmp_path: Path) -> tuple[Path, Path]:
    """Rows of the candidate and of its parent."""
    world, gate = judged
    paths = []
    for name, run_id in (("candidate", gate.candidate_run), ("parent", gate.baselines[0]["eval_run"])):
        (digest,) = world.query(f"SELECT rows_digest FROM eval_runs WHERE id = '{run_id}'")[0]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_bytes(world.store.artifacts.read(digest))
    return paths[0], paths[1]


def test_files_give_the_report_that_is_expected_or_an_error(cli: Cli, files: tuple[Path, Path], mine: Path) -> None:
    candidate, parent = files
    report = run_gate(load_policy(mine), read_rows(candidate), {"parent": read_rows(parent)})
    expected = mine.with_name("report.json")
    expected.write_text(report.canonical_json())
    common = ("gate", "replay", "--candidate", candidate, "--parent", parent, "--policy", mine, "--expect", expected)
    assert cli(*common)[::2] == (Exit.OK, "byte for byte the stored report\n")
    rows = read_rows(candidate)
    edited = rows.rows[0].model_copy(update={"score": 1 - rows.rows[0].score})
    write_rows(candidate, EvalRun(header=rows.header, rows=(edited, *rows.rows[1:])))
    code, _, err = cli(*common)
    assert (code, "the stored report is another one" in err) == (Exit.CONFLICT, True)


def test_what_a_policy_asks_for_can_be_given(cli: Cli, files: tuple[Path, Path], mine: Path) -> None:
    candidate, parent = files
    mine.write_text(POLICY.replace("metrics:", "attempts: {budget: 2}\nmetrics:"))
    common = ("gate", "replay", "--candidate", candidate, "--parent", parent, "--policy", mine)
    assert [cli(*common, *extra)[0] for extra in ([], ["--attempt", 2], ["--attempt", 3])] == [
        Exit.INCONCLUSIVE,
        Exit.OK,
        Exit.INCONCLUSIVE,
    ]


def test_bad_rows_and_bad_mixtures(cli: Cli, files: tuple[Path, Path], mine: Path) -> None:
    candidate, parent = files
    assert "--candidate needs --policy" in cli("gate", "replay", "--candidate", candidate)[2]
    assert "give a gate run, or rows" in cli("gate", "replay", "gate-1", "--candidate", candidate)[2]
    assert "leave out --parent" in cli("gate", "replay", "gate-1", "--parent", parent)[2]
    candidate.write_bytes(candidate.read_bytes()[:-5])
    code, _, err = cli("gate", "replay", "--candidate", candidate, "--policy", mine)
    assert (code, "the last line is not complete" in err) == (Exit.USAGE, True)


def test_tampered_rows_are_an_error(cli: Cli, tmp_path: Path, mine: Path) -> None:
    with open_store(tmp_path / "home") as store:
        world = World(store, tmp_path)
        base = world.base()
        world.dataset()
        world.suite()
        gate = world.gate(world.candidate(base))
        with store.read() as tx:
            version = get_version(tx, P, "bot@1")
        (digest,) = world.query(f"SELECT rows_digest FROM eval_runs WHERE version = {version.id}")[0]
        path = store.artifacts.path(digest)
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b'"score":1.0', b'"score":0.0', 1))
    code, out, err = cli("gate", "replay", gate.id, "--home", tmp_path / "home")
    assert (code != Exit.OK, out) == (True, "")
    assert "error: " in err
    assert "Traceback" not in err


# -- list and show -----------------------------------------------------------------------------------------------------


def test_verdicts_on_record(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setenv("POSTTRAIN_ADDRESS", fake.address)
    reasons = [gates_pb2.GateReason(code="FLOOR", message="low"), gates_pb2.GateReason(code="FLOOR", message="lower")]
    counted = gates_pb2.GateRun(
        name="projects/default/gateRuns/gate-1", verdict=gates_pb2.FAIL, candidate="bot@3", alias="production",
        policy="mine", reasons=reasons, attempt=2, attempts_budget=5,
        stale=[gates_pb2.GateReason(code="STALE", message="policy mine has \x1b[2Jchanged since gate-1")],
    )  # fmt: skip
    plain = gates_pb2.GateRun(name="projects/default/gateRuns/gate-0", verdict=gates_pb2.PASS, candidate="bot@2")
    fake.on("ListGateRuns", gates_pb2.ListGateRunsResponse(gate_runs=[counted, plain])).on("GetGateRun", counted)
    code, out, _ = cli("gate", "list", "bot@3", "--limit", 2)
    first, second = out.splitlines()[1:]
    assert (code, fake.of("ListGateRuns")[0].candidate) == (Exit.OK, "bot@3")
    assert first.split()[:8] == ["gate-1", "FAIL", "bot@3", "production", "mine", "2", "of", "5"]
    assert first.split()[-1] == "FLOOR"
    assert second.split()[-1] == "-"
    code, out, _ = cli("gate", "show", "gate-1")
    assert (code, "\x1b" in out) == (Exit.OK, False)
    assert "not of today" in out
    assert "- STALE: policy mine has" in out
    fake.on("GetGateRun", plain)
    assert "not of today" not in cli("gate", "show", "gate-0")[1]
    assert json.loads(cli("gate", "show", "gate-0", "--json")[1])["candidate"] == "bot@2"
