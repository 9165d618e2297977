"""Writes the prompts that examples/grpo.yaml trains on: `python examples/grpo/make_data.py --out FILE [--seed N]`.

Small sums, comparisons, orders and deductions of the package's generator, each with its checker and target. None of
them is in a shard of an evaluation or in the package's training rows. Same seed, same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from posttrain.evals.suites.generate.build import jsonl
from posttrain.evals.suites.generate.prompts import build_prompts

PROMPTS = {"reasoning": 2000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num", type=int, default=PROMPTS["reasoning"])
    arguments = parser.parse_args()
    arguments.out.write_bytes(jsonl(build_prompts(arguments.seed, {"reasoning": arguments.num})))


if __name__ == "__main__":
    main()
