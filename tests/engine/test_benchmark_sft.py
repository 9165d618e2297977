"""The comparison with TRL: equal work on both sides or no number at all."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench, worker = script("sft_vs_trl"), script("sft_worker")


def run_command(*arguments: str) -> dict[str, Any]:
    before = sorted(path.name for path in FOLDER.parent.iterdir())
    done = subprocess.run(
        [sys.executable, str(FOLDER / "sft_vs_trl.py"), "--json", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in FOLDER.parent.iterdir()) == before
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def assert_sound(report: dict[str, Any]) -> None:
    for run in report["runs"]:
        engine, peer = run["engine"], run["peer"]
        for name in ("digest", "step_tokens", "trained_tokens", "trained_parameters", "threads"):
            assert engine[name] == peer[name], name
        # The same rows from the same weights, so the same losses, up to the order of sums.
        assert engine["losses"] == pytest.approx(peer["losses"], rel=1e-4)
        assert len(set(engine["losses"])) == len(engine["losses"])
    for result in report["results"]:
        ratio = result["ratio"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"] < math.inf
        for side in (result["engine"], result["peer"]):
            assert all(math.isfinite(value) and value > 0 for value in side.values())
        assert result["largest_loss_difference"] < 1e-3
    assert bench.table(report)


def test_the_command_compares_equal_work(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    sizes = ["--rows", "6", "--batch-rows", "4", "--steps", "3", "--pairs", "1"]
    report = run_command(*sizes, "--adapter", "full", "--peer-settings", "padded:2", "--out", str(out))
    assert_sound(report)
    assert json.loads(out.read_text()) == report
    assert [len(report["runs"]), len(report["results"]), report["results"][0]["is_peers_best"]] == [1, 1, True]
    assert len(report["work"]["step_tokens"]) == 3


def test_smoke_takes_its_sizes_and_leaves_what_was_given() -> None:
    report = run_command("--smoke", "--adapter", "lora", "--peer-settings", "packed:256")
    assert_sound(report)
    assert (report["sizes"]["pairs"], report["sizes"]["batch_rows"]) == (1, 4)
    assert [(result["adapter"], result["peer_setting"]) for result in report["results"]] == [("lora", "packed:256")]
    assert report["work"]["trained_parameters"]["lora"] < 10**6


# -- what is computed from the runs ------------------------------------------------------------------------------------

RUN = {
    "digest": "d",
    "step_tokens": [900, 100, 300],
    "trained_tokens": 70,
    "losses": [3.0, 2.0, 1.0],
    "ends_s": [50.0, 51.0, 53.0],
    "startup_s": 4.0,
    "trained_parameters": 9,
    "threads": 1,
    "peak_bytes": 2**30,
}


def changed(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RUN), **values}


def test_numbers_by_hand() -> None:
    peers = [changed(ends_s=[0.0, 2.0, 8.0]), changed(ends_s=[0.0, 2.0, 6.0]), changed(ends_s=[0.0, 1.0, 4.0])]
    assert bench.step_times(RUN) == [1.0, 2.0]
    assert bench.speed(RUN) == pytest.approx(400 / 3)  # the first step is not timed
    runs = [{"pair": 1, "adapter": "full", "peer_setting": "padded:1", "engine": RUN, "peer": peer} for peer in peers]
    runs.append(
        {**runs[0], "peer_setting": "packed:9", "peer": changed(ends_s=[0.0, 1.0, 3.5], losses=[3.0, 2.0, 1.5])}
    )
    padded, packed = bench.summarise(runs, {"pairs": 3, "batch_rows": 2})["results"]
    assert padded["ratio"] == pytest.approx({"median": 2.0, "min": 4 / 3, "max": 8 / 3})
    assert (padded["is_peers_best"], packed["is_peers_best"]) == (False, True)
    assert (padded["largest_loss_difference"], packed["largest_loss_difference"]) == (0.0, 0.5)
    assert padded["engine"]["peak_mib"] == 1024


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "other"}, "digest"),
        ({"step_tokens": [900, 100, 301]}, "step_tokens"),
        ({"trained_tokens": 71}, "trained_tokens"),
        ({"trained_parameters": 8}, "trained_parameters"),
        ({"threads": 2}, "threads"),
        ({"losses": [3.0, 2.0]}, "not every one of 3 steps"),
        ({"losses": [3.001, 2.0, 1.0]}, "first step's loss"),
        ({"losses": [math.nan, 2.0, 1.0]}, "first step's loss"),
    ],
)
def test_unequal_work_is_refused(change: dict[str, Any], words: str) -> None:
    bench.check_equal_work(RUN, changed())
    with pytest.raises(click.ClickException, match="unequal work") as caught:
        bench.check_equal_work(RUN, changed(**change))
    assert words in caught.value.message


def test_other_ids_or_labels_are_noticed() -> None:
    rows = [([1, 2, 3], [-100, 2, 3]), ([4, 5], [-100, 5])]
    worker.check_same_rows(rows, copy.deepcopy(rows))
    for other in (([4, 6], [-100, 6]), ([4, 5], [4, 5])):
        with pytest.raises(RuntimeError, match=r"rows \[2\] have other ids or labels"):
            worker.check_same_rows(rows, [rows[0], other])


def test_blocks_hold_each_row_once() -> None:
    step = [([token] * length, [token] * length) for token, length in enumerate([5, 1, 4, 2, 3, 3])]
    blocks = worker.share_out(step, 2)
    assert [sum(len(ids) for ids, _ in block) for block in blocks] == [9, 9]
    back = [row for block in blocks for row in worker.unpacked(worker.packed_row(block))]
    assert sorted(back) == sorted(step)
    assert worker.digest_of([back]) == worker.digest_of([step]) != worker.digest_of([step[1:]])
    with pytest.raises(RuntimeError, match="cannot fill 7 blocks"):
        worker.share_out(step, 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--peer-settings", "sharded:2"], "none of padded:ROWS, grouped:ROWS, packed:TOKENS"),
        (["--peer-settings", "padded:0"], "none of padded:ROWS, grouped:ROWS, packed:TOKENS"),
        (["--peer-settings", "grouped:5"], "cannot be cut into passes of 5"),
        (["--peer-settings", ","], "names no setting"),
        (["--rows", "10000000"], "has only"),
        (["--steps", "1"], "--steps"),
    ],
)
def test_bad_options_are_named(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(bench.main, arguments)
    assert done.exit_code != 0
    assert words in done.output


def test_a_missing_trl_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(bench.main, ["--smoke"])
    assert done.exit_code == 1
    assert "TRL is not installed; it comes with the extra" in done.output


def test_a_failing_run_is_told_with_its_last_words(tmp_path: Path) -> None:
    job = {"side": "engine", "adapter": "full", "setting": "padded:1", "seed": -1}
    with pytest.raises(click.ClickException, match="the engine's run") as caught:
        bench.run_worker(tmp_path, 0, job)
    assert "KeyError" in caught.value.message
