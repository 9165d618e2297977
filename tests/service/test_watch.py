"""WatchJobs: snapshot, deltas, resume tokens, bookmarks, gaps, and the end."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from posttrain.service.proto import jobs_pb2

from .asking import GATE, refused, submit, train_spec
from .serving import PROJECT, Server

Type = jobs_pb2.WatchJobsResponse


def watch(server: Server, timeout: float = 60, **fields: Any) -> Any:
    return server.jobs.WatchJobs(jobs_pb2.WatchJobsRequest(**fields), timeout=timeout)


def test_one_job_from_snapshot_to_end(shared: Server) -> None:
    job = submit(shared, train_spec("steps=5 delay=0.05"))
    answers = list(watch(shared, name=job.name))
    assert [answer.type for answer in answers[:2]] == [Type.SNAPSHOT, Type.SNAPSHOT_DONE]
    assert {answer.type for answer in answers[2:]} <= {Type.CHANGED, Type.BOOKMARK}
    sequences = [answer.sequence for answer in answers if answer.HasField("job")]
    assert sequences == sorted(sequences)
    changed = [answer for answer in answers if answer.type == Type.CHANGED]
    assert all(answer.resume_token for answer in changed), "one job is one answer a round"
    assert changed[-1].job.state == jobs_pb2.SUCCEEDED
    assert changed[-1].job.chain.step == jobs_pb2.DONE
    # Ended already: a snapshot, and the end.
    again = list(watch(shared, name=job.name))
    assert [answer.type for answer in again] == [Type.SNAPSHOT, Type.SNAPSHOT_DONE]


def test_a_chain_is_watched_to_its_end(shared: Server) -> None:
    job = submit(shared, train_spec("steps=1", then=GATE))
    answers = list(watch(shared, name=job.name))
    steps = [answer.job.chain.step for answer in answers if answer.HasField("job")]
    assert steps == sorted(steps)
    assert steps[-1] == jobs_pb2.DONE
    assert answers[-1].job.chain.promotion


def test_resuming_goes_on_after_the_token(shared: Server) -> None:
    job = submit(shared, train_spec("steps=30 delay=0.05"))
    stream = watch(shared, name=job.name)
    seen = 0
    for answer in stream:
        if answer.type == Type.CHANGED and answer.job.progress.done >= 2:
            seen, token = answer.sequence, answer.resume_token
            break
    stream.cancel()
    rest = list(watch(shared, name=job.name, resume_token=token))
    assert all(answer.type in (Type.CHANGED, Type.BOOKMARK) for answer in rest), "no snapshot again"
    assert min(answer.sequence for answer in rest if answer.HasField("job")) > seen
    assert rest[-1].job.chain.step == jobs_pb2.DONE
    assert list(watch(shared, name=job.name, resume_token=rest[-1].resume_token)) == [], (
        "nothing happened since the end"
    )


def test_a_project_is_watched_on_and_on(shared: Server) -> None:
    before = submit(shared, train_spec("steps=1"))
    shared.until_chain(before.name, "DONE")
    stream = watch(shared, parent=PROJECT)
    names = set()
    for answer in stream:
        if answer.type == Type.SNAPSHOT_DONE:
            break
        names.add(answer.job.name)
    assert before.name in names
    after = submit(shared, train_spec("steps=1"))
    for answer in stream:
        if answer.job.name == after.name and answer.job.chain.step == jobs_pb2.DONE:
            break
    stream.cancel()


def test_an_idle_watch_gets_bookmarks(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"bookmark_s": 0.2})
    stream = watch(server, parent=PROJECT)
    answers = [next(stream) for _ in range(3)]
    stream.cancel()
    assert [answer.type for answer in answers] == [Type.SNAPSHOT_DONE, Type.BOOKMARK, Type.BOOKMARK]
    assert answers[-1].resume_token == answers[0].resume_token != ""


def test_a_reader_that_was_away_too_long_gets_a_gap_and_snapshots(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"watch_backlog": 20})
    stream = watch(server, parent=PROJECT)
    token = next(stream).resume_token
    stream.cancel()
    job = submit(server, train_spec("steps=60"))
    server.until_chain(job.name, "DONE")
    answers = []
    for answer in watch(server, parent=PROJECT, resume_token=token):
        answers.append(answer)
        if answer.type == Type.SNAPSHOT_DONE:
            break
    assert [answer.type for answer in answers] == [Type.GAP, Type.SNAPSHOT, Type.SNAPSHOT_DONE]
    assert answers[1].job.chain.step == jobs_pb2.DONE
    caught_up = watch(server, parent=PROJECT, resume_token=answers[-1].resume_token)
    later = submit(server, train_spec("steps=1"))
    assert next(caught_up).job.name == later.name
    caught_up.cancel()


def test_a_reader_that_stops_reading_costs_nothing_and_gets_a_gap(serve: Callable[..., Server]) -> None:
    """Flow control stops the server's side; when the reader comes back it has lost changes and is told so."""
    server = serve(fake=True, settings={"watch_backlog": 50, "workers": 4})
    big = "x" * 150
    stream = watch(server, parent=PROJECT)
    next(stream)
    jobs = [submit(server, train_spec(f"steps=400 {big}", seed=n)) for n in range(4)]
    for job in jobs:
        server.until_chain(job.name, "DONE", timeout_s=120)
    kinds = []
    for answer in stream:
        kinds.append(answer.type)
        if answer.HasField("job") and answer.job.name == jobs[-1].name and answer.job.chain.step == jobs_pb2.DONE:
            break
    stream.cancel()
    events = sum(len(server.events(job.name)) for job in jobs)
    assert events > 1600
    assert len(kinds) < events, "changes were folded together or left out, not stored up"


@pytest.mark.parametrize(
    "token",
    [
        "rubbish",
        "////",
        base64.urlsafe_b64encode(json.dumps(["default", "", 10**9]).encode()).decode(),
        base64.urlsafe_b64encode(json.dumps(["other", "", 1]).encode()).decode(),
        base64.urlsafe_b64encode(json.dumps(["default", "", -1]).encode()).decode(),
        base64.urlsafe_b64encode(b"[" * 2000).decode(),
    ],
)
def test_a_token_that_is_none_of_ours(shared: Server, token: str) -> None:
    with refused() as said:
        next(watch(shared, parent=PROJECT, resume_token=token))
    assert (said.code, said.reason) == ("INVALID_ARGUMENT", "BAD_RESUME_TOKEN")


def test_watching_what_is_not_there(shared: Server) -> None:
    with refused() as said:
        next(watch(shared, name=f"{PROJECT}/jobs/sft-0000000000"))
    assert said.code == "NOT_FOUND"
    with refused() as said:
        next(watch(shared, parent="projects/other", name=f"{PROJECT}/jobs/sft-0000000000"))
    assert set(said.fields) == {"name"}
