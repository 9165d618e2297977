"""`posttrain gate explain`: what a policy lets through, and what it costs. Needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from posttrain.service.cli.settings import json_option
from posttrain.service.cli.text import echo, echo_table, percent

if TYPE_CHECKING:
    from posttrain.evals.curves import Curve, OperatingCurve


@click.command()
@click.argument("policy")
@click.option(
    "--flips",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Share of answers that differ between versions; repeatable.  [default: .05, .1, .2]",
)
@click.option(
    "--correlation",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How far rows of one wording flip together.",
)
@click.option("--rows", default=0, show_default="the policy's least", type=click.IntRange(0), help="Rows of a metric.")
@click.option(
    "--clusters", default=0, show_default="the policy's least", type=click.IntRange(0), help="Wordings of a metric."
)
@click.option("--attempt", default=1, show_default=True, type=click.IntRange(1), help="Of a policy with a budget.")
@click.option("--trials", default=2000, show_default=True, type=click.IntRange(100, 100_000), help="Of a simulation.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of a simulation.")
@json_option
def explain(
    policy: str,
    flips: Sequence[float],
    correlation: float,
    rows: int,
    clusters: int,
    attempt: int,
    trials: int,
    seed: int,
    as_json: bool,
) -> None:
    """Print how often a policy passes a bad model, and a good one.

    POLICY is a file, or the name of a policy that the package ships. FALSE PASS is the chance of a model just at the
    threshold; EQUAL and BETTER are at a difference of 0 and of +margin (of other rules: 5 and 10 points beyond the
    threshold). N NEEDED gives 80% power at EQUAL.
    """
    from posttrain.evals.curves import FLIPS, operating_curve
    from posttrain.evals.policy import load_policy
    from posttrain.service.cli.records import echo_json

    try:
        found = operating_curve(
            load_policy(policy),
            tuple(flips) or FLIPS,
            correlation=correlation,
            trials=trials,
            seed=seed,
            attempt=attempt,
            rows=rows,
            clusters=clusters,
        )
    except ValueError as error:
        if hasattr(error, "code"):
            raise  # a PolicyError says what to do
        raise click.UsageError(str(error)) from error
    if as_json:
        echo_json(found.model_dump(mode="json"))
    else:
        _show(found)


def _show(found: OperatingCurve) -> None:
    how = f"{found.trials} trials, seed {found.seed}" if found.trials else "exact"
    echo(f"{found.policy} version {found.version} ({found.digest[:12]}): {how}, intervals of {found.level:.6g}")
    if any(curve.clusters < curve.n for curve in found.curves):
        echo(f"rows of one wording flip together with correlation {found.correlation:g}")
    if found.attempt:
        echo(f"at attempt {found.attempt} of the budget")
    columns = ["METRIC", "RULE", "N", "CLUSTERS", "FLIPS %", "FALSE PASS %", "EQUAL %", "BETTER %", "N NEEDED"]
    if found.looks > 1:
        columns += ["MEAN N"]
        echo(f"{found.looks} looks; MEAN N is at EQUAL")
    echo_table(columns, [_row(curve, found.looks > 1) for curve in found.curves])


def _row(curve: Curve, has_looks: bool) -> list[object]:
    chances = ["-" if point.passed is None else percent(point.passed) for point in curve.points]
    row: list[object] = [
        f"{curve.suite}/{curve.metric}",
        curve.text,
        curve.n,
        curve.clusters,
        percent(curve.flips) if curve.flips else "-",
        *chances,
        curve.needed or "-",
    ]
    if has_looks:
        row.append(f"{curve.points[1].mean_n:.0f}" if curve.points[1].mean_n else "-")
    return row
