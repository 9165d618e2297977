"""How the cost of a training step grows with the length of its rows and with their number.

    python -m benchmarks.growth [--only lengths|batch] [--steps 3] [--json FILE]

Full fine-tuning of the base inside the package on random tokens, the second half of each row trained. `lengths` spends
4,096 tokens a step on rows of one length; `batch` takes more and more rows of 128 tokens. The median of `--steps` steps
after one to warm up; `share` is the engine's rate of operations in linear layers over that of the same products alone,
measured beside it, so what attention costs shows as a smaller share.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from array import array
from pathlib import Path
from typing import Any

from benchmarks.ours import Ours
from benchmarks.workload import ENTRIES, SEED
from posttrain.engine.data.encoded import AnyRow, Row
from posttrain.engine.products import products_per_s

STEP_TOKENS = 4096
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
BATCH_LENGTH = 128
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CURVES = {
    "lengths": [(length, STEP_TOKENS // length) for length in LENGTHS],
    "batch": [(BATCH_LENGTH, num_rows) for num_rows in BATCHES],
}


def steps_of(length: int, num_rows: int, num_steps: int) -> list[list[AnyRow]]:
    """Steps of `num_rows` rows of `length` random tokens each."""
    rng = random.Random(SEED)
    is_target = bytes(length // 2) + b"\1" * (length - length // 2)

    def row(number: int) -> AnyRow:
        return Row(array("i", rng.choices(range(10, 2000), k=length)), is_target, "random", number)

    return [[row(step * num_rows + place + 1) for place in range(num_rows)] for step in range(num_steps)]


def measure(length: int, num_rows: int, num_steps: int) -> dict[str, float]:
    steps = steps_of(length, num_rows, 1 + num_steps)
    ours = Ours(ENTRIES["sft_full"], "3m", steps)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        ours.run(Path(folder), lambda rows, loss, taken: seconds.append(taken))
    median = statistics.median(seconds[1:])
    alone = products_per_s(ours.linear_shapes(), length * num_rows)
    return {
        "length": length,
        "rows": num_rows,
        "tokens_s": length * num_rows / median,
        "share": ours.linear_flops(steps[0]) / median / alone,
        "steps": num_steps,
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| tokens a row | rows a step | tokens/s | of the products' rate |", "|---|---|---|---|"]
    for one in results:
        lines.append(f"| {one['length']:,} | {one['rows']} | {one['tokens_s']:,.0f} | {one['share']:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CURVES)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the results there")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    found: dict[str, Any] = {"load_1min": os.getloadavg()[0]}
    for name in [options.only] if options.only else list(CURVES):
        found[name] = [measure(length, num_rows, options.steps) for length, num_rows in CURVES[name]]
        sys.stdout.write(f"{name}\n\n{table(found[name])}\n\n")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
