"""Records as text: cards, verdict lines, reasons. Pure functions of a message and a palette."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from posttrain.service.client import ClientError, short
from posttrain.service.proto import gates_pb2, jobs_pb2
from posttrain.tui.marks import TERMINAL, Palette, state_mark, verdict_mark
from posttrain.tui.text import clean, clock, count, duration, num_bytes, one_line, points, span_s, styled
from posttrain.tui.widgets.chain import chain_line


def job_title(job: Any) -> str:
    """What a person calls the job."""
    return one_line(job.display_name or short(job.name), 80)


def facts(rows: list[tuple[str, str | Text]], palette: Palette, width: int = 10) -> Text:
    """Aligned `label value` lines; those without a value are left out."""
    text = Text()
    for label, value in rows:
        if not value:
            continue
        if text:
            text.append("\n")
        text.append(f"{label:<{width}} ", palette.muted)
        text.append_text(value if isinstance(value, Text) else Text(value, palette.foreground))
    return text


def _options(job: Any) -> tuple[str, str]:
    """What goes in and what comes out, from the spec."""
    kind = job.spec.WhichOneof("kind")
    if kind is None:
        return "", ""
    options = getattr(job.spec, kind)
    if kind == "evaluate":
        return one_line(options.version, 60), one_line(", ".join(options.suites), 120)
    data = ", ".join(source.dataset for source in options.data)
    return f"{one_line(options.base, 50)} + {one_line(data, 70)}", one_line(options.output, 50)


def job_card(job: Any, gate_run: Any | None, palette: Palette, now: float) -> Text:
    """State, how far and how long, what it makes of what, the chain, the error."""
    progress, dot = job.progress, " - " if palette.is_ascii else " · "
    card = styled(job_title(job), f"bold {palette.foreground}").append("  ")
    card.append_text(palette.mark(state_mark(job.state)))
    if job.attempt > 1:
        card.append(f"  attempt {job.attempt}", palette.warning)
    if job.termination_reason:
        card.append(f"  {one_line(job.termination_reason, 80)}", palette.muted)
    card.append("\n")
    if progress.total and job.state not in TERMINAL:
        card.append_text(palette.bar(progress.done, progress.total, 20)).append("  ")
    parts = [f"{progress.done:,} of {progress.total:,} {one_line(progress.phase, 20)}" if progress.total else ""]
    took = span_s(job.start_time, job.end_time, now)
    if took >= 0:
        parts.append(f"{'took' if job.state in TERMINAL else 'for'} {duration(took)}")
    else:
        parts.append(f"created {clock(job.create_time)}")
    if job.state == jobs_pb2.RUNNING and progress.eta_s > 0:
        parts.append(f"{duration(progress.eta_s)} to go")
    card.append(dot.join(part for part in parts if part), palette.foreground)
    source, result = _options(job)
    arrow = " -> " if palette.is_ascii else " → "
    made_of = f"{source}{arrow}{result}" if result else source
    kind = dot.join(part for part in (one_line(job.kind, 30), made_of, one_line(short(job.name), 60)) if part)
    card.append(f"\n{kind}", palette.muted)
    chain = chain_line(job, gate_run, palette)
    if chain:
        card.append("\n").append_text(chain)
    if job.chain.message:
        card.append(f"\n{one_line(job.chain.message, 300)}", palette.muted)
    if job.error.code:
        card.append("\n").append_text(error_card(job.error, palette))
    return card


def error_card(error: Any, palette: Palette) -> Text:
    """Code, message, what to do."""
    text = styled(f"{palette.glyph(state_mark(jobs_pb2.FAILED))} {one_line(error.code, 60)}", f"bold {palette.error}")
    if error.retryable:
        text.append("  may succeed if tried again", palette.muted)
    text.append(f"\n{clean(error.message, 2_000)}", palette.foreground)
    if error.hint:
        text.append(f"\n{'->' if palette.is_ascii else '→'} {clean(error.hint, 1_000)}", palette.success)
    return text


def client_error(error: ClientError, palette: Palette) -> Text:
    """A refusal as the server put it: message, each unmet item and wrong field, the hint."""
    text = styled(f"{one_line(error.reason, 60)}: {clean(error.message, 2_000)}", f"bold {palette.error}")
    for item in error.unmet:
        text.append(f"\n  {one_line(item.type, 40)} {one_line(item.subject, 80)}: ", palette.warning)
        text.append(clean(item.description, 500), palette.foreground)
    for path, description in error.fields:
        text.append(f"\n  {one_line(path, 80)}: {clean(description, 500)}", palette.foreground)
    if error.hint:
        text.append(f"\n{'->' if palette.is_ascii else '→'} {clean(error.hint, 500)}", palette.success)
    return text


def is_blocked(run: Any | None) -> bool:
    """Whether the gate says no; without a gate run there is no evidence, which is a no, too."""
    return run is None or run.verdict != gates_pb2.PASS


def judged(run: Any) -> list[Any]:
    """The checks: what has a verdict. A suite's summary has none, it only shows what moved."""
    return [result for result in (*run.suites, *run.metrics) if result.verdict != gates_pb2.VERDICT_UNSPECIFIED]


