"""The runner end to end on tiny models: rows, resume, cache, templates, and each way to end."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.checkers import CHECKERS
from posttrain.engine.errors import CancelledError
from posttrain.engine.events import EVENTS_FILE, ExitRecord, Progress, read_events, read_exit
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.engine.task import ModelInput
from posttrain.evals import runner
from posttrain.evals.gate import run_gate
from posttrain.evals.policy import parse_policy
from posttrain.evals.rows import ROWS_FILE, EvalRun, RepeatInfo, read_rows
from posttrain.evals.suites import load_suite

from .conftest import suite_rows, write_suite

Evaluate = Callable[..., tuple[ExitRecord, Path]]


def rows_of(folder: Path) -> EvalRun:
    return read_rows(folder / "output" / ROWS_FILE)


def answers(run: EvalRun) -> dict[str, str]:
    return {row.example_id: row.answer for row in run.rows}


def test_an_evaluation_from_start_to_end(evaluate: Evaluate, models: dict[str, ModelInput]) -> None:
    record, folder = evaluate()
    assert record.status == "succeeded", record.message
    run = rows_of(folder)
    assert len(run.rows) == 30, "the gate shard and the unseen one, not dev"
    assert {row.shard for row in run.rows} == {"gate", "unseen"}
    assert run.header.suites[0].num_rows == 30
    assert run.header.template.type == "own"
    assert run.header.template.has_own
    assert run.header.version == "bot@1"
    assert run.header.weights_digest == models["chat"].weights_digest
    assert all(row.num_tokens > 0 and not row.scorer_error for row in run.rows)
    assert record.summary["evidence_digest"] == run.digest
    assert record.summary["suites"]["echo"]["n"] == 24
    assert json.loads((folder / "output" / "summary.json").read_text()) == record.summary
    events = [event for event, _ in read_events(folder / EVENTS_FILE)]
    progress = [event for event in events if isinstance(event, Progress)]
    assert (progress[-1].done, progress[-1].total, progress[-1].eta_s) == (30, 30, 0.0)
    assert not (folder / ".reserve").exists()


def test_batching_changes_no_answer(evaluate: Evaluate) -> None:
    one = rows_of(evaluate(batch_rows=1)[1])
    many = rows_of(evaluate(batch_rows=64)[1])
    assert answers(one) == answers(many)
    assert one.digest == many.digest


def test_the_dev_shard_and_a_sample(evaluate: Evaluate) -> None:
    assert len(rows_of(evaluate(shard="dev")[1]).rows) == 6
    first, second = (rows_of(evaluate(max_rows=9)[1]) for _ in range(2))
    assert [row.example_id for row in first.rows] == [row.example_id for row in second.rows]
    gate = [row for row in first.rows if row.shard == "gate"]
    assert len(gate) == 9
    assert len({row.wording_id for row in gate}) == 6, "a sample keeps all strata"


def test_a_cap_below_the_tasks_own(evaluate: Evaluate) -> None:
    run = rows_of(evaluate(max_new_tokens=3)[1])
    assert max(row.num_tokens for row in run.rows) == 3


def test_resume_runs_only_what_is_missing(evaluate: Evaluate, tmp_path: Path) -> None:
    whole_record, folder = evaluate()
    whole = rows_of(folder)
    lines = whole.canonical_bytes().splitlines(keepends=True)
    partial = tmp_path / "partial.jsonl"
    partial.write_bytes(b"".join(lines[:12]) + lines[12][:40])  # header, 11 rows, and a torn line
    record, folder = evaluate(resume_from=str(partial), attempt=2)
    assert (record.summary["resumed"], record.summary["generated"]) == (11, 19)
    assert rows_of(folder).digest == whole.digest
    assert whole_record.summary["generated"] == 30


@pytest.mark.parametrize("damage", ["other settings", "damaged", "edited prompt", "scorer error"])
def test_rows_that_do_not_fit_are_run_again(evaluate: Evaluate, tmp_path: Path, damage: str) -> None:
    whole = rows_of(evaluate()[1])
    partial = tmp_path / "partial.jsonl"
    options: dict[str, Any] = {"resume_from": str(partial)}
    expected = 0
    lines = whole.canonical_bytes().splitlines(keepends=True)
    if damage == "other settings":
        options["seed"] = 5
    elif damage == "damaged":
        lines[3] = lines[3].replace(b'"score":', b'"score":9')
    else:
        row = whole.rows[0]
        change = {"prompt_digest": "0" * 64} if damage == "edited prompt" else {"scorer_error": "KeyError"}
        lines = (
            whole.model_copy(update={"rows": (row.model_copy(update=change), *whole.rows[1:])})
            .canonical_bytes()
            .splitlines(True)
        )
        expected = 29
    partial.write_bytes(b"".join(lines))
    record, folder = evaluate(**options)
    assert record.summary["resumed"] == expected
    assert answers(rows_of(folder)) == answers(whole)


def num_missed(evaluate: Evaluate, cache: Path, files: list[Path]) -> int:
    """Rows that are generated if these files are not there: each at least one row's, equal prompts share theirs."""
    other = cache.with_name("without")
    shutil.copytree(cache, other)
    for path in files:
        (other / path.relative_to(cache)).unlink()
    record, _ = evaluate(cache=str(other))
    num = int(record.summary["generated"])
    assert num >= len(files)
    return num


