"""`posttrain plan`: an estimate without a server, and a job that cannot fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from posttrain.engine.base import BASE_DIR
from posttrain.service.cli import run
from posttrain.service.cli.exits import Exit

SPEC = """
kind: ift
base: tiny@1
output: bot
data: [{dataset: rows@1}]
batch: {micro_tokens: 16384, num_rows: 64}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return str(path)


def test_a_table_and_a_record_say_the_same(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["plan", spec, "--model", "builtin:tiny-base", "--memory", "8"]
    assert run(common) == Exit.OK
    table = capsys.readouterr().out
    assert run([*common, "--json"]) == Exit.OK
    record = json.loads(capsys.readouterr().out)
    assert record["limit_bytes"] == 8 * 10**9
    assert record["total_bytes"] == sum(record["parts"].values())
    for name, number in record["parts"].items():
        assert f"{name:12} {number / 1e6:12,.0f} MB" in table
    assert table.splitlines()[-1].endswith("MB of 8,000")


def test_a_job_that_cannot_fit(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", spec, "--model", str(BASE_DIR), "--memory", "1"]) == Exit.USAGE
    said = capsys.readouterr()
    assert "activations" in said.out, "the table all the same"
    assert "of memory are needed and there are 1.0 GB" in said.err
    assert "hint: set batch.micro_tokens to " in said.err


def test_what_cannot_be_planned(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", spec, "--model", str(tmp_path / "nowhere")]) != Exit.OK
    assert "sizes cannot be read" in capsys.readouterr().err
    assert run(["plan", spec, "--model", "tiny@1"]) == Exit.USAGE
    assert "give the model's folder, or builtin:tiny-base" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(BASE_DIR, broken)
    (broken / "config.json").write_text("{}")
    assert run(["plan", spec, "--model", str(broken)]) != Exit.OK
    assert "names none of hidden_size" in capsys.readouterr().err
    assert run(["plan", spec, "--model", str(BASE_DIR), "--cuda"]) == Exit.USAGE
    assert "--cuda needs --memory" in capsys.readouterr().err
    Path(spec).write_text(SPEC.replace("micro_tokens", "micro_tokns"))
    assert run(["plan", spec, "--model", str(BASE_DIR)]) == Exit.USAGE
    assert "micro_tokns" in capsys.readouterr().err
