"""`posttrain plan`: an estimate without a server, and a job that cannot fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from posttrain.engine import products
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
def spec_text() -> str:
    return SPEC


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


def stats_file(tmp_path: Path, **changes: object) -> str:
    path = tmp_path / "stats.json"
    found = {"dataset": "rows@1", "num_rows": 600, "num_tokens": 60_000, "num_trained": 20_000, "longest": 300}
    path.write_text(json.dumps(found | changes))
    return str(path)


def test_time_from_what_is_known_of_the_data(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["plan", spec, "--model", "builtin:tiny-base", "--memory", "8", "--stats", stats_file(tmp_path)]
    assert run(common) == Exit.OK
    assert capsys.readouterr().out.splitlines()[-1].startswith("time         about ")
    records = []
    for epochs in ("1", "3"):
        changed = ["--set", f"duration={{type: epochs, num_epochs: {epochs}}}", "--json"]
        assert run([*common, *changed]) == Exit.OK
        records.append(json.loads(capsys.readouterr().out))
    one, three = records
    assert three["flops"] == 3 * one["flops"]
    # three products of 2.65M weights in layers and of the head, and attention over rows of 100 tokens
    matrices, attended = 6 * (4 * 192 * 192 + 3 * 192 * 512), 3.5 * 2 * 100 * 192 * 6
    assert one["flops"] == pytest.approx((6 * matrices + attended) * 60_000 + 6 * 2048 * 192 * 20_000)
    assert one["seconds"] == pytest.approx(one["flops"] / one["products_per_s"] / 0.6)


def test_stats_that_are_none(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["plan", spec, "--model", "builtin:tiny-base"]
    for content in ("", "[]", "{", '{"num_rows": 3}', "\x00"):
        (tmp_path / "bad.json").write_text(content)
        assert run([*common, "--stats", str(tmp_path / "bad.json")]) == Exit.USAGE
        assert "not what `posttrain datasets stats REF --json` prints" in capsys.readouterr().err
    assert run([*common, "--stats", stats_file(tmp_path, num_rows=0)]) == Exit.USAGE
    assert "not what" in capsys.readouterr().err
    assert run([*common, "--stats", stats_file(tmp_path, dataset="rows@2")]) == Exit.USAGE
    assert "counts 'rows@2', but the source in its place is rows@1" in capsys.readouterr().err
    twice = ["--stats", stats_file(tmp_path)] * 2
    assert run([*common, *twice]) == Exit.USAGE
    assert "--stats is given 2 times for 1 sources in data" in capsys.readouterr().err
    assert run([*common, "--cuda", "--memory", "8", "--stats", stats_file(tmp_path)]) == Exit.USAGE
    assert "leave out --cuda" in capsys.readouterr().err
    assert run([*common, "--set", "batch.micro_tokns=5"]) == Exit.USAGE
    assert "micro_tokns" in capsys.readouterr().err


@pytest.mark.parametrize(("changes", "tokens"), [({}, 1024), ({"longest": 10}, 640)])
def test_the_rate_is_measured_on_a_pass_of_bounded_size(
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, int],
    tokens: int,
) -> None:
    """However large a pass may be; and not at all for a job that cannot fit."""
    asked: list[int] = []

    def measured(shapes: object, num_tokens: int) -> float:
        asked.append(num_tokens)
        return 1e9

    monkeypatch.setattr(products, "products_per_s", measured)
    given = ["--stats", stats_file(tmp_path, **changes), "--set", "batch.micro_tokens=2000000000"]
    common = ["plan", spec, "--model", "builtin:tiny-base", *given]
    assert run([*common, "--memory", "8"]) == Exit.OK
    assert asked == [tokens]
    capsys.readouterr()
    assert run([*common, "--memory", "0.1"]) == Exit.USAGE
    said = capsys.readouterr()
    assert "activations" in said.out, "the table all the same"
    assert "of memory are needed and there are 0.1 GB" in said.err
    assert asked == [tokens]


def test_a_rollouts_memory_is_planned_and_its_time_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grpo.yaml"
    path.write_text("kind: grpo\nbase: b@1\noutput: o\ndata: [{dataset: d@1}]\nbatch: {num_rows: 2}\nbeta: 0.1\n")
    assert run(["plan", str(path), "--model", "builtin:tiny-base", "--memory", "8", "--json"]) == Exit.OK
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["rollout"] > 0
    assert parts["reference"] == parts["weights"]
    assert run(["plan", str(path), "--model", "builtin:tiny-base", "--stats", stats_file(tmp_path)]) == Exit.USAGE
    assert "the time of kind grpo depends on how long the model's own answers get" in capsys.readouterr().err
    path.write_text("kind: ppo\nbase: b@1\noutput: o\ndata: [{dataset: d@1}]\nbatch: {num_rows: 2}\n")
    assert run(["plan", str(path), "--model", "builtin:tiny-base", "--memory", "8", "--json"]) == Exit.OK
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["value"] == parts["weights"] + parts["gradients"] + parts["moments"]
    assert run(["plan", str(path), "--model", "builtin:tiny-base", "--stats", stats_file(tmp_path)]) == Exit.USAGE
    assert "the time of kind ppo depends on" in capsys.readouterr().err


def test_reward_models_are_planned_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grpo.yaml"
    part = "{type: model, model: judge@1}"
    path.write_text(f"kind: grpo\nbase: b@1\noutput: o\ndata: [{{dataset: d@1}}]\nrewards: [{part}, {part}]\n")
    common = ["plan", str(path), "--model", "builtin:tiny-base", "--memory", "8", "--json"]
    assert run(common) == Exit.OK
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts["reward_models"] == 2 * parts["weights"], "as large as the base where no folder is given"
    assert run([*common, "--reward-model", str(BASE_DIR), "--reward-model", str(BASE_DIR)]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["parts"] == parts
    assert run([*common, "--reward-model", str(BASE_DIR)]) == Exit.USAGE
    assert "--reward-model is given 1 times for 2 parts of type model" in capsys.readouterr().err
    assert run([*common, "--reward-model", str(tmp_path), "--reward-model", str(BASE_DIR)]) != Exit.OK
