"""Records as people read them, on stdout."""

from __future__ import annotations

from posttrain.service.cli.follow import Outcome, state_text
from posttrain.service.cli.records import enum_name
from posttrain.service.cli.text import (
    clean,
    echo,
    echo_table,
    moment,
    num_bytes,
    one_line,
    percent,
    points,
    seconds,
    span_s,
)
from posttrain.service.client import short
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2


def echo_fields(pairs: list[tuple[str, object]]) -> None:
    """NAME  VALUE lines, without those that are empty."""
    filled = [(name, clean(value)) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in filled), default=0)
    for name, value in filled:
        echo(f"{name:<{width}}  {value}")


def echo_jobs(jobs: list[jobs_pb2.Job]) -> None:
    columns = ["JOB", "KIND", "STATE", "PROGRESS", "CHAIN", "VERSION", "CREATED", "NAME"]
    rows = [
        [
            short(job.name),
            job.kind,
            enum_name(jobs_pb2.JobState, job.state),
            f"{job.progress.phase} {job.progress.done}/{job.progress.total}" if job.progress.total else "-",
            enum_name(jobs_pb2.ChainStep, job.chain.step) if job.chain.step else "-",
            job.chain.version or "-",
            moment(job.create_time),
            job.display_name,
        ]
        for job in jobs
    ]
    echo_table(columns, rows)


def echo_job(job: jobs_pb2.Job) -> None:
    echo_fields(
        [
            ("job", job.name),
            ("name", job.display_name),
            ("kind", job.kind),
            ("state", state_text(job)),
            ("attempt", job.attempt or ""),
            ("parent job", job.parent_job),
            ("version", job.chain.version),
            ("gate run", job.chain.gate_run),
            ("promotion", job.chain.promotion),
            ("created", moment(job.create_time)),
            ("started", moment(job.start_time)),
            ("ended", moment(job.end_time)),
            ("spec sha256", job.spec_sha256),
        ]
    )
    echo("spec")
    echo(job.spec_json)


def echo_datasets(versions: list[datasets_pb2.DatasetVersion]) -> None:
    rows = [
        [
            item.ref,
            "sealed" if item.sealed else "open",
            item.format or "-",
            item.num_rows,
            num_bytes(item.num_bytes),
            item.sha256[:12],
            moment(item.create_time),
            item.source,
        ]
        for item in versions
    ]
    echo_table(["DATASET", "STATE", "FORMAT", "ROWS", "SIZE", "SHA256", "CREATED", "SOURCE"], rows)


def echo_dataset(item: datasets_pb2.DatasetVersion) -> None:
    echo_fields(
        [
            ("dataset", item.ref),
            ("state", "sealed" if item.sealed else "open"),
            ("format", item.format),
            ("rows", item.num_rows),
            ("size", num_bytes(item.num_bytes)),
            ("sha256", item.sha256),
            ("source", item.source),
            ("created", moment(item.create_time)),
            ("skipped", f"{item.num_skipped} bad rows" if item.num_skipped else ""),
            ("duplicates", f"{item.num_duplicates} left out" if item.num_duplicates else ""),
            ("held out", item.held_out),
            ("held out of", item.held_out_of),
        ]
    )
    for note in item.notes:
        echo(f"note: {note}")
    for problem in item.skipped:
        echo(f"skipped: {problem}")
    if item.num_skipped > len(item.skipped):
        echo(f"skipped: and {item.num_skipped - len(item.skipped)} more")


def echo_statistics(item: datasets_pb2.DatasetStatistics) -> None:
    overlong = f"{item.num_overlong:,} rows ({item.num_overlong / item.num_rows:.1%}) above {item.limit:,} tokens"
    cut = f"; cutting them drops {item.num_cut:,} tokens ({item.num_cut / item.num_tokens:.1%})"
    lost = f", and {item.num_lost:,} would keep no trained token" if item.num_lost else ""
    echo_fields(
        [
            ("dataset", item.dataset),
            ("model", item.model),
            ("rows", f"{item.num_rows:,}"),
            ("characters", f"{item.num_characters:,}"),
            ("tokens", f"{item.num_tokens:,}"),
            ("trained", f"{item.num_trained:,} ({item.num_trained / item.num_tokens:.1%})"),
            ("length", f"mean {item.mean:.1f}, median {item.p50:,}, 95% up to {item.p95:,}, longest {item.longest:,}"),
            ("too long", overlong + cut + lost if item.num_overlong else f"none above {item.limit:,} tokens"),
        ]
    )


def echo_models(versions: list[models_pb2.ModelVersion]) -> None:
    rows = [
        [
            item.ref,
            ", ".join(item.aliases) or "-",
            item.role,
            item.form,
            item.parent or "-",
            item.gate_verdict or "-",
            item.digest[:12],
            moment(item.create_time),
        ]
        for item in versions
    ]
    echo_table(["VERSION", "ALIASES", "ROLE", "FORM", "PARENT", "GATE", "DIGEST", "CREATED"], rows)


