"""`posttrain plan`: what a training job will need, before it is submitted. Needs no server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from posttrain.service.cli.settings import json_option
from posttrain.service.cli.text import echo, seconds

if TYPE_CHECKING:
    from posttrain.engine.cost import Rows
    from posttrain.engine.plan import Shapes
    from posttrain.engine.spec import TrainSpec

# Of products with more rows than these the rate no longer changes, but each takes longer.
MEASURED_TOKENS = 1024


@click.command()
@click.argument("spec", type=click.File("rb"))
@click.option(
    "--model",
    required=True,
    metavar="FOLDER",
    help="The base's Hugging Face folder, or builtin:tiny-base.",
)
@click.option(
    "--reward-model",
    "reward_models",
    multiple=True,
    metavar="FOLDER",
    help="The Hugging Face folder of a reward model, one a part of type model and in their order. [default: as large "
    "as the base]",
)
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), metavar="GB", help="[default: this machine's]")
@click.option("--cuda", is_flag=True, help="For a CUDA device; --memory is the device's then.")
@click.option(
    "--stats",
    type=click.File("rb"),
    multiple=True,
    metavar="FILE",
    help="For the time: what `datasets stats --json` says of the data, one file a source and in their order.",
)
@click.option("--set", "changes", multiple=True, metavar="OPTION=VALUE", help="Change an option of the spec.")
@json_option
def plan(
    spec: BinaryIO,
    model: str,
    reward_models: Sequence[str],
    memory: float | None,
    cuda: bool,
    stats: Sequence[BinaryIO],
    changes: Sequence[str],
    as_json: bool,
) -> None:
    """Estimate the peak memory of a training job, and its time on this machine's CPU.

    SPEC is its YAML file; "-" is standard input. Without --stats rows are taken to be as long as the spec allows, and
    nothing is said of the time. A job that cannot fit is an error that says what to change.
    """
    from posttrain.engine.base import BASE_DIR
    from posttrain.engine.plan import check_fits, memory_limit_bytes, memory_plan, read_shapes
    from posttrain.engine.spec import EvaluateSpec, OnPolicyOptions, parse_spec, reward_models_of
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.specfile import read_spec

    if "@" in model and not Path(model).exists():
        raise click.UsageError(f"--model {model}: a plan asks no server: give the model's folder, or builtin:tiny-base")
    written = read_spec(spec.read(), getattr(spec, "name", "-"))
    for change in changes:
        written.set(change)
    job = parse_spec(written.checked())
    if isinstance(job, EvaluateSpec):
        raise click.UsageError("an evaluation is not planned: its memory is the model's and that of its batch")
    num_judges = len(reward_models_of(job))
    if reward_models and len(reward_models) != num_judges:
        given_times = f"--reward-model is given {len(reward_models)} times"
        raise click.UsageError(f"{given_times} for {num_judges} parts of type model in rewards")
    if cuda and memory is None:
        raise click.UsageError("--cuda needs --memory: the device is not looked at")
    if cuda and stats:
        raise click.UsageError("--stats is for the time on this machine's CPU: leave out --cuda")
    if stats and isinstance(job, OnPolicyOptions):
        raise click.UsageError(f"--stats: the time of kind {job.kind} depends on how long the model's own answers get")
    if stats and len(stats) != len(job.data):
        raise click.UsageError(f"--stats is given {len(stats)} times for {len(job.data)} sources in data")
    given = zip(stats, job.data, strict=True) if stats else ()
    sources = [(_rows(file, source.dataset), source.weight) for file, source in given]
    shapes = read_shapes(BASE_DIR if model == "builtin:tiny-base" else Path(model))
    longest = min(max((rows.longest for rows, _ in sources), default=0), job.batch.max_tokens)
    judges = [read_shapes(Path(folder)) for folder in reward_models]
    found = memory_plan(job, shapes, is_cuda=cuda, longest=longest, judges=judges)
    limit = memory_limit_bytes() if memory is None else round(memory * 1e9)
    # Measured only for a job that fits: the products would be of as many tokens as its passes.
    time = _time(job, shapes, sources, longest) if sources and found.fits(limit) else {}
    if as_json:
        echo_json({"parts": found.parts, "total_bytes": found.total_bytes, "limit_bytes": limit, **time})
    else:
        for name, number in found.parts.items():
            echo(f"{name:12} {number / 1e6:12,.0f} MB")
        echo(f"{'in all':12} {found.total_bytes / 1e6:12,.0f} MB of {limit / 1e6:,.0f}")
        if time:
            rate = f"{time['flops']:.2g} operations, where products alone reach {time['products_per_s']:.2g} a second"
            echo(f"{'time':12} about {seconds(time['seconds'])}: {rate}")
    check_fits(found, limit, job)


def _rows(file: BinaryIO, dataset: str) -> Rows:
    """What `datasets stats --json` said of this dataset.

    Raises:
        click.UsageError: it is something else, or of another dataset.
    """
    from posttrain.engine.cost import Rows

    name = getattr(file, "name", "-")
    try:
        record = json.loads(file.read())
        named = str(record["dataset"])
        found = [int(record[key]) for key in ("num_rows", "num_tokens", "num_trained", "longest")]
    except (ValueError, LookupError, TypeError, RecursionError):
        found = []
    if not found or min(found) < 1:
        raise click.UsageError(f"--stats {name}: not what `posttrain datasets stats REF --json` prints")
    if named != dataset:
        raise click.UsageError(f"--stats {name}: counts {named[:100]!r}, but the source in its place is {dataset}")
    return Rows(*found)


def _time(job: TrainSpec, shapes: Shapes, sources: Sequence[tuple[Rows, float]], longest: int) -> dict[str, float]:
    """Operations of the job, the rate of products alone, measured now, and the seconds that follow."""
    from posttrain.engine.cost import job_flops, seconds_of
    from posttrain.engine.products import products_per_s

    flops = job_flops(job, shapes, sources)
    a_pass = min(job.batch.micro_tokens, job.batch.num_rows * longest, MEASURED_TOKENS)
    rate = products_per_s(list(shapes.matrices.values()), a_pass)
    return {"flops": flops, "products_per_s": rate, "seconds": seconds_of(flops, rate)}
