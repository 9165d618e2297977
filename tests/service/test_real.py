"""The real engine behind the real service: a whole chain, a killed worker, a cancel, and data that cannot be trained
on.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from posttrain.service.proto import gates_pb2, jobs_pb2, models_pb2

from .asking import GATE, refused, submit, upload
from .serving import PROJECT, Server
from .test_chain import promotions, versions_of
from .test_jobs import children_of
from .test_recovery import worker_of
from .test_standby import standby_of

pytestmark = pytest.mark.slow
PATIENCE_S = 240.0


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "ift",
        "base": "tiny@1",
        "output": "bot",
        "data": [{"dataset": "sums@1"}],
        "seed": 3,
        "dtype": "float32",
        "batch": {"num_rows": 4, "max_tokens": 128},
        "optimizer": {"learning_rate": 1e-3},
        **changes,
    }


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, seeded_home: Path) -> Iterator[Server]:
    home = Path(copytree(seeded_home, tmp_path_factory.mktemp("real") / "home"))
    server = Server(home, settings={"workers": 2, "standby": True}).start()
    yield server
    server.close()


def points(server: Server, job: jobs_pb2.Job) -> dict[int, tuple[int, dict[str, float]]]:
    """Step -> (newest attempt, values)."""
    request = jobs_pb2.ListJobMetricsRequest(parent=job.name, page_size=1000)
    return {p.step: (p.attempt, dict(p.values)) for p in server.jobs.ListJobMetrics(request).points}


def test_a_standby_computes_what_a_worker_of_its_own_does(real: Server) -> None:
    pid = standby_of(real)
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    nice = [(thread / "stat").read_text().rpartition(")")[2].split()[16] for thread in threads]
    assert set(nice) == {str(os.getpriority(os.PRIO_PROCESS, 0))}, (
        "also of threads that libraries started while it was low"
    )
    lora = {"type": "lora", "rank": 4, "dropout": 0.1}
    warm, cold = (submit(real, spec(output=name, adapter=lora, then={"type": "register"})) for name in ("warm", "cold"))
    workers = [worker_of(real, job) for job in (warm, cold)]
    assert [worker.pid == pid for worker in workers] == [True, False]
    assert [worker.taken_s > 0 for worker in workers] == [True, False]
    for job in (warm, cold):
        real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    digests = {version.weights_digest for model in ("warm", "cold") for version in versions_of(real, model)}
    assert len(digests) == 1, "the same weights, bit by bit"
    ours, theirs = points(real, warm), points(real, cold)
    assert [(v["loss"], v["grad_norm"]) for _, v in ours.values()] == [
        (v["loss"], v["grad_norm"]) for _, v in theirs.values()
    ]


def test_a_whole_chain(real: Server) -> None:
    job = submit(real, spec(then=GATE))
    answers = list(real.jobs.WatchJobs(jobs_pb2.WatchJobsRequest(name=job.name), timeout=PATIENCE_S))
    done = answers[-1].job
    assert (done.state, done.chain.step) == (jobs_pb2.SUCCEEDED, jobs_pb2.DONE), done.chain
    (version,) = [version for version in versions_of(real) if version.job == job.name]
    assert (version.role, version.form, version.parent) == ("instruct", "full", "tiny@1")
    assert version.template_digest
    assert version.spec_sha256 == job.spec_sha256
    templates = sorted(child.spec.evaluate.template.WhichOneof("type") for child in children_of(real, job))
    assert templates == ["own", "plain", "version"]
    # Six steps of a random model learn nothing: the verdict is honest about it, and the refusal is on record.
    gate = real.gates.GetGateRun(gates_pb2.GetGateRunRequest(name=done.chain.gate_run))
    assert gate.verdict == gates_pb2.FAIL
    assert [promotion.outcome for promotion in promotions(real)] == [gates_pb2.Promotion.REFUSED]
    rows = real.evaluations.ListEvalRows(gates_pb2.ListEvalRowsRequest(parent=done.chain.eval_runs[0], page_size=5))
    assert len(rows.rows) == 5
    assert rows.next_page_token


def test_talking_to_versions(real: Server) -> None:
    job = submit(real, spec(output="chatty", duration={"type": "steps", "max_steps": 2}))
    real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    request = models_pb2.SampleModelVersionRequest(
        name=f"{PROJECT}/models/chatty/versions/1", against="tiny@1", max_new_tokens=5,
        turns=[models_pb2.ChatTurn(role="user", content="What is 1 plus one?")],
    )  # fmt: skip
    answers = list(real.models.SampleModelVersion(request, timeout=PATIENCE_S))
    assert [answer.version for answer in answers] == ["chatty@1", "tiny@1"]
    assert all(answer.num_tokens <= 5 and answer.stop_reason in ("stop", "length") for answer in answers)


def test_a_worker_killed_in_mid_training_ends_with_the_same_numbers(real: Server) -> None:
    plan = spec(duration={"type": "steps", "max_steps": 240}, checkpoint={"every_steps": 20}, then={"type": "register"})
    whole = submit(real, {**plan, "output": "whole"})
    real.until(whole.name, "SUCCEEDED", timeout_s=PATIENCE_S)
    broken = submit(real, {**plan, "output": "broken"})
    worker = worker_of(real, broken)
    real.wait(lambda: real.get(broken.name).progress.done >= 50, "step 50", PATIENCE_S)
    os.kill(worker.pid, signal.SIGKILL)
    done = real.until(broken.name, "SUCCEEDED", timeout_s=PATIENCE_S)
    assert done.attempt == 2
    ours, theirs = points(real, broken), points(real, whole)
    assert set(ours) == set(theirs) == set(range(1, 241))
    assert {attempt for attempt, _ in ours.values()} == {1, 2}
    for step in theirs:
        mine, other = ours[step][1], theirs[step][1]
        assert (mine["loss"], mine["grad_norm"]) == (other["loss"], other["grad_norm"]), f"step {step}"
    records = {}
    for job, attempt in ((whole, 1), (broken, 2)):
        folder = real.home / "jobs" / job.name.rpartition("/")[2] / "attempts" / str(attempt)
        records[attempt] = json.loads((folder / "exit.json").read_text())["summary"]["loss"]
    assert repr(records[1]) == repr(records[2])
    real.until_chain(broken.name, "DONE")
    digests = {version.weights_digest for model in ("whole", "broken") for version in versions_of(real, model)}
    assert len(digests) == 1, "the same weights, bit by bit"


def test_cancelling_in_mid_training(real: Server) -> None:
    job = submit(real, spec(duration={"type": "steps", "max_steps": 100000}))
    real.wait(lambda: real.get(job.name).progress.done >= 3, "some steps", PATIENCE_S)
    real.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=job.name))
    done = real.until(job.name, "CANCELLED", timeout_s=PATIENCE_S)
    assert (done.attempt, done.termination_reason) == (1, "CANCELLED")
    folder = real.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1"
    assert json.loads((folder / "exit.json").read_text())["status"] == "cancelled", "it stopped by itself when asked"


def test_a_row_longer_than_the_context_fails_by_its_number(real: Server) -> None:
    rows = [{"prompt": "short", "completion": "yes"}, {"prompt": "word " * 400, "completion": "no"}]
    made = upload(real, "".join(json.dumps(row) + "\n" for row in rows).encode(), "long")
    real.datasets.SealDataset(type_of_seal(made.name))
    job = submit(real, spec(data=[{"dataset": made.ref}]))
    done = real.until(job.name, "FAILED", timeout_s=PATIENCE_S)
    assert done.error.code == "ROW_TOO_LONG"
    assert "row 2" in done.error.message
    assert done.error.hint
    assert done.chain.step == jobs_pb2.CHAIN_FAILED


def test_rows_whose_labels_are_all_masked_fail_by_their_number(real: Server) -> None:
    job = submit(real, spec(batch={"num_rows": 4, "max_tokens": 4, "overlong": "truncate"}))
    done = real.until(job.name, "FAILED", timeout_s=PATIENCE_S)
    assert done.error.code == "ALL_LABELS_MASKED"
    assert "no trained token is left: row 1 (" in done.error.message
    assert "batch.max_tokens" in done.error.hint
    assert done.progress.phase == "data", "no step was taken"
    assert job.name not in {version.job for version in versions_of(real, "bot")}


def type_of_seal(name: str) -> Any:
    from posttrain.service.proto import datasets_pb2

    return datasets_pb2.SealDatasetRequest(name=name)


def test_a_template_that_is_not_there_fails_by_name(real: Server) -> None:
    with refused() as said:
        submit(real, spec(template={"type": "own"}))
    assert said.code == "INVALID_ARGUMENT"
    assert "tiny@1 has no chat template" in said.fields["base"]


def test_a_version_without_a_template_cannot_be_asked_under_its_own(real: Server) -> None:
    job = submit(real, {"kind": "evaluate", "version": "tiny@1", "suites": ["sums"]})
    done = real.until(job.name, "FAILED", timeout_s=PATIENCE_S)
    assert done.error.code == "BAD_TEMPLATE"
    with refused() as said:
        real.gates.CreateGateRun(gates_pb2.CreateGateRunRequest(parent=PROJECT, candidate="tiny@1", policy="tiny"))
    assert said.code == "FAILED_PRECONDITION"


# -- preferences ------------------------------------------------------------------------------------------------------

FEW = {"duration": {"type": "steps", "max_steps": 3}, "batch": {"num_rows": 4, "max_tokens": 128}}


@pytest.fixture(scope="module")
def chat(real: Server) -> str:
    """A model with a chat template."""
    job = submit(real, spec(output="chat", duration={"type": "steps", "max_steps": 2}))
    real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    return "chat@1"


@pytest.fixture(scope="module")
def pairs(real: Server) -> str:
    rows = [{"prompt": f"What is {i} plus one?", "chosen": str(i + 1), "rejected": "I do not know."} for i in range(8)]
    made = upload(real, "".join(json.dumps(row) + "\n" for row in rows).encode(), "pairs")
    real.datasets.SealDataset(type_of_seal(made.name))
    return str(made.ref)


@pytest.mark.parametrize("adapter", [{"type": "full"}, {"type": "lora", "rank": 2}], ids=["full", "lora"])
def test_preferences_make_a_new_version_of_the_model(
    real: Server, chat: str, pairs: str, adapter: dict[str, Any]
) -> None:
    job = submit(real, spec(kind="dpo", base=chat, output="kind", data=[{"dataset": pairs}], adapter=adapter, **FEW))
    done = real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    version = next(version for version in versions_of(real, "kind") if version.job == job.name)
    assert (version.role, version.parent, version.form) == (
        "instruct",
        chat,
        "full" if adapter["type"] == "full" else "adapter",
    )
    assert version.template_digest
    values = points(real, done)[1][1]
    assert values["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert {"reward_margin", "reward_accuracy", "logp_chosen"} <= set(values)


@pytest.fixture(scope="module")
def judge(real: Server, chat: str, pairs: str) -> str:
    job = submit(real, spec(kind="reward", base=chat, output="judge", data=[{"dataset": pairs}], **FEW))
    real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    return "judge@1"


def test_a_reward_model_is_registered_as_one_and_never_asked(real: Server, chat: str, judge: str) -> None:
    (version,) = versions_of(real, "judge")
    assert (version.role, version.parent, version.form) == ("reward", chat, "full")
    with refused() as said:
        submit(real, spec(kind="sft", base=judge, data=[{"dataset": "sums@1"}]))
    assert said.fields["base"] == "judge@1 is a reward model: it scores answers and writes none"
    with refused() as said:
        submit(real, {"kind": "evaluate", "version": "judge@1", "suites": ["sums"]})
    assert said.fields["version"] == "judge@1 is a reward model: it scores answers and writes none"


def test_a_reward_model_rewards_a_job_and_stands_in_the_lineage(real: Server, chat: str, judge: str) -> None:
    rows = [{"prompt": f"What is {i} plus one?", "checker": "final_answer", "target": i + 1} for i in range(8)]
    made = upload(real, "".join(json.dumps(row) + "\n" for row in rows).encode(), "questions")
    real.datasets.SealDataset(type_of_seal(made.name))
    grpo = {
        "kind": "grpo",
        "base": chat,
        "data": [{"dataset": made.ref}],
        "rollout": {"num_completions": 2, "max_new_tokens": 4},
        "duration": {"type": "steps", "max_steps": 1},
        "batch": {"num_rows": 2, "max_tokens": 128},
    }
    with refused() as said:
        submit(real, spec(**grpo, output="rl", rewards=[{"type": "checker"}, {"type": "model", "model": chat}]))
    assert said.fields["rewards[1].model"] == f"{chat} is no reward model: its role is instruct; kind reward makes one"
    with refused() as said:
        submit(real, spec(**grpo, output="rl", rewards=[{"type": "model", "model": "nobody@1"}]))
    assert "nobody" in said.fields["rewards[0].model"]
    job = submit(real, spec(**grpo, output="rl", rewards=[{"type": "model", "model": "judge@latest"}]))
    assert job.spec.grpo.rewards[0].model.model == "judge@1", "pinned when it was submitted"
    done = real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    values = points(real, done)[1][1]
    assert values["reward"] == values["reward_model"]
    (version,) = versions_of(real, "rl")
    lineage = real.models.GetLineage(models_pb2.GetLineageRequest(name=version.name))
    assert ("judge@1", "rl@1") in {(edge.parent, edge.child) for edge in lineage.edges if edge.kind == "rewarded_by"}
    assert "judge@1" not in {item.ref for item in lineage.versions}, "no ancestor: its weights are not in it"


def test_a_job_gets_rows_of_the_kind_that_it_reads(real: Server, chat: str, pairs: str) -> None:
    with refused() as said:
        submit(real, spec(kind="sft", base=chat, data=[{"dataset": pairs}]))
    assert "has rows of format preference; sft reads messages" in said.fields["data[0].dataset"]
    with refused() as said:
        submit(real, spec(kind="dpo", base=chat, loss={"type": "kto"}, data=[{"dataset": pairs}]))
    assert "dpo reads unpaired" in said.fields["data[0].dataset"]


# -- tool use ---------------------------------------------------------------------------------------------------------


def test_tool_use_makes_a_new_version_and_says_how_many_rows_call(real: Server, chat: str) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"f of {i}?"},
                {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": i}}]},
                {"role": "tool", "content": str(i)},
                {"role": "assistant", "content": str(i)},
            ],
            "tools": [tool],
        }
        for i in range(4)
    ]
    made = upload(real, "".join(json.dumps(row) + "\n" for row in rows).encode(), "calls")
    real.datasets.SealDataset(type_of_seal(made.name))
    options = {**FEW, "batch": {"num_rows": 4, "max_tokens": 256}, "output": "caller", "base": chat}
    job = submit(real, spec(kind="tool_use", data=[{"dataset": made.ref}], **options))
    done = real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    (version,) = [version for version in versions_of(real, "caller") if version.job == job.name]
    (before,) = versions_of(real, "chat")
    assert (version.role, version.parent, version.form) == ("instruct", chat, "full")
    assert version.template_digest == before.template_digest
    assert set(points(real, done)) == {1, 2, 3}
    folder = real.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1"
    assert "100% of 4 rows call a tool (0% several at once)" in (folder / "events.jsonl").read_text()


def test_tool_use_reads_conversations_and_wants_a_template(real: Server, chat: str, pairs: str) -> None:
    with refused() as said:
        submit(real, spec(kind="tool_use", base="tiny@1", data=[{"dataset": pairs}]))
    assert "tool_use reads messages" in said.fields["data[0].dataset"]
    assert "tiny@1 has no chat template" in said.fields["base"]


# -- reinforcement learning -------------------------------------------------------------------------------------------


def test_grpo_makes_a_new_version_and_keeps_samples(real: Server, chat: str) -> None:
    rows = [
        {"prompt": f"What is {i} plus one?", "checker": "regex", "target": {"pattern": "e|[0-9]"}} for i in range(6)
    ]
    made = upload(real, "".join(json.dumps(row) + "\n" for row in rows).encode(), "questions")
    real.datasets.SealDataset(type_of_seal(made.name))
    with refused() as said:
        submit(real, spec(kind="sft", base=chat, data=[{"dataset": made.ref}]))
    assert "has rows of format prompts; sft reads messages" in said.fields["data[0].dataset"]
    rollout = {"num_completions": 4, "max_new_tokens": 8}
    rewards = [{"type": "checker"}, {"type": "regex", "pattern": "^ ", "weight": 0.5}]
    options = {**FEW, "rollout": rollout, "rewards": rewards, "output": "reasoner", "base": chat}
    job = submit(real, spec(kind="grpo", data=[{"dataset": made.ref}], **options))
    done = real.until_chain(job.name, "DONE", timeout_s=PATIENCE_S)
    (version,) = versions_of(real, "reasoner")
    assert (version.role, version.parent, version.form) == ("instruct", chat, "full")
    values = points(real, done)[1][1]
    assert values["reward"] == pytest.approx(values["reward_checker"] + 0.5 * values["reward_regex"])
    assert {"zero_variance_share", "completion_tokens", "entropy"} <= set(values)
    folder = real.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1"
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text("ascii").splitlines()]
    assert len(samples) == 3 * 2 * 4
    assert all("What is" in sample["prompt"] for sample in samples)
