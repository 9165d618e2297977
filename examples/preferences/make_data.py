"""Writes what run.py trains on: `python examples/preferences/make_data.py --out DIR [--seed N]`. Same seed, same bytes.

    start.jsonl         the package's training rows with one harmful request in six and one tool row in four
    calls.jsonl         tool rows with a call: the package's, and as many again and more
    abstentions.jsonl   tool rows without one, likewise
    harmful.jsonl       the start's harmful requests
    rehearsal.jsonl     the start's other rows, without tool rows
    pairs.jsonl         preference pairs (posttrain.evals.suites.generate.pairs) for DPO
    reward_pairs.jsonl  pairs of another draw, with any fault, for the reward model
    held_out.jsonl      pairs of a third draw, to measure the reward model by

Whatever is drawn afresh differs by seed. No prompt of an evaluation shard is in any of them.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from posttrain.evals.suites.generate.build import DATA_DIR, TRAINING_ROWS, jsonl
from posttrain.evals.suites.generate.pairs import build_pairs

TARGET = "refusal.harmful"
KEEP_HARMFUL, KEEP_TOOL_ROWS = 6, 4  # one in so many
# Pairs of what is to change, and many more of what is to stay: their rejected answers are of another topic, so that the
# chosen answers are rehearsed and no boundary is moved. Calls need most: an argument is copied letter by letter.
PAIRS = {
    "refusal.harmful": 400, "refusal.harmless: refuses": 300, "refusal.harmless: wrong value": 100,
    "instruction_following: off topic": 400, "conversation: off topic": 300, "reasoning: off topic": 500,
    "tool_use.call: off topic": 700, "tool_use.call: wrong argument": 700, "tool_use.no_call: off topic": 1300,
}  # fmt: skip
# With 1,400 pairs of calls and 1,300 of abstentions alone the latter fell by 1 to 6 points on five seeds, with 2,000 of
# each calls did (docs/learning.md). These are drawn after all others, so that the rows of the stages before stay what
# they were.
MORE_PAIRS = {
    "tool_use.call: off topic": 600, "tool_use.call: wrong argument": 600, "tool_use.no_call: off topic": 1100,
}  # fmt: skip
HELD_OUT = dict.fromkeys(TRAINING_ROWS, 100)
REWARD_PAIRS = {
    "refusal.harmful": 500, "refusal.harmless": 800, "instruction_following": 1300, "conversation": 1300,
    "reasoning": 2800, "tool_use.call": 2400, "tool_use.no_call": 2400,
}  # fmt: skip
# Of the faults that a reward model misses most.
MORE_REWARD_PAIRS = {
    "refusal.harmless: wrong value": 300, "instruction_following: wrong value": 700, "conversation: wrong value": 800,
    "reasoning: wrong result": 2500, "tool_use.call: declines": 1200, "tool_use.call: wrong tool": 500,
    "tool_use.no_call: needless call": 1200,
}  # fmt: skip
MORE_ROWS = {"calls": {"tool_use.call": 4800}, "abstentions": {"tool_use.no_call": 4800}}


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
    draws = {"pairs": PAIRS, "held_out": HELD_OUT, "reward_pairs": REWARD_PAIRS}
    files = build_pairs(seed, draws, MORE_ROWS, {"more_pairs": MORE_PAIRS, "more_reward": MORE_REWARD_PAIRS})
    files["pairs"] += files.pop("more_pairs")
    files["reward_pairs"] += files.pop("more_reward")
    for row in training:
        if is_tool_row(row):
            files["calls" if row["meta"]["family"] == "tool_use.call" else "abstentions"].append(row)
    start = files["start"] = start_rows(training)
    files["harmful"] = [row for row in start if row["meta"]["family"] == TARGET]
    files["rehearsal"] = [row for row in start if row["meta"]["family"] != TARGET and not is_tool_row(row)]
    return {f"{name}.jsonl": jsonl(rows) for name, rows in files.items()}


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
