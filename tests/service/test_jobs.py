"""Creating, reading and cancelling jobs over gRPC; bad input names its field, and nothing is started or kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from posttrain.engine.spec import parse_spec, spec_digest
from posttrain.engine.task import TASK, TrainTask
from posttrain.service.convert import spec_to_proto
from posttrain.service.proto import datasets_pb2, jobs_pb2, spec_pb2

from .asking import GATE, refused, submit, train_spec, upload
from .serving import PROJECT, Server


def count(server: Server) -> int:
    return len(server.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=PROJECT, page_size=1000)).jobs)


def test_a_job_runs_to_its_end(shared: Server) -> None:
    job = submit(shared, train_spec("steps=6"))
    assert job.state == jobs_pb2.QUEUED
    assert job.attempt == 0
    assert job.spec_sha256 == spec_digest(parse_spec(train_spec("steps=6")))
    done = shared.until(job.name, "SUCCEEDED")
    assert (done.attempt, done.progress.done, done.progress.total) == (1, 6, 6)
    assert done.start_time.seconds > 0
    assert done.end_time.seconds > 0
    assert shared.until_chain(job.name, "DONE").chain.version.startswith("bot@")
    states = [(e.from_state, e.to_state) for e in shared.events(job.name) if e.type == "state"]
    v, q, s, r, ok = (jobs_pb2.JobState.Value(n) for n in ("VALIDATING", "QUEUED", "STARTING", "RUNNING", "SUCCEEDED"))
    assert states == [(0, v), (v, q), (q, s), (s, r), (r, ok)]
    numbers = [event.sequence for event in shared.events(job.name)]
    assert numbers == list(range(1, len(numbers) + 1))
    points = shared.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name, page_size=4))
    rest = shared.jobs.ListJobMetrics(
        jobs_pb2.ListJobMetricsRequest(parent=job.name, page_token=points.next_page_token)
    )
    assert [p.step for p in (*points.points, *rest.points)] == [1, 2, 3, 4, 5, 6]
    assert rest.points[-1].values["loss"] == 1 / 6
    later = shared.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name, page_token=rest.next_page_token))
    assert list(later.points) == []
    assert later.next_page_token == rest.next_page_token


def test_held_out_numbers_are_points_of_their_own_and_stay_in_the_progress(shared: Server) -> None:
    job = submit(shared, train_spec("steps=5 heldout=2"))
    done = shared.until(job.name, "SUCCEEDED")
    points = shared.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name)).points
    assert [p.step for p in points] == [1, 2, 2, 3, 4, 4, 5]
    assert dict(points[2].values) == {"held_out_loss": 2 / 2}
    assert dict(done.progress.values) == {"loss": 1 / 5, "tokens_per_s": 100.0, "held_out_loss": 2 / 4}


def test_held_out_datasets_are_pinned_and_handed_to_the_worker(shared: Server) -> None:
    version = upload(shared, b'{"prompt": "q", "completion": "a"}\n', "apart")
    shared.datasets.SealDataset(datasets_pb2.SealDatasetRequest(name=version.name))
    held_out = {"type": "data", "datasets": ["apart@latest"], "every_steps": 7}
    job = submit(shared, train_spec("steps=1", held_out=held_out))
    assert list(job.spec.sft.held_out.data.datasets) == ["apart@1"]
    shared.until(job.name, "SUCCEEDED")
    (path,) = (shared.home / "jobs" / job.name.rpartition("/")[2]).glob("attempts/1/assignment.json")
    task = TASK.validate_json(path.read_bytes())
    assert isinstance(task, TrainTask)
    assert [(item.ref, item.sha256) for item in task.held_out] == [("apart@1", version.sha256)]
    assert [item.ref for item in task.datasets] == ["sums@1"]


def test_the_same_request_is_the_same_job(shared: Server) -> None:
    first = submit(shared, train_spec("steps=2"), request_id="req-1")
    before = count(shared)
    again = submit(shared, train_spec("steps=2"), request_id="req-1")
    assert again.name == first.name
    assert count(shared) == before
    with refused() as said:
        submit(shared, train_spec("steps=3"), request_id="req-1")
    assert (said.code, said.reason) == ("ALREADY_EXISTS", "ALREADY_EXISTS")


def test_validate_only_checks_and_keeps_nothing(shared: Server) -> None:
    before = count(shared)
    plan = submit(shared, train_spec(base="tiny@latest"), validate_only=True)
    assert plan.name == ""
    assert plan.spec.sft.base == "tiny@1", "a reference is pinned when it is checked"
    with refused():
        submit(shared, train_spec(base="nobody@1"), validate_only=True)
    with refused() as said:
        submit(shared, train_spec(adapter={"type": "lora", "targets": ["w1"]}), validate_only=True)
    assert set(said.fields) == {"adapter.targets[0]"}
    assert count(shared) == before


EVALUATE = {"kind": "evaluate", "version": "tiny@1", "suites": ["sums"]}
BAD: list[tuple[dict[str, Any], str, str]] = [
    (train_spec(base="nobody@1"), "base", "no model version nobody@1"),
    (train_spec(base="tiny@7"), "base", "tiny@7"),
    (train_spec(base="tiny@production"), "base", "no alias"),
    (train_spec(base="Tiny"), "base", "pattern"),
    (train_spec(template={"type": "own"}), "base", "tiny@1 has no chat template"),
    (train_spec(data=[{"dataset": "sums@1"}, {"dataset": "none@1"}]), "data[1].dataset", "none@1"),
    (train_spec(data=[{"dataset": "sums@1", "weight": -1.0}]), "data[0].weight", "greater than 0"),
    (train_spec(data=[]), "data", ""),
    (train_spec(output="../up"), "output", "pattern"),
    (train_spec(then={**GATE, "suites": ["sums", "poems"]}), "then.suites[1]", "poems"),
    (train_spec(then={**GATE, "suites": []}), "then.suites", ""),
    (train_spec(then={**GATE, "suites": ["sums", "sums"]}), "then.suites[1]", "twice"),
    (train_spec(then={**GATE, "policy": "strict"}), "then.policy", "strict"),
    (train_spec(then={**GATE, "alias": "latest"}), "then.alias", "latest"),
    (train_spec(adapter={"type": "lora", "rank": 0}), "adapter.rank", "greater than or equal"),
    (
        train_spec(adapter={"type": "lora", "targets": ["q_proj", "w1"]}),
        "adapter.targets[1]",
        "'w1' is no layer of this model; its linear layers are down_proj, gate_proj, k_proj, o_proj, q_proj",
    ),
    (train_spec(duration={"type": "epochs", "num_epochs": 0.0}), "duration.num_epochs", "greater than 0"),
    (train_spec(optimizer={"learning_rate": float("nan")}), "optimizer.learning_rate", ""),
    (train_spec(optimizer={"name": "adafactor", "beta1": 0.5}), "optimizer", "beta1: AdamW's"),
    (train_spec(held_out={"type": "data", "datasets": ["none@1"]}), "held_out.datasets[0]", "none@1"),
    (train_spec(held_out={"type": "data", "datasets": ["sums@1"]}), "held_out.datasets[0]", "sums@1 is trained on"),
    (train_spec(held_out={"type": "data", "datasets": []}), "held_out.datasets", "required"),
    (train_spec(held_out={"type": "share", "ratio": 1.0}), "held_out.ratio", "less than 1"),
    (train_spec(trackers=["http://elsewhere"]), "trackers[0]", "tensorboard"),
    (train_spec(dtype="float16"), "dtype", "float32"),
    (train_spec(display_name="red \x1b[31m"), "display_name", "U+001B"),
    (train_spec(display_name="\u202eevil"), "display_name", "U+202E"),
    (train_spec(display_name="x" * 201), "display_name", "200"),
    ({**EVALUATE, "version": "bot@99"}, "version", "bot@99"),
    ({**EVALUATE, "suites": ["poems"]}, "suites[0]", "poems"),
    ({**EVALUATE, "template": {"type": "version", "version": "ghost@1"}}, "template.version", "ghost@1"),
]


@pytest.mark.parametrize(("spec", "field", "text"), BAD, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(BAD)])
def test_a_bad_spec_names_its_field(shared: Server, spec: dict[str, Any], field: str, text: str) -> None:
    before = count(shared)
    with refused() as said:
        submit(shared, spec, request_id="bad-1")
    assert said.code == "INVALID_ARGUMENT", said
    assert text in said.fields.get(field, "not named"), said
    assert count(shared) == before


def test_all_wrong_references_are_named_at_once(shared: Server) -> None:
    with refused() as said:
        submit(shared, train_spec(base="a@1", data=[{"dataset": "b@1"}], then={**GATE, "suites": ["c"]}))
    assert set(said.fields) >= {"base", "data[0].dataset", "then.suites[0]"}


def test_an_unsealed_dataset_is_refused(shared: Server) -> None:
    ref = upload(shared, b'{"prompt": "a", "completion": "b"}\n', "open").ref
    with refused() as said:
        submit(shared, train_spec(data=[{"dataset": ref}]))
    assert "not sealed" in said.fields["data[0].dataset"]


def test_a_dataset_that_the_kind_cannot_read_is_refused(shared: Server) -> None:
    made = upload(shared, b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "pairs")
    ref = shared.datasets.SealDataset(datasets_pb2.SealDatasetRequest(name=made.name)).ref
    with refused() as said:
        submit(shared, train_spec(data=[{"dataset": "sums@1"}, {"dataset": ref}]))
    expected = f"{ref} has rows of format preference; sft reads messages or prompt_completion or alpaca or sharegpt"
    assert said.fields == {"data[1].dataset": expected}


def test_an_unknown_option_is_refused_by_place(shared: Server) -> None:
    spec = spec_to_proto(train_spec())
    spec.sft.optimizer.MergeFromString(b"\xf8\x06\x01")
    with refused() as said:
        shared.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, spec=spec))
    assert "unknown option" in said.fields["optimizer"]


def test_a_spec_without_a_kind_is_refused(shared: Server) -> None:
    with refused() as said:
        shared.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, spec=spec_pb2.JobSpec()))
    assert "kind" in said.fields


@pytest.mark.parametrize(
    "parent", ["", "default", "projects/", "projects/a/b", "projects/../etc", "projects/UP", "projects/a\n"]
)
def test_a_bad_parent_is_refused(shared: Server, parent: str) -> None:
    with refused() as said:
        shared.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=parent))
    assert (said.code, set(said.fields)) == ("INVALID_ARGUMENT", {"parent"})


def test_lookups_that_find_nothing(shared: Server) -> None:
    for call in (
        lambda: shared.get(f"{PROJECT}/jobs/sft-0000000000"),
        lambda: shared.get("projects/other/jobs/sft-0000000000"),
        lambda: shared.jobs.ListJobLogs(jobs_pb2.ListJobLogsRequest(parent=f"{PROJECT}/jobs/sft-0000000000")),
    ):
        with refused() as said:
            call()
        assert (said.code, said.reason) == ("NOT_FOUND", "NOT_FOUND")


def test_pages_and_filters(shared: Server) -> None:
    job = submit(shared, train_spec("steps=1"))
    shared.until(job.name, "SUCCEEDED")
    page = shared.jobs.ListJobs(
        jobs_pb2.ListJobsRequest(parent=PROJECT, page_size=1, filter="state:SUCCEEDED kind:sft")
    )
    assert len(page.jobs) == 1
    assert page.jobs[0].name == job.name
    assert page.next_page_token
    other = jobs_pb2.ListJobsRequest(parent=PROJECT, page_size=1, filter="kind:ift", page_token=page.next_page_token)
    for request in (
        other,
        jobs_pb2.ListJobsRequest(parent=PROJECT, filter="colour:red"),
        jobs_pb2.ListJobsRequest(parent=PROJECT, page_size=-1),
    ):
        with refused() as said:
            shared.jobs.ListJobs(request)
        assert said.code == "INVALID_ARGUMENT"
        assert said.fields


def test_logs_are_read_in_pieces(shared: Server) -> None:
    job = submit(shared, train_spec("steps=2 print=40"))
    shared.until(job.name, "SUCCEEDED")
    lines, token = [], ""
    for _ in range(10):
        page = shared.jobs.ListJobLogs(jobs_pb2.ListJobLogsRequest(parent=job.name, page_size=7, page_token=token))
        if not page.lines:
            break
        assert len(page.lines) <= 7
        lines += page.lines
        token = page.next_page_token
    assert lines == [f"line {n}" for n in range(40)]
    tail = shared.jobs.ListJobLogs(jobs_pb2.ListJobLogsRequest(parent=job.name, page_size=3, tail=True))
    assert list(tail.lines) == ["line 37", "line 38", "line 39"]
    assert tail.next_page_token == token
    with refused() as said:
        shared.jobs.ListJobLogs(jobs_pb2.ListJobLogsRequest(parent=job.name, page_token="../../etc/passwd"))
    assert set(said.fields) == {"page_token"}


# -- cancelling -------------------------------------------------------------------------------------------------------


def cancel(server: Server, name: str, etag: str = "") -> jobs_pb2.Job:
    return server.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=name, etag=etag))


def test_a_queued_job_is_cancelled_at_once(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    running = submit(server, train_spec("hang=1"))
    waiting = submit(server, train_spec())
    server.until(running.name, "RUNNING")
    assert cancel(server, waiting.name).state == jobs_pb2.CANCELLED
    done = server.get(waiting.name)
    assert (done.attempt, done.termination_reason) == (0, "CANCELLED")
    assert done.chain.step == jobs_pb2.CHAIN_FAILED
    assert cancel(server, running.name).state == jobs_pb2.CANCELLING
    done = server.until(running.name, "CANCELLED")
    assert done.chain.step == jobs_pb2.CHAIN_FAILED
    with refused() as said:
        cancel(server, running.name)
    assert (said.code, said.reason) == ("FAILED_PRECONDITION", "ILLEGAL_TRANSITION")


def test_a_starting_job_is_cancelled(serve: Callable[..., Server]) -> None:
    """The worker is up and has said nothing yet."""
    server = serve(fake=True)
    job = submit(server, train_spec("mute=60"))
    server.until(job.name, "STARTING")
    cancel(server, job.name)
    assert server.until(job.name, "CANCELLED").attempt == 1


def test_a_worker_that_does_not_listen_is_ended(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"grace_s": 0.5})
    job = submit(server, train_spec("stubborn hang=1"))
    server.until(job.name, "RUNNING")
    cancel(server, job.name)
    assert cancel(server, job.name).state in (jobs_pb2.CANCELLING, jobs_pb2.CANCELLED)
    assert server.until(job.name, "CANCELLED").termination_reason == "CANCELLED"


def test_cancelling_with_an_old_etag_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("hang=1"))
    server.until(job.name, "RUNNING")
    with refused() as said:
        cancel(server, job.name, job.etag)
    assert (said.code, said.reason) == ("ABORTED", "CONFLICT")
    assert server.get(job.name).state == jobs_pb2.RUNNING


def test_cancelling_after_training_ends_the_chain_and_its_evaluations(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    (server.home / "fake_scores.json").write_text('{"delay": 60}')
    job = submit(server, train_spec("steps=2", then=GATE))
    server.until_chain(job.name, "EVALUATE")
    children = server.wait(lambda: children_of(server, job), "the evaluations")
    server.until(children[-1].name, "STARTING", "RUNNING")
    cancel(server, job.name)
    ended = server.get(job.name)
    assert ended.state == jobs_pb2.SUCCEEDED
    assert (ended.chain.step, ended.chain.message) == (jobs_pb2.CHAIN_FAILED, "cancelled")
    for child in children:
        server.until(child.name, "CANCELLED")
    with refused() as said:
        cancel(server, job.name)
    assert said.reason == "ILLEGAL_TRANSITION"


def children_of(server: Server, job: jobs_pb2.Job) -> list[jobs_pb2.Job]:
    number = job.name.rpartition("/")[2]
    return list(server.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=PROJECT, filter=f"parent:{number}")).jobs)


@pytest.mark.parametrize("is_allowed", [False, True])
def test_python_runs_where_the_server_allows_it(serve: Callable[..., Server], is_allowed: bool) -> None:
    server = serve(fake=True, settings={"python_tool": is_allowed})
    version = upload(server, b'{"prompt": "q", "checker": "none"}\n', "prompts")
    server.datasets.SealDataset(datasets_pb2.SealDatasetRequest(name=version.name))
    spec = train_spec(
        "steps=1", kind="grpo", data=[{"dataset": "prompts@1"}],
        rewards=[{"type": "regex", "pattern": "x"}], environment={"type": "tools", "tools": ["python"]},
    )  # fmt: skip
    if not is_allowed:
        for validate_only in (False, True):
            with refused() as said:
                submit(server, spec, validate_only=validate_only)
            assert said.fields == {"environment.tools": "the server does not let models run Python"}
        assert count(server) == 0
        return
    job = submit(server, spec)
    server.until(job.name, "SUCCEEDED")
    (path,) = (server.home / "jobs" / job.name.rpartition("/")[2]).glob("attempts/1/assignment.json")
    task = TASK.validate_json(path.read_bytes())
    assert isinstance(task, TrainTask)
    assert task.python_tool, "the worker asks again"


def test_functions_as_rewards_are_of_modules_that_the_server_allows(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"reward_modules": ["good.rewards", "other"]})
    row = b'{"prompt": "q", "checker": "none"}\n'
    version = upload(server, row, "prompts")
    server.datasets.SealDataset(datasets_pb2.SealDatasetRequest(name=version.name))

    def spec_with(*functions: str) -> dict[str, Any]:
        parts = [{"type": "python", "function": function} for function in functions]
        return train_spec("steps=1", kind="grpo", data=[{"dataset": "prompts@1"}], rewards=parts)

    for validate_only in (False, True):
        with refused() as said:
            submit(server, spec_with("good.rewards:f", "good:f", "os:system"), validate_only=validate_only)
        assert said.code == "INVALID_ARGUMENT"
        assert said.fields == {
            "rewards[1].function": "the server does not allow module good (allowed: good.rewards, other)",
            "rewards[2].function": "the server does not allow module os (allowed: good.rewards, other)",
        }
    assert count(server) == 0
    job = submit(server, spec_with("good.rewards:f"))
    server.until(job.name, "SUCCEEDED")
    (path,) = (server.home / "jobs" / job.name.rpartition("/")[2]).glob("attempts/1/assignment.json")
    task = TASK.validate_json(path.read_bytes())
    assert isinstance(task, TrainTask)
    assert task.reward_modules == ["good.rewards", "other"], "the worker asks again"
