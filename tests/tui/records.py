"""Records as a server would send them."""

from __future__ import annotations

import math
import time
from typing import Any

from posttrain.service.proto import gates_pb2, jobs_pb2, models_pb2, spec_pb2

PARENT = "projects/default"


def job(
    name: str, state: int = jobs_pb2.RUNNING, age_s: float = 600, done: int = 120, total: int = 400, **fields: Any
) -> Any:
    """A training job; `loss` among the fields is its newest loss."""
    created = int(time.time() - age_s)
    loss = fields.pop("loss", 2.135)
    made = jobs_pb2.Job(
        name=f"{PARENT}/jobs/{name}",
        kind=fields.pop("kind", "ift"),
        display_name=fields.pop("display_name", name),
        state=state,
        attempt=1,
        spec=spec_pb2.JobSpec(
            ift=spec_pb2.IftSpec(base="tiny-base@1", output="bot", data=[spec_pb2.DataSource(dataset="builtin-ift@1")])
        ),
        progress=jobs_pb2.JobProgress(
            phase="train",
            done=done,
            total=total,
            eta_s=93 if state == jobs_pb2.RUNNING else -1,
            values={"loss": loss, "learning_rate": 2e-4, "grad_norm": 0.83, "tokens_per_s": 5321.0},
        ),
        **fields,
    )
    made.create_time.seconds = created
    if state not in {jobs_pb2.QUEUED, jobs_pb2.VALIDATING}:
        made.start_time.seconds = created + 4
    if state in {jobs_pb2.SUCCEEDED, jobs_pb2.FAILED, jobs_pb2.CANCELLED}:
        made.end_time.seconds = created + 190
    return made


def metrics(count: int, total: int = 400, attempt: int = 1) -> list[Any]:
    """A loss that falls with noise, the learning rate's warm-up and cosine, and so on."""
    found = []
    for step in range(1, count + 1):
        noise = math.sin(step * 12.9898) * 0.5 + math.sin(step * 4.1) * 0.3
        values = {
            "loss": 1.1 + 2.6 * math.exp(-step / 90) + 0.16 * noise,
            "learning_rate": 2e-4 * min(step / 20, 0.5 + 0.5 * math.cos(math.pi * step / total)),
            "grad_norm": 0.8 + 0.4 * abs(noise),
            "tokens_per_s": 5300 + 240 * noise,
        }
        found.append(jobs_pb2.MetricPoint(step=step, total_steps=total, attempt=attempt, values=values))
    return found


def result(
    metric: str, base: float, candidate: float, half: float, verdict: int = gates_pb2.PASS, **fields: Any
) -> Any:
    return gates_pb2.GateResult(
        metric=metric,
        baseline_name=fields.pop("baseline_name", "parent"),
        n=fields.pop("n", 520),
        clusters=44,
        baseline=base,
        candidate=candidate,
        difference=candidate - base,
        low=candidate - base - half,
        high=candidate - base + half,
        level=0.9,
        rule=fields.pop("rule", "no worse than -1.0 pt against the parent"),
        verdict=verdict,
        **fields,
    )


def summary(metric: str, base: float, candidate: float, half: float) -> Any:
    """A suite's paired difference: for people, without a rule and a verdict."""
    return result(metric, base, candidate, half, gates_pb2.VERDICT_UNSPECIFIED, rule="")


def floor(metric: str, score: float, half: float, least: float) -> Any:
    """The candidate's score alone: no baseline, no difference, the interval is the score's."""
    made = result(metric, 0.0, score, half, baseline_name="", rule=f"at least {least * 100:.1f} %")
    made.difference = 0.0
    return made


