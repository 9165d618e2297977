"""`posttrain gate replay`: a verdict computed again from stored rows and a policy. Needs no server and no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posttrain.service.cli.settings import absolute_home, home_option, json_option
from posttrain.service.cli.text import echo, warn

if TYPE_CHECKING:
    from posttrain.evals.policy import Baseline, Policy
    from posttrain.evals.rows import EvalRun
    from posttrain.service.cli.exits import Exit

ROWS = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)


@dataclass
class _Evidence:
    """What is judged again; `stored` is the report's JSON that it has to give, where there is one."""

    candidate: EvalRun
    baselines: dict[Baseline, EvalRun] = field(default_factory=dict)
    policy: Policy | None = None
    stored: str = ""
    attempt: int | None = None
    repeat: EvalRun | None = None


@click.command()
@click.argument("gate_run", required=False, default="")
@click.option("--policy", default="", metavar="NAME|FILE", help="Judge under this policy instead of the stored one.")
@click.option("--candidate", type=ROWS, help="Rows of the candidate, instead of a gate run.")
@click.option("--parent", type=ROWS, help="Rows of its parent.")
@click.option("--champion", type=ROWS, help="Rows of the version that the alias names.")
@click.option("--ancestor", type=ROWS, help="Rows of the version that the policy pins.")
@click.option("--repeat", type=ROWS, help="Rows of a second run, for the policy's noise floor.")
@click.option("--attempt", type=click.IntRange(1), help="Which attempt of the lineage it is, for a policy's budget.")
@click.option("--expect", type=ROWS, help="A stored report that must come out byte for byte.")
@click.option("--out", type=OUT, help="Write the report's canonical JSON.")
@click.option("--markdown", type=OUT, help="Write a report with the flips, for a pull request.")
@click.option("--html", type=OUT, help="Write one HTML file with intervals drawn; it has no script.")
@home_option
@json_option
def replay(
    gate_run: str,
    policy: str,
    candidate: Path | None,
    parent: Path | None,
    champion: Path | None,
    ancestor: Path | None,
    repeat: Path | None,
    attempt: int | None,
    expect: Path | None,
    out: Path | None,
    markdown: Path | None,
    html: Path | None,
    home: Path | None,
    as_json: bool,
) -> Exit:
    """Compute a verdict again from stored rows, under its policy or another.

    GATE_RUN is read from the data folder, whether a server runs on it or not; without one, name rows.jsonl files and a
    policy. The stored report must come out byte for byte, else the exit code is 9. Nothing is generated and nothing is
    recorded; else the exit code tells the verdict.
    """
    from posttrain.evals.flips import flip_lists
    from posttrain.evals.gate import explain, run_gate
    from posttrain.evals.policy import load_policy
    from posttrain.evals.render import to_html, to_markdown
    from posttrain.service.cli.exits import Exit
    from posttrain.service.cli.records import echo_json

    files: dict[Baseline, Path | None] = {"parent": parent, "champion": champion, "ancestor": ancestor}
    if bool(gate_run) == bool(candidate):
        raise click.UsageError("give a gate run, or rows by --candidate")
    if candidate:
        evidence = _Evidence(_rows(candidate))
        if not policy:
            raise click.UsageError("--candidate needs --policy")
    else:
        if parent or champion or expect:
            raise click.UsageError("a gate run has its own rows and report: leave out --parent, --champion, --expect")
        if (attempt or repeat or ancestor) and not policy:
            message = "a gate run has its own inputs: --attempt, --ancestor and --repeat go with --policy"
            raise click.UsageError(message)
        evidence = _stored(absolute_home(home), gate_run)
    evidence.baselines |= {name: _rows(path) for name, path in files.items() if path}
    judged_under = load_policy(policy) if policy else evidence.policy
    assert judged_under is not None
    second = _rows(repeat) if repeat else evidence.repeat
    number = attempt or evidence.attempt
    report = run_gate(judged_under, evidence.candidate, evidence.baselines, attempt=number, repeat=second)
    flips = flip_lists(judged_under, evidence.candidate, evidence.baselines)
    for path, text in (
        (out, report.canonical_json()),
        (markdown, to_markdown(report, flips)),
        (html, to_html(report, judged_under, flips)),
    ):
        if path:
            path.write_text(text, encoding="utf-8", newline="\n")
    if as_json:
        echo_json(report.model_dump(mode="json"))
    else:
        echo(explain(report).rstrip("\n"))
        for part in flips:
            counts = f"{len(part.better)} better, {len(part.worse)} worse of {part.n}"
            echo(f"flips      {part.suite}/{part.metric} against {part.baseline}: {counts}")
    expected = expect.read_text("utf-8") if expect else "" if policy else evidence.stored
    if expected and expected != report.canonical_json():
        warn("error: the stored report is another one: rows, policy or this program are not what they were")
        return Exit.CONFLICT
    if expected:
        warn("byte for byte the stored report")
    verdicts = {"PASS": Exit.OK, "FAIL": Exit.GATE_FAIL, "INCONCLUSIVE": Exit.INCONCLUSIVE}
    return verdicts[report.verdict]


def _rows(path: Path) -> EvalRun:
    from posttrain.evals.errors import RowsError
    from posttrain.evals.rows import read_rows

    try:
        return read_rows(path)
    except RowsError as error:
        raise click.UsageError(str(error)) from error


def _stored(home: Path, gate_run: str) -> _Evidence:
    """A gate run's evidence, every byte hashed again.

    Raises:
        NotFoundError: no data folder, or no such gate run in it.
        TamperedError: rows or the policy are not what was recorded.
    """
    from posttrain.registry.evaluations import get_run, load_run
    from posttrain.registry.evidence import BASELINES
    from posttrain.registry.gates import get_gate_run, stored_policy
    from posttrain.registry.store import open_store

    parts = gate_run.split("/")  # an id, or projects/PROJECT/gateRuns/ID
    project = parts[1] if len(parts) == 4 and parts[0] == "projects" else "default"
    with open_store(home, exclusive=False) as store:
        with store.read() as tx:
            record = get_gate_run(tx, project, parts[-1])
            policy = stored_policy(tx, project, record.policy_digest)
            candidate = get_run(tx, project, record.candidate_run)
            sides = {item["name"]: get_run(tx, project, item["eval_run"]) for item in record.baselines}
            again = get_run(tx, project, record.repeat_run) if record.repeat_run else None
        baselines = {name: load_run(store, sides[name]) for name in BASELINES if name in sides}
        rows, second = load_run(store, candidate), load_run(store, again) if again else None
        return _Evidence(rows, baselines, policy, record.report_json, record.attempt or None, second)
