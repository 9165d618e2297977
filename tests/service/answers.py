"""What a server answers in the tests of the command line, and what it is asked with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

from .fake_server import FakeServer, change, job

EVIL = "a\x1b[31mb\x1b]0;title\x07c\u202ed\x9be\rf"


SPEC = "kind: sft\nbase: a@1\noutput: bot\ndata: [{dataset: rows@1}]\n"


Cli = Callable[..., tuple[int, str, str]]


DATASET = datasets_pb2.DatasetVersion(ref="rows@1", sealed=True, num_rows=3, num_bytes=2048, sha256="ab" * 32)


MODEL = models_pb2.ModelVersion(
    ref="bot@1",
    role="instruct",
    form="full",
    num_parameters=7,
    parent="base@1",
    relation="finetune",
    aliases=["production"],
)


BASE = models_pb2.ModelVersion(ref="base@1", role="base", form="full")


GATE = gates_pb2.GateRun(
    name="projects/default/gateRuns/g1",
    verdict=gates_pb2.FAIL,
    candidate="bot@1",
    baselines=["parent base@1"],
    policy="default",
    reasons=[gates_pb2.GateReason(code="FLOOR", metric="reasoning", message="12.0 is below 30.0")],
    suites=[
        gates_pb2.GateResult(
            metric="reasoning",
            baseline_name="parent",
            n=500,
            baseline=0.1,
            candidate=0.12,
            difference=0.02,
            low=-0.01,
            high=0.05,
            level=0.99,
            verdict=gates_pb2.FAIL,
        )
    ],
)


PROMOTION = gates_pb2.Promotion(
    name="projects/default/promotions/p1",
    outcome=gates_pb2.Promotion.APPLIED,
    version="bot@1",
    model="bot",
    alias="production",
)


RUN = gates_pb2.EvalRun(
    name="projects/default/evalRuns/e1",
    job="projects/default/jobs/j1",
    version="bot@1",
    num_rows=500,
    scores=[gates_pb2.MetricScore(metric="reasoning", shard="gate", n=500, score=0.5, low=0.4, high=0.6, level=0.95)],
)


ALIAS = models_pb2.Alias(alias="production", version="bot@2", etag="e7")


def logs(*lines: str) -> Callable[[Any], Any]:
    """One page of lines, then none."""
    return lambda r: jobs_pb2.ListJobLogsResponse(lines=() if r.page_token else lines, next_page_token="t")


def events(*items: Any) -> Any:
    return jobs_pb2.ListJobEventsResponse(events=items)


def fill(fake: FakeServer) -> None:
    done = job(jobs_pb2.SUCCEEDED, spec_json="{}", display_name="mine")
    fake.on("CreateJob", job(jobs_pb2.QUEUED)).on("GetJob", done).on("CancelJob", job(jobs_pb2.CANCELLING))
    fake.on("ListJobs", jobs_pb2.ListJobsResponse(jobs=[done, job(name="j0")])).on("WatchJobs", [change(done)])
    lines = [
        jobs_pb2.ListJobLogsResponse(next_page_token="t"),
        jobs_pb2.ListJobLogsResponse(lines=["x"], next_page_token="t"),
    ]
    fake.on("ListJobLogs", lambda request: lines[not request.page_token])
    fake.on(
        "ListJobEvents",
        jobs_pb2.ListJobEventsResponse(events=[jobs_pb2.JobEvent(sequence=1, type="state", to_state=2)]),
    )
    fake.on("UploadDataset", datasets_pb2.DatasetVersion(name="n")).on("SealDataset", DATASET)
    fake.on("GetDatasetVersion", DATASET)
    fake.on("ListDatasetVersions", datasets_pb2.ListDatasetVersionsResponse(versions=[DATASET]))
    fake.on("ImportModel", BASE).on("GetModelVersion", MODEL)
    fake.on("ListModelVersions", models_pb2.ListModelVersionsResponse(versions=[MODEL, BASE]))
    edge = models_pb2.LineageEdge(parent="rows@1", child="bot@1", kind="trained_on")
    fake.on("GetLineage", models_pb2.Lineage(versions=[BASE, MODEL], edges=[edge]))
    fake.on("ExportModelVersion", models_pb2.ExportModelVersionResponse(folder="/x", num_bytes=5))
    fake.on("SampleModelVersion", [models_pb2.SampleModelVersionResponse(version="bot@1", text="hello", num_tokens=1)])
    measured = {"num_rows": 10, "num_tokens": 1000, "num_trained": 300, "limit": 256, "num_overlong": 3, "num_cut": 40}
    fake.on("MeasureDataset", datasets_pb2.DatasetStatistics(dataset="rows@1", **measured))
    fake.on("ListSuites", gates_pb2.ListSuitesResponse(suites=[gates_pb2.Suite(name="reasoning", num_rows=500)]))
    fake.on("AddSuite", gates_pb2.Suite(name="mine"))
    fake.on("ListEvalRuns", gates_pb2.ListEvalRunsResponse(eval_runs=[RUN]))
    fake.on("CreateGateRun", GATE).on("GetGateRun", GATE).on("GetEvalRun", RUN)
    fake.on("CreatePromotion", PROMOTION).on("GetPromotion", PROMOTION)
    fake.on("ListPromotions", gates_pb2.ListPromotionsResponse(promotions=[PROMOTION]))
    fake.on("ListAliases", models_pb2.ListAliasesResponse(aliases=[ALIAS]))
    fake.on("RollbackAlias", models_pb2.Alias(alias="production", version="bot@1"))


RECORDS: list[tuple[str, int, str]] = [  # command, lines of JSON, something that people see
    ("submit SPEC", 1, "j1"),
    ("submit SPEC --wait", 1, "SUCCEEDED"),
    ("submit SPEC --validate-only", 1, "j1"),
    ("jobs list", 2, "mine"),
    ("jobs get j1", 1, "SUCCEEDED"),
    ("jobs watch j1", 1, "SUCCEEDED"),
    ("jobs logs j1", 1, "x"),
    ("jobs logs j1 --events", 1, "QUEUED"),
    ("jobs cancel j1", 1, "CANCELLING"),
    ("datasets add rows ROWS", 1, "rows@1"),
    ("datasets list", 1, "2.0 KiB"),
    ("datasets get rows", 1, "rows@1"),
    ("datasets stats rows --model bot", 1, "3 rows (30.0%) above 256 tokens; cutting them drops 40 tokens (4.0%)"),
    ("models import base builtin:tiny-base", 1, "base@1"),
    ("models list", 2, "production"),
    ("models get bot@production", 1, "bot@1"),
    ("models lineage", 1, "    finetune -> bot@1"),
    ("models export bot@1 out", 1, "/x"),
    ("suites list", 1, "reasoning"),
    ("suites add SPEC", 1, "mine"),
    ("eval bot@1", 1, "50.0"),
    ("eval bot@1 --no-wait", 1, "j1"),
    ("gate bot@1", 1, "12.0 is below 30.0"),
    ("promote bot@1 production", 1, "APPLIED"),
    ("promotions list", 1, "APPLIED"),
    ("promotions get p1", 1, "APPLIED"),
    ("rollback bot production --reason why", 1, "bot@2 -> bot@1"),
    ("sample bot@1 --prompt hi", 1, "hello"),
]  # fmt: skip
