"""Hostile text in every field that the UI shows: nothing crashes, and only printable text reaches the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.service.proto import gates_pb2, jobs_pb2, models_pb2, spec_pb2
from tests.tui import records
from tests.tui.fake_server import PARENT, FakeServer
from tests.tui.hostile import HOSTILE, NASTY, is_harmful


def poison(server: FakeServer, text: str) -> None:
    """Puts the text wherever a server could send it; a megabyte only into the log and the error."""
    long, text = text, text[:20_000]
    job = records.job(
        "bad",
        jobs_pb2.FAILED,
        1,
        display_name=text,
        kind=text,
        termination_reason=text,
        error=jobs_pb2.JobError(code=text, message=long, hint=text),
        chain=jobs_pb2.Chain(step=jobs_pb2.CHAIN_FAILED, message=text, version=text, gate_run=f"{PARENT}/gateRuns/bad"),
    )
    job.spec.CopyFrom(
        spec_pb2.JobSpec(sft=spec_pb2.SftSpec(base=text, output=text, data=[spec_pb2.DataSource(dataset=text)]))
    )
    job.progress.phase = text
    job.progress.values[text[:1000]] = 1.0
    server.jobs = {job.name: job}
    server.points[job.name] = [
        jobs_pb2.MetricPoint(step=step, values={"loss": 1.0 / step, text[:1000]: float(step)}) for step in range(1, 20)
    ]
    server.logs[job.name] = [long, f"Traceback {text}", f"{text[:50]}\rwarning {text[:50]}"]
    server.events[job.name] = [
        records.event(1, jobs_pb2.QUEUED, jobs_pb2.STARTING, text),
        jobs_pb2.JobEvent(sequence=2, type=text, message=text),
    ]
    ref = f"{text[:200]}@1".replace("\n", " ")
    run = records.gate_run("bad", ref, gates_pb2.FAIL, 1, baselines=[text, text], alias=text, explanation=text)
    run.policy = run.policy_digest = run.candidate_digest = run.report_digest = text
    run.eval_runs.append(text)
    for result in (*run.suites, *run.metrics, *run.unseen):
        result.metric = result.baseline_name = result.rule = text
    run.reasons.add(code=text, metric=text, baseline=text, message=text)
    server.gate_runs = [run]
    version = records.version(ref, age_s=1, verdict=text)
    version.role = version.form = version.relation = version.architecture = version.source = version.job = text
    version.digest = version.weights_digest = version.template_digest = version.spec_sha256 = text
    version.datasets.append(text)
    server.versions = [version]
    alias = models_pb2.Alias(
        name=f"{PARENT}/models/{ref.rpartition('@')[0]}/aliases/{text[:100]}", alias=text[:100], version=ref, etag="e"
    )
    server.aliases = [alias]
    server.moves = [models_pb2.AliasMove(alias=text, from_version=text, to_version=text, kind=text, reason=text)]
    server.tell_versions()


async def check(ui: Any) -> None:
    await ui.pilot.pause(0.05)
    shown = ui.text()
    assert not is_harmful(shown), [hex(ord(c)) for c in shown if is_harmful(c)]


# Each of HOSTILE alone goes through the cleaning in test_text.py; here are all at once, markup, and a megabyte.
@pytest.mark.parametrize("text", [NASTY, HOSTILE[2], HOSTILE[-1]], ids=["all", "markup", "megabyte"])
async def test_hostile_text_everywhere(open_ui: Any, server: FakeServer, text: str) -> None:
    poison(server, text)
    async with open_ui(size=(130, 40)) as ui:
        await check(ui)
        await ui.press("y")  # the toast
        await check(ui)
        await ui.press("slash", "x", "escape")
        await ui.open("enter", screen="JobScreen")
        await ui.until(lambda: len(ui.app.screen.query_one("LogView").lines) == 3, "the log")
        await check(ui)
        await ui.press("m", "m", "v", "v", "v")
        await check(ui)
        await ui.press("escape", "2")
        await check(ui)
        await ui.open("enter", screen="GateScreen")
        await check(ui)
        await ui.press("escape", "3")
        await check(ui)
        await ui.open("p", screen="PromoteDialog")
        server.refuse(text[:500], text[:2000], text[:500])
        ui.app.screen.send()
        await ui.until(lambda: server.calls, "refused")
        await check(ui)
        await ui.press("escape")
        await ui.open("b", screen="RollbackDialog")
        await check(ui)
        await ui.press("escape")
        await ui.open("ctrl+p", screen="CommandPalette")
        await ui.press("o", "b")
        await check(ui)


async def test_a_hostile_job_can_be_cancelled(open_ui: Any, server: FakeServer) -> None:
    poison(server, NASTY)
    next(iter(server.jobs.values())).state = jobs_pb2.RUNNING
    async with open_ui() as ui:
        await ui.open("x", screen="CancelDialog")
        await check(ui)
        await ui.press("tab", "enter")
        await ui.until(lambda: server.calls, "cancelled")
        await check(ui)
