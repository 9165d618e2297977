"""`posttrain datasets check`: whether rows hold questions of suites. Needs no server and no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posttrain.service.cli.settings import json_option
from posttrain.service.cli.text import echo, echo_table, warn

if TYPE_CHECKING:
    from posttrain.service.cli.exits import Exit

SHOWN = 10


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME|FILE",
    help="Search for this suite's questions.  [default: all built-in ones]",
)
@click.option(
    "--shard",
    "shards",
    multiple=True,
    type=click.Choice(["gate", "dev", "unseen"]),
    help="Only of this shard.  [default: all]",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write each match as a line of JSON.")
@json_option
def check(source: Path, suites: tuple[str, ...], shards: tuple[str, ...], out: Path | None, as_json: bool) -> Exit:
    """Search rows for the questions of suites.

    FILE is as for `datasets add`. A whole question is a match, and so are 13 of its words in a row, or most of its runs
    of 8 words, whatever their case and marks; what three questions of a suite share is its form, and no match. The exit
    code is 5 if there is any.
    """
    import json
    from dataclasses import asdict

    from posttrain.engine.data.sources import prepared
    from posttrain.evals.contamination import QuestionIndex, scan
    from posttrain.evals.suites.load import builtin_suites, load_suite
    from posttrain.service.cli.exits import Exit
    from posttrain.service.cli.progress import open_progress
    from posttrain.service.cli.records import echo_json

    index = QuestionIndex(map(load_suite, suites or builtin_suites()), shards or ("gate", "dev", "unseen"))
    if not index.questions:
        raise click.UsageError("the suites have no question of these shards")
    what = f"search {source.name}"
    with open_progress() as progress, prepared(source) as rows:
        for note in rows.notes:
            progress.note(note)
        with open(rows.path, "rb") as lines:
            total = sum(1 for _ in lines)
            lines.seek(0)
            report = scan(lines, index, lambda done: progress.update(what, done, total))
        progress.finish(what)
    if out:
        body = "".join(json.dumps(asdict(match), sort_keys=True) + "\n" for match in report.matches)
        out.write_text(body, encoding="utf-8", newline="\n")
    if report.num_matches > len(report.matches):
        warn(f"the first {len(report.matches)} of {report.num_matches} matches are kept; all are counted")
    if report.unread:
        warn(f"{len(report.unread)} row(s) could not be read and were not searched: {_some(report.unread)}")
    if report.unsearchable:
        warn(f"{len(report.unsearchable)} question(s) have no words to search for")
    if as_json:
        echo_json({**asdict(report), "suites": [list(suite) for suite in index.suites]})
    else:
        echo(
            f"{len(report.questions)} of {report.num_questions} questions found in {len(report.rows)} of "
            f"{report.num_rows} rows"
        )
        for metric, count in report.metrics.items():
            echo(f"  {metric}: {count}")
        if report.matches:
            shown = [
                [match.row, f"{match.suite}/{match.question}", match.shard, match.kind, match.words]
                for match in report.matches[:SHOWN]
            ]
            echo_table(["row", "question", "shard", "match", "words"], shown)
            if len(report.matches) > SHOWN:
                warn(f"{len(report.matches) - SHOWN} more: --out FILE writes them all")
    return Exit.GATE_FAIL if report.num_matches else Exit.OK


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
