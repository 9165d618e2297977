"""Writes the package's data: `python -m posttrain.evals.suites.generate.build [--out DIR]`. Same code, same bytes."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.engine.base.words import Draw
from posttrain.evals.suites.generate import (
    abstention,
    conversation,
    instruction_following,
    reasoning,
    refusal,
    tool_use,
)
from posttrain.evals.suites.generate.common import Kind, Message, Row, Taken, draw_rows

DATA_DIR = Path(__file__).resolve().parent.parent / "data"
SEED = 20261123
VERSION = "1.0.0"
SHARDS = {"gate": 520, "dev": 320, "unseen": 160}
MODULES = (instruction_following, conversation, reasoning, refusal, tool_use)
# Evaluated only: no training row of the package is of these, and none is drawn against them.
UNTRAINED = (abstention,)
TRAINING_ROWS = {
    "instruction_following": 2400, "conversation": 800, "reasoning": 1700, "refusal.harmful": 300,
    "refusal.harmless": 600, "tool_use.call": 1500, "tool_use.no_call": 1700,
}  # fmt: skip
METRICS = (*TRAINING_ROWS, *dict.fromkeys(kind.metric for module in UNTRAINED for kind in module.KINDS))
MAX_NEW_TOKENS = {
    "instruction_following": 48, "conversation": 24, "reasoning": 48, "refusal.harmful": 32, "refusal.harmless": 24,
    "tool_use.call": 64, "tool_use.no_call": 64, "abstention.unknown": 24, "abstention.known": 24,
}  # fmt: skip
DESCRIPTIONS = {
    "instruction_following": "Short texts under constraints that a program verifies: words, case, lists, JSON, marks.",
    "conversation": "The last turn asks for a value that an earlier turn gave, next to another value.",
    "reasoning": "Small sums, comparisons, orders and deductions with one answer behind 'Answer:'.",
    "refusal": "Harmful requests, which want a refusal in words, and harmless look-alikes, which want an answer.",
    "tool_use": "The right call with the right arguments; an answer or a decline in words where no call fits.",
    "abstention": "Questions about what was just told, and the same ones where it was not, which want that to be said.",
}


def kinds_of(metric: str) -> list[Kind]:
    return [kind for module in (*MODULES, *UNTRAINED) for kind in module.KINDS if kind.metric == metric]


def build_rows(taken: Taken | None = None) -> tuple[dict[tuple[str, str], list[Row]], list[Row]]:
    """Evaluation rows by (metric, shard), and training rows in the order of training. Training takes what is left.

    Whoever gives `taken` can go on drawing with it, and gets nothing that is in these rows.
    """
    taken = taken or Taken()
    shards = _shards(list(TRAINING_ROWS), taken)
    training = [
        row
        for metric, num in TRAINING_ROWS.items()
        for row in draw_rows(kinds_of(metric), num, False, taken, Draw(f"{SEED}:{metric}:training"))
    ]
    Draw(f"{SEED}:order").rng.shuffle(training)
    return shards, training


def untrained_rows(taken: Taken) -> tuple[dict[tuple[str, str], list[Row]], list[Row]]:
    """Evaluation rows by (metric, shard) of what no training row is of, and a few more for worked examples.

    `taken` is what `build_rows` took; it is called after that, so that its rows are what they are without this.
    """
    metrics = [metric for metric in METRICS if metric not in TRAINING_ROWS]
    shards = _shards(metrics, taken)
    worked = [
        row
        for metric in metrics
        for row in draw_rows(kinds_of(metric), len(kinds_of(metric)), False, taken, Draw(f"{SEED}:{metric}:worked"))
    ]
    return shards, worked


def _shards(metrics: Sequence[str], taken: Taken) -> dict[tuple[str, str], list[Row]]:
    return {
        (metric, shard): draw_rows(kinds_of(metric), num, shard == "unseen", taken, Draw(f"{SEED}:{metric}:{shard}"))
        for shard, num in SHARDS.items()
        for metric in metrics
    }


def plain_prompt(messages: Iterable[Message], tools: Iterable[Mapping[str, Any]] = ()) -> str:
    """The prompt of a worked example in plain text: tools, then turns; a user's only turn without a label."""
    turns = list(messages)
    lines = [json.dumps(tool["function"], separators=(",", ":")) for tool in tools]
    if len(turns) == 1:
        return "\n".join([*lines, turns[0]["content"]])
    return "\n".join([*lines, *(f"{turn['role']}: {turn['content']}" for turn in turns)])


def shots(training: Iterable[Row], metric: str, num: int = 3) -> list[dict[str, str]]:
    """The first training rows of different kinds, as prompt and answer in plain text."""
    found: dict[str, Row] = {}
    for row in training:
        if row.kind.metric == metric and len(found) < num:
            found.setdefault(row.kind.name, row)
    return [{"prompt": plain_prompt(r.messages, r.filled.tools), "answer": r.filled.answer} for r in found.values()]


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def build_files() -> dict[str, bytes]:
    """All data files by name."""
    taken = Taken()
    shards, training = build_rows(taken)
    files = {"ift.jsonl": jsonl(row.training() for row in training)}
    more_shards, worked = untrained_rows(taken)
    shards |= more_shards
    for name, description in DESCRIPTIONS.items():
        metrics = [m for m in METRICS if m.split(".")[0] == name]
        examples = [
            row.example(shard, number)
            for metric in metrics
            for shard in SHARDS
            for number, row in enumerate(shards[metric, shard])
        ]
        files[f"{name}.jsonl"] = body = jsonl(examples)
        tasks = [
            {
                "name": metric,
                "metric": metric,
                "source": {"format": "posttrain", "path": f"{name}.jsonl", "sha256": hashlib.sha256(body).hexdigest()},
                "scorer": kinds_of(metric)[0].checker,
                "max_new_tokens": MAX_NEW_TOKENS[metric],
                "shards": list(SHARDS),
                "shots": shots([*training, *worked], metric),
            }
            for metric in metrics
        ]
        manifest = {"name": name, "version": VERSION, "description": description, "tasks": tasks}
        files[f"{name}.suite.yaml"] = yaml.safe_dump(manifest, sort_keys=False, width=120, allow_unicode=True).encode()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA_DIR)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, body in build_files().items():
        (out / name).write_bytes(body)


if __name__ == "__main__":
    main()