def has_difference(result: Any) -> bool:
    """Whether the check compares two versions; a floor and a ceiling look at the candidate alone."""
    return bool(result.baseline_name)


def verdict_line(run: Any, palette: Palette) -> Text:
    """`✓ PASS`, `✗ BLOCKED 2 of 14 checks failed`, `? INCONCLUSIVE`."""
    mark = verdict_mark(run.verdict)
    results = judged(run)
    failed = sum(result.verdict == gates_pb2.FAIL for result in results)
    unclear = sum(result.verdict == gates_pb2.INCONCLUSIVE for result in results)
    word = "BLOCKED" if run.verdict == gates_pb2.FAIL else mark.word
    text = styled(f"{palette.glyph(mark)} {word}", f"bold {palette.colour(mark.colour)}")
    if results:
        parts = [f"{number} {what}" for number, what in ((failed, "failed"), (unclear, "inconclusive")) if number]
        text.append(
            f"  {' and '.join(parts)} of {len(results)} checks" if parts else f"  all {len(results)} checks hold"
        )
    if run.verdict == gates_pb2.PASS:
        text.append("  improved" if run.improved else "  no worse, no proven gain", palette.muted)
    return text


def reasons(items: Any, palette: Palette, limit: int = 50) -> Text:
    """One reason a line."""
    text = Text()
    for reason in list(items)[:limit]:
        if text:
            text.append("\n")
        where = " ".join(part for part in (one_line(reason.metric, 60), one_line(reason.baseline, 40)) if part)
        text.append(f"{'-' if palette.is_ascii else '•'} {one_line(reason.code, 50)} ", palette.warning)
        text.append(f"{where}: " if where else "", f"bold {palette.foreground}")
        text.append(clean(reason.message, 500), palette.foreground)
    if len(items) > limit:
        text.append(f"\n{len(items) - limit} more", palette.muted)
    return text


def gate_summary(run: Any | None, palette: Palette) -> Text:
    """The verdict, each suite's difference with its interval, and the reasons, for a dialog or a side panel."""
    if run is None:
        return Text("? no gate run: there is no evidence to promote on", f"bold {palette.warning}")
    text = verdict_line(run, palette)
    for result in list(run.suites)[:8]:
        mark = verdict_mark(result.verdict)
        text.append(f"\n{palette.glyph(mark)} ", palette.colour(mark.colour))
        text.append(f"{one_line(result.metric, 24):<24} ", palette.foreground)
        text.append(f"{points(result.difference):>7} pt ", f"bold {palette.foreground}")
        text.append(f"[{points(result.low)}, {points(result.high)}]", palette.muted)
    if run.reasons:
        text.append("\n").append_text(reasons(run.reasons, palette, 6))
    return text


def version_card(version: Any, moves: list[Any], palette: Palette) -> Text:
    """Identity, origin, evidence and files of a version, and how its model's aliases moved."""
    head = styled(one_line(version.ref, 80), f"bold {palette.foreground}")
    if version.aliases:
        head.append("  ").append_text(palette.chips(list(version.aliases)))
    size = sum(file.num_bytes for file in version.files)
    rows: list[tuple[str, str | Text]] = [
        ("role", f"{one_line(version.role, 20)}, {one_line(version.form, 20)}"),
        ("model", f"{one_line(version.architecture, 50)}, {count(version.num_parameters)} parameters"),
        ("parent", f"{one_line(version.parent, 60)} ({one_line(version.relation, 20)})" if version.parent else ""),
        ("source", one_line(version.source, 200)),
        ("job", one_line(short(version.job), 60)),
        ("data", Text(", ".join(one_line(item, 100) for item in version.datasets), palette.foreground)),
        ("digest", digest(version.digest)),
        ("weights", digest(version.weights_digest)),
        ("spec", digest(version.spec_sha256)),
        ("template", digest(version.template_digest) or "none: it has no chat template"),
        ("files", f"{len(version.files)} files, {num_bytes(size)}"),
        ("created", f"{clock(version.create_time)}"),
    ]
    text = head.append("\n").append_text(facts(rows, palette))
    arrow = "->" if palette.is_ascii else "→"
    if moves:
        text.append("\n\nAliases moved", f"bold {palette.foreground}")
    for move in moves[:10]:
        text.append(f"\n{clock(move.time)}  ", palette.muted)
        before, after = one_line(move.from_version, 40) or "nothing", one_line(move.to_version, 40)
        text.append(f"{one_line(move.alias, 30)} {before} {arrow} {after}", palette.foreground)
        text.append(f"  {one_line(move.kind, 20)}  {one_line(move.reason, 120)}", palette.muted)
    return text


def digest(value: str) -> str:
    """Enough of a digest to compare by eye."""
    text = one_line(value, 80)
    return text if len(text) <= 19 else f"{text[:19]}…"