def test_cached_answers_are_used_and_a_damaged_one_is_not(evaluate: Evaluate, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, folder = evaluate(cache=str(cache))
    second, again = evaluate(cache=str(cache))
    assert (first.summary["cached"], second.summary["cached"], second.summary["generated"]) == (0, 30, 0)
    assert rows_of(folder).digest == rows_of(again).digest
    files = sorted(cache.rglob("*.json"))
    missed = num_missed(evaluate, cache, files[:3])
    files[0].write_text(files[0].read_text().replace('"text":"', '"text":"poison '))
    files[1].write_bytes(b"{")
    files[2].write_bytes(files[3].read_bytes())  # another prompt's answer under this key
    third, mended = evaluate(cache=str(cache))
    assert (third.summary["cached"], third.summary["generated"]) == (30 - missed, missed)
    assert rows_of(mended).digest == rows_of(folder).digest


def test_a_second_run_is_no_copy_of_the_first(evaluate: Evaluate, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _, folder = evaluate(cache=str(cache))
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    second, again = evaluate(cache=str(cache), repeat=True)
    assert (second.summary["cached"], second.summary["generated"]) == (0, 30)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")} == files, "nor does it leave answers there"
    run = rows_of(again)
    assert rows_of(folder).header.repeat is None
    assert run.header.repeat == RepeatInfo(job="job-1", batch_rows=2), "the first took 4 at a time"
    assert {row.key for row in run.rows} == {row.key for row in rows_of(folder).rows}
    _, small = evaluate(repeat=True, batch_rows=64)
    mark = rows_of(small).header.repeat
    assert mark is not None
    assert mark.batch_rows == 18, "not all 30 at once, as the first would take them"


def test_an_answer_that_somebody_else_wrote_is_a_miss(evaluate: Evaluate, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _, folder = evaluate(cache=str(cache))
    path = sorted(cache.rglob("*.json"))[0]
    missed = num_missed(evaluate, cache, [path])
    entry = json.loads(path.read_text())
    del entry["signature"]
    entry["text"] = "fox dog cat cow hen pig"
    digest = sha256_text(canonical_json(entry))  # what anybody can compute
    path.write_text(canonical_json({**entry, "signature": digest}))
    record, again = evaluate(cache=str(cache))
    assert (record.summary["cached"], record.summary["generated"]) == (30 - missed, missed)
    assert rows_of(again).digest == rows_of(folder).digest
    assert (cache / "secret").stat().st_mode & 0o777 == 0o600
    (cache / "secret").write_bytes(b"another")
    assert evaluate(cache=str(cache))[0].summary["cached"] == 0


def test_equal_weights_of_another_version_miss_the_cache(
    evaluate: Evaluate, tmp_path: Path, models: dict[str, ModelInput]
) -> None:
    """Their config may differ, and with it every answer."""
    cache = str(tmp_path / "cache")
    evaluate(cache=cache)
    models["twin"] = models["chat"].model_copy(update={"ref": "bot@2", "digest": "d" * 64})
    try:
        assert evaluate("twin", cache=cache)[0].summary["cached"] == 0
    finally:
        del models["twin"]


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_a_model_that_is_changed_under_the_worker_gives_no_rows(
    evaluate: Evaluate, tmp_path: Path, models: dict[str, ModelInput], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    folder = Path(shutil.copytree(models["chat"].path, tmp_path / "model"))
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
    models["copy"] = models["chat"].model_copy(update={"path": str(folder), "files": files})

    def change() -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 3.0}))

    real = runner.load

    def load(*arguments: Any) -> Any:
        loaded = real(*arguments)
        change()
        return loaded

    try:
        assert evaluate("copy")[0].status == "succeeded"
        if when == "before":
            change()
        else:
            monkeypatch.setattr(runner, "load", load)
        record, out = evaluate("copy")
    finally:
        del models["copy"]
    assert (record.status, record.code) == ("failed", "BAD_MODEL")
    assert "config.json was changed" in record.message
    assert not (out / "output" / "summary.json").exists()


def test_another_model_or_template_or_cap_misses_the_cache(
    evaluate: Evaluate, tmp_path: Path, models: dict[str, ModelInput]
) -> None:
    cache = str(tmp_path / "cache")
    evaluate(cache=cache)
    assert evaluate(cache=cache, max_new_tokens=4)[0].summary["cached"] == 0
    assert evaluate("base", cache=cache, template={"type": "plain"})[0].summary["cached"] == 0
    template = {"type": "version", "version": "bot@1"}
    assert evaluate("base", cache=cache, template=template, template_from=models["chat"].path)[0].summary["cached"] == 0
    assert evaluate(cache=cache)[0].summary["cached"] == 30


def test_a_base_under_another_versions_template_pairs_with_it(
    evaluate: Evaluate, models: dict[str, ModelInput]
) -> None:
    template = {"type": "version", "version": "bot@1"}
    record, folder = evaluate("base", template=template, template_from=models["chat"].path)
    assert record.status == "succeeded", record.message
    base, chat = rows_of(folder), rows_of(evaluate()[1])
    assert base.header.template.digest == chat.header.template.digest
    assert not base.header.template.has_own
    policy = parse_policy(
        "name: t\nversion: 1\nmetrics:\n  - {suite: echo, metric: echo, min_rows: 20, min_clusters: 6, "
        "max_truncated: 1.0, "
        "rules: [{type: ceiling, at_most: 0.99}, {type: improve, over: parent, by: 0, when: base}]}\n"
    )
    report = run_gate(policy, chat, {"parent": base})
    assert {reason.code for reason in report.reasons} <= {"IMPROVE"}
    plain = rows_of(evaluate("base", template={"type": "plain"})[1])
    assert "TEMPLATE_MISMATCH" in {reason.code for reason in run_gate(policy, chat, {"parent": plain}).reasons}


def test_a_base_has_no_own_template(evaluate: Evaluate) -> None:
    record, _ = evaluate("base")
    assert (record.status, record.code) == ("failed", "BAD_TEMPLATE")
    assert "base@1 has no chat template" in record.message
    record, _ = evaluate("base", template={"type": "version", "version": "bot@1"})
    assert (record.status, record.code) == ("failed", "BAD_TEMPLATE")


def test_too_few_worked_examples(evaluate: Evaluate) -> None:
    record, _ = evaluate("base", template={"type": "plain", "num_shots": 5})
    assert (record.status, record.code) == ("failed", "BAD_SPEC")
    assert "num_shots is 5" in record.message


def test_a_prompt_beyond_the_context_is_wrong_and_says_so(evaluate: Evaluate, tmp_path: Path) -> None:
    rows = suite_rows()
    rows[0]["messages"][0]["content"] = "fox " * 400
    run = rows_of(evaluate(manifest=write_suite(tmp_path / "long", rows=rows))[1])
    row = next(row for row in run.rows if row.example_id == "gate/000")
    assert (row.score, row.stop_reason, row.num_tokens, row.answer) == (0.0, "context", 0, "")
    assert "leave no room in the model's context" in row.reason
    assert sum(row.stop_reason == "context" for row in run.rows) == 1


def test_a_scorer_that_fails_spoils_one_row_only(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mentions = CHECKERS["mentions"]

    def fragile(answer: str, target: Any) -> Any:
        return mentions(answer, target) if "bomb" not in target else target["fuse"]

    monkeypatch.setitem(CHECKERS, "mentions", fragile)
    rows = suite_rows()
    rows[3]["target"] = {"all": ["fox"], "bomb": True}
    record, folder = evaluate(manifest=write_suite(tmp_path / "broken", rows=rows))
    assert record.status == "succeeded"
    errors = {row.example_id: row.scorer_error for row in rows_of(folder).rows if row.scorer_error}
    assert list(errors) == ["gate/003"]
    assert errors["gate/003"].startswith("KeyError")
    assert record.summary["suites"]["echo"]["scorer_errors"] == 1


def test_an_edited_suite_is_refused(evaluate: Evaluate, tmp_path: Path, make_task: Callable[..., Any]) -> None:
    manifest = write_suite(tmp_path / "edited")
    task = make_task(manifest=manifest)
    write_suite(tmp_path / "edited", rows=suite_rows()[:-1])
    record = runner.run_evaluation(task, tmp_path / "attempt")
    assert (record.status, record.code) == ("failed", "BAD_SUITE")
    (tmp_path / "edited" / "echo.jsonl").write_bytes(b"{}\n")
    record = runner.run_evaluation(task, tmp_path / "again")
    assert "sha256" in record.message


def test_a_suite_named_twice_is_refused(tmp_path: Path, make_task: Callable[..., Any]) -> None:
    task = make_task()
    record = runner.run_evaluation(task.model_copy(update={"suites": task.suites * 2}), tmp_path / "attempt")
    assert (record.status, record.code) == ("failed", "BAD_SPEC")


SIGNALLED = """
import sys
from pathlib import Path
import torch
from posttrain.engine.task import TASK
from posttrain.evals.runner import run_evaluation
torch.set_num_threads(1)
run_evaluation(TASK.validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_sigterm_and_sigkill_leave_rows_that_the_next_attempt_takes_over(
    tmp_path: Path, make_task: Callable[..., Any], evaluate: Evaluate
) -> None:
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(12) for row in suite_rows()]
    manifest = write_suite(tmp_path / "large", rows=rows, max_new_tokens=64)
    task = make_task(manifest=manifest, batch_rows=1)
    (tmp_path / "task.json").write_text(task.model_dump_json())
    for number, by in enumerate((signal.SIGTERM, signal.SIGKILL)):
        folder = tmp_path / f"killed-{number}"
        arguments = [sys.executable, "-c", SIGNALLED, str(tmp_path / "task.json"), str(folder)]
        worker = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        path = folder / "output" / ROWS_FILE
        while not (path.is_file() and path.stat().st_size > 8_000):
            assert worker.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
        worker.send_signal(by)
        worker.wait(timeout=60)
        record = read_exit(folder)
        if by == signal.SIGTERM:
            assert record is not None
            assert (record.status, record.code) == ("cancelled", CancelledError.code)
        else:
            assert record is None, "a killed worker writes no exit record"
        resumed, _ = evaluate(manifest=manifest, batch_rows=64, resume_from=str(path))
        assert resumed.status == "succeeded", resumed.message
        assert 0 < resumed.summary["resumed"] < 360
        assert resumed.summary["resumed"] + resumed.summary["generated"] == 360


def test_a_suite_without_the_shard_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    rows = [row for row in suite_rows() if row["shard"] == "dev"]
    record, _ = evaluate(manifest=write_suite(tmp_path / "dev", rows=rows))
    assert (record.status, record.code) == ("failed", "BAD_SUITE")
    assert "no rows of the gate shard" in record.message


def test_a_stop_leaves_rows_to_resume_from(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def stop(self: Any, generated: int, force: bool = False) -> None:
        nonlocal calls
        calls += force
        if calls == 2:
            self.should_stop = lambda: True

    monkeypatch.setattr(runner._Attempt, "_progress", stop)
    monkeypatch.setattr(runner, "CHUNK_BATCHES", 1)
    record, folder = evaluate()
    assert (record.status, record.code) == ("cancelled", CancelledError.code)
    monkeypatch.undo()
    again, resumed = evaluate(resume_from=str(folder / "output" / ROWS_FILE))
    assert again.status == "succeeded"
    assert 4 <= again.summary["resumed"] < 30
    assert rows_of(resumed).digest == rows_of(evaluate()[1]).digest


def test_a_full_disk_is_told(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    append = runner._append
    written = 0

    def full(file: Any, record: Any) -> None:
        nonlocal written
        written += 1
        if written > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(file, record)

    monkeypatch.setattr(runner, "_append", full)
    record, _ = evaluate()
    assert (record.status, record.code, record.retryable) == ("failed", "DISK_FULL", True)


def test_another_error_is_recorded_too(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(runner, "summarise", broken)
    record, _ = evaluate()
    assert (record.status, record.code) == ("failed", "INTERNAL")
    assert "ZeroDivisionError: oh" in record.message


def test_the_suite_is_the_one_that_was_loaded(suite: Path) -> None:
    assert load_suite(suite).digest == load_suite(str(suite)).digest