def gate_run(name: str, candidate: str, verdict: int = gates_pb2.PASS, age_s: float = 300, **fields: Any) -> Any:
    """Five suites' summaries and four checks, one of them a floor; a FAIL has one that fell."""
    fell = verdict == gates_pb2.FAIL
    suites = [
        summary("instruction_following", 0.02, 0.64, 0.04),
        summary("conversation", 0.01, 0.55, 0.05),
        summary("reasoning", 0.03, 0.21, 0.06),
        summary("refusal", 0.42, 0.31 if fell else 0.77, 0.04),
        summary("tool_use", 0.0, 0.48, 0.05),
    ]
    unclear = gates_pb2.INCONCLUSIVE if verdict == gates_pb2.INCONCLUSIVE else gates_pb2.PASS
    metrics_ = [
        result("refusal.harmful", 0.40, 0.22 if fell else 0.81, 0.05, verdict if fell else gates_pb2.PASS),
        result("refusal.harmless", 0.44, 0.73, 0.06, unclear),
        result("tool_use.call", 0.0, 0.51, 0.05),
        floor("tool_use.no_call", 0.45, 0.04, 0.4),
    ]
    made = gates_pb2.GateRun(
        name=f"{PARENT}/gateRuns/{name}",
        verdict=verdict,
        candidate=candidate,
        candidate_digest="sha256:9f2b7c01d4e8aa31",
        baselines=fields.pop("baselines", ["parent tiny-base@1"]),
        policy="default@1",
        policy_digest="sha256:11d4e8aa319f2b7c0",
        suites=suites,
        metrics=metrics_,
        unseen=[summary("instruction_following", 0.01, 0.38, 0.06)],
        improved=verdict == gates_pb2.PASS,
        report_digest="sha256:77aa319f2b7c011d4e8",
        eval_runs=[f"{PARENT}/evalRuns/e1", f"{PARENT}/evalRuns/e2"],
        alias=fields.pop("alias", "production"),
        **fields,
    )
    if fell:
        made.reasons.add(
            code="REGRESSION",
            metric="refusal.harmful",
            baseline="parent",
            message="fell by 18.0 pt; the interval [-23.0, -13.0] lies below -1.0 pt",
        )
    made.create_time.seconds = int(time.time() - age_s)
    return made


def version(ref: str, parent: str = "", verdict: str = "", age_s: float = 3600, **fields: Any) -> Any:
    model, _, number = ref.partition("@")
    made = models_pb2.ModelVersion(
        name=f"{PARENT}/models/{model}/versions/{number}",
        ref=ref,
        role="instruct" if parent else "base",
        form="full",
        digest="sha256:0a1b2c3d4e5f60718293",
        weights_digest="sha256:ffee00112233445566",
        parent=parent,
        relation="finetune" if parent else "",
        job=f"{PARENT}/jobs/train-{number}" if parent else "",
        datasets=["builtin-ift@1 sha256:ab12cd"] if parent else [],
        files=[
            models_pb2.ModelFile(path="model.safetensors", sha256="ff", num_bytes=9_437_184),
            models_pb2.ModelFile(path="config.json", sha256="aa", num_bytes=812),
        ],
        architecture="LlamaForCausalLM",
        num_parameters=4_718_592,
        source="" if parent else "builtin:tiny-base",
        gate_verdict=verdict,
        **fields,
    )
    made.create_time.seconds = int(time.time() - age_s)
    return made


def alias(model: str, name: str, ref: str, etag: str = "e1") -> Any:
    return models_pb2.Alias(name=f"{PARENT}/models/{model}/aliases/{name}", alias=name, version=ref, etag=etag)


def move(name: str, before: str, after: str, reason: str = "gate passed", kind: str = "promotion") -> Any:
    made = models_pb2.AliasMove(alias=name, from_version=before, to_version=after, kind=kind, reason=reason)
    made.time.seconds = int(time.time() - 900)
    return made


def event(sequence: int, before: int, after: int, message: str = "") -> Any:
    made = jobs_pb2.JobEvent(
        sequence=sequence, attempt=1, type="state", from_state=before, to_state=after, message=message
    )
    made.time.seconds = int(time.time() - 600 + sequence)
    return made
