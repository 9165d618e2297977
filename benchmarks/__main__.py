"""`python -m benchmarks`: the engine's training steps against TRL's. See benchmarks/README.md."""

from __future__ import annotations

import os
import time
import warnings
from importlib import util
from pathlib import Path

import click

from benchmarks.workload import ENTRIES, SIZES, SMOKE

VOID = 3  # exit code when the two sides did other work


@click.command(context_settings={"show_default": True})
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here.")
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Also put the table into this page, between its marks.",
)
@click.option("--only", "names", type=click.Choice(list(ENTRIES)), multiple=True, help="Default: all entries.")
@click.option("--model", "models", type=click.Choice(list(SIZES)), multiple=True, help="Default: both models.")
@click.option(
    "--smoke", is_flag=True, help="Few short steps of the small model: shows that it works, measures nothing."
)
def main(
    json_file: Path | None, markdown: Path | None, names: tuple[str, ...], models: tuple[str, ...], smoke: bool
) -> None:
    """Compares training steps on equal work and prints a table. Wants an idle machine; both sides use
    OMP_NUM_THREADS threads. Exits with 3 if the two sides did other work: then there is no number."""
    if util.find_spec("trl") is None:
        raise click.ClickException("TRL is not installed; it comes with the extra: pip install -e '.[bench]'")
    load = os.getloadavg()[0]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Of libraries, about themselves, in between the lines that tell how far it is.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    import torch
    from transformers.utils import logging

    from benchmarks import report
    from benchmarks.measure import UnequalWorkError, measure

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sizes = SMOKE if smoke else SIZES
    wanted = [
        (ENTRIES[name], model)
        for model in (models or (["3m"] if smoke else list(SIZES)))
        for name in (names or list(ENTRIES))
    ]
    whole, done, begun = sum(sizes[model].cost for _, model in wanted), 0.0, time.monotonic()
    results = []
    for number, (entry, model) in enumerate(wanted, start=1):

        def tell(
            text: str, share: float, number: int = number, name: str = entry.name, model: str = model, at: float = done
        ) -> None:
            passed = time.monotonic() - begun
            left = passed * (whole / (at + share * sizes[model].cost) - 1)
            click.echo(
                f"[{number}/{len(wanted)}] {name} {model}: {text} ({clock(passed)}, {clock(left)} left)", err=True
            )

        try:
            results.append(measure(entry, model, smoke, tell))
        except UnequalWorkError as error:
            click.echo(f"Void: {entry.name} {model}: {error}", err=True)
            raise SystemExit(VOID) from None
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
        done += sizes[model].cost
        if json_file is not None:  # what is there so far, should a later one fail
            json_file.write_text(report.as_json(results), "utf-8")
    table = report.as_markdown(results, torch.get_num_threads(), load, smoke)
    if markdown is not None:
        try:
            report.put_into(markdown, table)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    click.echo(table)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    main()
