"""The chain train -> register -> evaluate -> gate -> promote as one line, and as one cell."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from posttrain.service.proto import gates_pb2, jobs_pb2
from posttrain.tui.marks import BLOCKED, CHAIN, DONE, NEXT, NOW, STOPPED, TERMINAL, Mark, Palette, verdict_mark

_PASSED = {
    jobs_pb2.REGISTER: "version",
    jobs_pb2.EVALUATE: "eval_runs",
    jobs_pb2.GATE: "gate_run",
    jobs_pb2.PROMOTE: "promotion",
}


def steps(job: Any, gate_run: Any | None) -> list[tuple[str, Mark]]:
    """Each step's name and mark. A failed chain stopped at the first step that left no record."""
    chain = job.chain
    if chain.step == jobs_pb2.CHAIN_STEP_UNSPECIFIED:
        return []
    names = [step for step, _ in CHAIN]
    is_refused = gate_run is not None and gate_run.verdict != gates_pb2.PASS
    if chain.step == jobs_pb2.DONE:
        position = len(names)
    elif chain.step == jobs_pb2.CHAIN_FAILED:
        has_record = [job.state == jobs_pb2.SUCCEEDED] + [bool(getattr(chain, _PASSED[step])) for step in names[1:]]
        position = has_record.index(False) if False in has_record else len(names) - 1
        if is_refused:
            position = names.index(jobs_pb2.PROMOTE)
    else:
        position = names.index(chain.step)
    out: list[tuple[str, Mark]] = []
    for index, (step, word) in enumerate(CHAIN):
        if step == jobs_pb2.GATE and gate_run is not None and index <= position:
            mark = verdict_mark(gate_run.verdict)
        elif step == jobs_pb2.PROMOTE and is_refused:
            mark = BLOCKED
        elif index < position:
            mark = DONE
        elif index > position:
            mark = NEXT
        elif chain.step == jobs_pb2.CHAIN_FAILED or (
            step == jobs_pb2.TRAIN and job.state in TERMINAL - {jobs_pb2.SUCCEEDED}
        ):
            mark = STOPPED
        else:
            mark = NOW
        out.append((word, mark))
    return out


def chain_line(job: Any, gate_run: Any | None, palette: Palette) -> Text:
    """`✓ train ── ✓ register ── ● evaluate ── ○ gate ── ○ promote`."""
    text = Text(no_wrap=True, overflow="ellipsis")
    joint = " -- " if palette.is_ascii else " ── "
    for word, mark in steps(job, gate_run):
        if text:
            text.append(joint, palette.track)
        verdict = f" {mark.word}" if word == "gate" and gate_run is not None and mark not in {NEXT, NOW} else ""
        text.append(f"{palette.glyph(mark)} {word}{verdict}", palette.colour(mark.colour))
    return text


def chain_cell(job: Any, gate_run: Any | None, palette: Palette) -> Text:
    """Where the chain stands: the verdict once there is one and the chain is over, else the step."""
    found = steps(job, gate_run)
    if not found:
        return Text("–", palette.muted)
    if gate_run is not None and job.chain.step in {jobs_pb2.DONE, jobs_pb2.CHAIN_FAILED}:
        return palette.mark(verdict_mark(gate_run.verdict))
    current = next((item for item in found if item[1] in {NOW, STOPPED}), None)
    word, mark = current if current is not None else ("done", DONE)
    return palette.mark(mark, word)
