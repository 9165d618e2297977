"""The commands against the real service, with scripted workers: from a base to an alias and back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.service.cli import run
from posttrain.service.cli.exits import Exit

from .answers import Cli
from .serving import Server

SPEC = """\
kind: sft
display_name: steps=3
base: tiny@1
output: bot
data: [{dataset: sums@1}]
template: {type: builtin, name: chatml}
then: {type: gate, suites: [sums], policy: tiny}
"""


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, call: Cli) -> Cli:
    """Runs a command against the server of `home`."""
    monkeypatch.delenv("POSTTRAIN_ADDRESS", raising=False)
    monkeypatch.setenv("POSTTRAIN_HOME", str(home))
    return call


@pytest.fixture
def spec_text() -> str:
    return SPEC


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_from_a_base_to_an_alias_and_back(serve: Callable[..., Server], cli: Cli, spec: str, tmp_path: Path) -> None:
    server = serve(fake=True)
    code, out, err = cli("submit", spec, "--wait")
    assert code == Exit.OK, err
    assert "PASS: bot@1 against parent tiny@1" in out
    assert "APPLIED: bot@production -> bot@1" in out
    assert "evaluate-" in err, "the chain's evaluations are shown"

    code, out, _ = cli("submit", spec, "--wait", "--json", "--set", "seed=1")
    assert code == Exit.OK
    (job,) = records(out)
    assert (job["state"], job["chain"]["step"], job["chain"]["version"]) == ("SUCCEEDED", "DONE", "bot@2")

    (server.home / "fake_scores.json").write_text(json.dumps({"bot@3": 0.0}))
    code, out, _ = cli("submit", spec, "--wait", "--set", "seed=2")
    assert code == Exit.GATE_FAIL
    assert "REFUSED: bot@production -> bot@3" in out

    listed = records(cli("models", "list", "bot", "--json")[1])
    assert {item["ref"]: item["aliases"] for item in listed} == {"bot@1": [], "bot@2": ["production"], "bot@3": []}
    outcomes = [item["outcome"] for item in records(cli("promotions", "list", "bot", "--json")[1])]
    assert sorted(outcomes) == ["APPLIED", "APPLIED", "REFUSED"]

    code, _, err = cli("promote", "bot@3", "production")
    assert code == Exit.REFUSED
    assert "bot@production was not moved" in err
    assert cli("gate", "bot@3", "--policy", "tiny")[0] == Exit.GATE_FAIL
    assert cli("gate", "bot@2", "--policy", "tiny")[0] == Exit.OK

    assert cli("rollback", "bot", "production", "--reason", "a test")[:2] == (
        Exit.OK,
        "bot@production: bot@2 -> bot@1\n",
    )
    assert cli("models", "get", "bot@production")[1].splitlines()[0].split() == ["version", "bot@1"]
    code, out, _ = cli("models", "lineage")
    assert out.splitlines()[:2] == [
        "tiny@1  base full",
        "    finetune -> bot@1  instruct full  [production]  gate PASS",
    ]
    assert cli("models", "export", "bot@1", str(tmp_path / "out"))[0] == Exit.OK
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_how_jobs_end(serve: Callable[..., Server], cli: Cli, spec: str) -> None:
    serve(fake=True)
    code, out, _ = cli("submit", spec, "--wait", "--set", "display_name=fail=NON_FINITE")
    assert code == Exit.JOB_FAILED
    assert "NON_FINITE: as the script says" in out
    slow = ["--set", "display_name=steps=200 delay=0.1"]
    code, out, _ = cli("submit", spec, *slow)
    assert code == Exit.OK
    job = out.strip()
    threading.Timer(2.0, lambda: run(["jobs", "cancel", job])).start()
    assert cli("jobs", "watch", job)[0] == Exit.CANCELLED
    assert cli("jobs", "cancel", job)[0] == Exit.CONFLICT
    events = records(cli("jobs", "logs", job, "--events", "--json")[1])
    assert [event["to_state"] for event in events if event["type"] == "state"][-1] == "CANCELLED"


def test_files_of_all_kinds_are_added_and_what_was_left_out_is_shown(
    serve: Callable[..., Server], cli: Cli, tmp_path: Path
) -> None:
    serve(fake=True)
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("prompt,completion\nq,a\nq,a,b\nr,a\n")
    (folder / "b.json").write_text('[{"prompt": "q", "completion": "a"},\n {"prompt": "\\u001b[2Jx"}]')
    code, out, err = cli("datasets", "add", "rows", str(folder))
    assert (code, out) == (Exit.USAGE, "")
    assert "a.csv, row 2: has 3 cells, and the header has 2 (and 1 more)" in err
    assert "files[b.json].rows[2].completion: is missing" in err
    assert "rows@1 stays open and no job takes it; the next upload has a higher number" in err
    code, out, err = cli("datasets", "add", "rows", str(folder), "--on-bad-row", "skip", "--deduplicate")
    assert code == Exit.OK, err
    assert "use it in a spec: data: [{dataset: rows@2}]" in err
    assert [record["sealed"] for record in records(cli("datasets", "list", "rows", "--json")[1])] == [True, False]
    for text in ("skipped     2 bad rows", "duplicates  1 left out", "rows        2", "skipped: a.csv, row 2: has 3"):
        assert text in out, out
    many = tmp_path / "many.csv"
    many.write_text("prompt,completion\n" + "".join(f"{number},a\n" for number in range(200)))
    code, out, err = cli("datasets", "add", "many", str(many), "--held-out", "0.2", "--json")
    assert code == Exit.OK, err
    (made,) = records(out)
    (held,) = records(cli("datasets", "get", made["held_out"], "--json")[1])
    assert (held["ref"], held["held_out_of"]) == ("many-held-out@1", "many@1")
    assert made["num_rows"] + held["num_rows"] == 200
    (tmp_path / "one.parquet").write_bytes(b"PAR1 and no more")
    code, out, err = cli("datasets", "add", "one", str(tmp_path / "one.parquet"))
    assert (code, out) == (Exit.USAGE, "")
    assert "error: one.parquet: not a whole Parquet file" in err
    code, _, err = cli("datasets", "add", "one", str(tmp_path / "missing"))
    assert code == Exit.USAGE
    assert "no such file" in err


def test_bad_input_names_its_place_and_starts_nothing(
    serve: Callable[..., Server], cli: Cli, spec: str, tmp_path: Path
) -> None:
    serve(fake=True)
    for change, place in [
        ("base=none@1", "base: "),
        ("data[0].dataset=none@1", "data[0].dataset: "),
        ("then.policy=none", "then.policy: "),
    ]:
        code, out, err = cli("submit", spec, "--set", change)
        assert (code, out) == (Exit.USAGE, ""), err
        assert f"--set {change}: {place}" in err, err
    assert cli("jobs", "list", "--json")[1] == ""
    for data, place in [
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', "row 2"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": 5, "completion": "b"}\n', "row 2"),
        (b'{"prompt": "a", "completion": "\xff"}\n', "UTF-8"),
        (b"", "empty"),
    ]:
        (tmp_path / "rows.jsonl").write_bytes(data)
        code, out, err = cli("datasets", "add", "rows", str(tmp_path / "rows.jsonl"))
        assert (code, out) == (Exit.USAGE, ""), err
        assert place.lower() in err.lower(), err
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    code, _, err = cli("models", "import", "bad", str(tmp_path / "pickled"))
    assert code == Exit.USAGE
    assert "safetensors" in err
    assert cli("models", "import", "bad", str(tmp_path / "nothing"))[0] == Exit.NOT_FOUND
    assert "bad@" not in cli("models", "list")[1]