def echo_model(item: models_pb2.ModelVersion) -> None:
    echo_fields(
        [
            ("version", item.ref),
            ("aliases", ", ".join(item.aliases)),
            ("role", item.role),
            ("form", item.form),
            ("architecture", item.architecture),
            ("parameters", f"{item.num_parameters:,}" if item.num_parameters else ""),
            ("parent", f"{item.parent} ({item.relation})" if item.parent else ""),
            ("source", item.source),
            ("job", item.job),
            ("gate", item.gate_verdict),
            ("digest", item.digest),
            ("weights digest", item.weights_digest),
            ("template digest", item.template_digest),
            ("spec sha256", item.spec_sha256),
            ("created", moment(item.create_time)),
        ]
    )
    for dataset in item.datasets:
        echo(f"dataset: {dataset}")
    echo_table(["FILE", "SIZE", "SHA256"], [[f.path, num_bytes(f.num_bytes), f.sha256] for f in item.files])


def echo_lineage(lineage: models_pb2.Lineage) -> None:
    """A tree by parent; a version whose parent is not in the answer stands at the left."""
    versions = {item.ref: item for item in lineage.versions}
    children: dict[str, list[str]] = {}
    for item in lineage.versions:
        children.setdefault(item.parent if item.parent in versions else "", []).append(item.ref)
    stack = [(ref, 0) for ref in reversed(children.get("", []))]
    while stack:
        ref, depth = stack.pop()
        item = versions[ref]
        aliases = f"  [{', '.join(item.aliases)}]" if item.aliases else ""
        verdict = f"  gate {item.gate_verdict}" if item.gate_verdict else ""
        relation = f"{item.relation} -> " if item.relation else ""
        echo(f"{'    ' * depth}{relation}{one_line(ref)}  {item.role} {item.form}{aliases}{verdict}")
        stack += [(child, depth + 1) for child in reversed(children.get(ref, []))]
    kinds = {"trained_on", "rewarded_by", "evaluated_on"}
    others = [[e.kind, e.parent, e.child] for e in lineage.edges if e.kind in kinds]
    if others:
        echo()
        echo_table(["RELATION", "FROM", "TO"], others)


def echo_eval_run(run: gates_pb2.EvalRun) -> None:
    rows_of = f"{run.num_rows} rows{' of a second run' if run.repeat else ''}"
    echo(f"{run.version}: {rows_of} under template {run.template}, shard {run.shard} ({short(run.name)})")
    rows = [
        [s.metric, s.shard, s.n, percent(s.score), percent(s.low), percent(s.high), percent(s.level)]
        for s in run.scores
    ]
    echo_table(["METRIC", "SHARD", "N", "SCORE %", "LOW", "HIGH", "LEVEL %"], rows)


def _interval(result: gates_pb2.GateResult) -> str:
    """Of the difference in points, or, where there is nothing to compare with (a floor, a ceiling), of the score."""
    shown = points if result.baseline_name else percent
    return f"[{shown(result.low)}, {shown(result.high)}]"


def echo_gate_run(run: gates_pb2.GateRun, full: bool = True) -> None:
    """The verdict, each suite's paired difference, and why."""
    judged = ", ".join(run.baselines) or "floors only"
    verdict = enum_name(gates_pb2.Verdict, run.verdict)
    echo(f"{verdict}: {run.candidate} against {judged}, policy {run.policy} ({short(run.name)})")
    sections = (
        [("suites", run.suites), ("metrics", run.metrics), ("unseen wordings", run.unseen)]
        if full
        else [("", run.suites)]
    )
    for title, results in sections:
        if not results:
            continue
        if title:
            echo(f"\n{title}")
        echo_table(
            [
                "METRIC",
                "AGAINST",
                "N",
                "BASELINE %",
                "CANDIDATE %",
                "DIFFERENCE",
                "INTERVAL",
                "LEVEL %",
                "RULE",
                "VERDICT",
            ],
            [
                [
                    result.metric,
                    result.baseline_name or "-",
                    result.n,
                    percent(result.baseline) if result.baseline_name else "-",
                    percent(result.candidate),
                    points(result.difference) if result.baseline_name else "-",
                    _interval(result),
                    percent(result.level),
                    result.rule,
                    enum_name(gates_pb2.Verdict, result.verdict) if result.verdict else "-",
                ]
                for result in results
            ],
        )
    if run.reasons:
        echo()
    for reason in run.reasons:
        echo(reason_text(reason))
    if run.explanation:
        echo(f"\n{run.explanation}")


def reason_text(reason: gates_pb2.GateReason) -> str:
    subject = " against ".join(filter(None, [reason.metric, reason.baseline]))
    return f"- {reason.code}{f' ({subject})' if subject else ''}: {reason.message}"


def echo_promotion(promotion: gates_pb2.Promotion) -> None:
    outcome = enum_name(gates_pb2.Promotion.Outcome, promotion.outcome)
    before = f" (before: {promotion.from_version})" if promotion.from_version else ""
    echo(f"{outcome}: {promotion.model}@{promotion.alias} -> {promotion.version}{before} ({short(promotion.name)})")
    for reason in promotion.missing:
        echo(reason_text(reason))


def echo_outcome(outcome: Outcome) -> None:
    """How a job and its chain ended."""
    job = outcome.job
    took = seconds(span_s(job.start_time, job.end_time))
    echo(f"{short(job.name)}: {state_text(job)} (training {took}, evaluation {seconds(outcome.evaluation_s)})"
         if job.kind != "evaluate" else f"{short(job.name)}: {state_text(job)} ({took})")  # fmt: skip
    if outcome.gate_run is not None:
        echo_gate_run(outcome.gate_run, full=False)
    if outcome.promotion is not None:
        echo_promotion(outcome.promotion)
