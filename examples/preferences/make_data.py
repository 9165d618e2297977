"""Writes what run.py trains on: `python examples/preferences/make_data.py --out DIR [--seed N]`. Same seed, same bytes.

    start.jsonl      the package's training rows without harmful requests and with one tool row in four
    tools.jsonl      all of the package's tool rows
    rehearsal.jsonl  the package's other training rows
    pairs.jsonl      preference pairs (posttrain.evals.suites.generate.pairs)
    held_out.jsonl   pairs of another draw, to measure a reward model by
    more_pairs.jsonl pairs of a third draw, for the reward model: more of those in which a value is wrong

The first three are the same for every seed. No prompt of an evaluation shard is in any of them.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from posttrain.evals.suites.generate.build import DATA_DIR, jsonl
from posttrain.evals.suites.generate.pairs import build_pairs

TARGET = "refusal.harmful"
KEEP_HARMFUL, KEEP_TOOL_ROWS = 6, 4  # one in so many
PAIRS = {
    "refusal.harmful": 400, "refusal.harmless": 400, "instruction_following": 300, "conversation": 200,
    "reasoning": 300, "tool_use.call": 400, "tool_use.no_call": 400,
}  # fmt: skip
HELD_OUT = dict.fromkeys(PAIRS, 100)
MORE_PAIRS = {
    "refusal.harmful": 100, "refusal.harmless": 300, "instruction_following": 1000, "conversation": 1000,
    "reasoning": 2500, "tool_use.call": 2000, "tool_use.no_call": 2000,
}  # fmt: skip
MORE_ROWS = {"calls": {"tool_use.call": 3000}, "abstentions": {"tool_use.no_call": 3000}}


def is_tool_row(row: dict[str, Any]) -> bool:
    return str(row["meta"]["family"]).startswith("tool_use.")


def start_rows(training: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Training rows that leave room above: few refusals to copy, and few calls."""
    kept, seen = [], Counter[str]()
    for row in training:
        family = row["meta"]["family"]
        seen[family] += 1
        one_in = KEEP_HARMFUL if family == TARGET else KEEP_TOOL_ROWS if is_tool_row(row) else 1
        if not seen[family] % one_in:
            kept.append(row)
    return kept


def build_files(seed: int) -> dict[str, bytes]:
    """All files by name."""
    training = [json.loads(line) for line in (DATA_DIR / "ift.jsonl").read_text(encoding="utf-8").splitlines()]
    drawn = build_pairs(seed, {"pairs": PAIRS, "held_out": HELD_OUT, "more_pairs": MORE_PAIRS}, MORE_ROWS)
    for row in training:
        if is_tool_row(row):
            drawn["calls" if row["meta"]["family"] == "tool_use.call" else "abstentions"].append(row)
    start = start_rows(training)
    drawn |= {"start": start, "rehearsal": [row for row in start if not is_tool_row(row)]}
    return {f"{name}.jsonl": jsonl(rows) for name, rows in drawn.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, body in build_files(arguments.seed).items():
        (arguments.out / name).write_bytes(body)


if __name__ == "__main__":
    main()
