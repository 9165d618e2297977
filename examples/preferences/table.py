"""The results of run.py as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

JUDGED = {"preferences": "DPO", "tools": "Tool use"}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _cell(metric: dict[str, Any]) -> str:
    """Parent -> candidate, the interval of the difference in points, and a mark where the rule is not proven."""
    scores = f"{100 * metric['baseline']:.1f} -> {100 * metric['candidate']:.1f}"
    interval = f"[{100 * metric['low']:+.1f}, {100 * metric['high']:+.1f}]"
    return f"{scores} {interval}" + ("" if metric["verdict"] == "PASS" else f" {metric['verdict']}")


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"


def _judged(title: str, stage: str, seeds: Sequence[dict[str, Any]]) -> list[str]:
    names = list(seeds[0][stage]["metrics"])
    rows = [
        [
            str(seed["seed"]), seed[stage]["verdict"], *(_cell(seed[stage]["metrics"][name]) for name in names),
            f"{seed[stage]['steps']}, {seed[stage]['seconds']:.0f}",
        ]
        for seed in seeds
    ]  # fmt: skip
    passed = sum(seed[stage]["verdict"] == "PASS" for seed in seeds)
    return [
        f"### {title}: PASS on {passed} of {len(seeds)} seeds", "",
        *_table(["seed", "verdict", *names, "steps, s"], rows), "",
    ]  # fmt: skip


def _reward(seeds: Sequence[dict[str, Any]]) -> list[str]:
    held_out = [seed["reward"]["held_out"] for seed in seeds]
    names = [name for name in held_out[0] if all(name in found for found in held_out)]
    rows = [
        [
            name,
            _range([found[name]["n"] for found in held_out]),
            *(f"{100 * found[name]['accuracy']:.1f}" for found in held_out),
        ]
        for name in names
    ]
    reached = sum(found["all"]["accuracy"] >= 0.9 for found in held_out)
    head = ["held-out pairs", "n", *(f"seed {seed['seed']}" for seed in seeds)]
    return [f"### Reward model: 90% or more on {reached} of {len(seeds)} seeds", "", *_table(head, rows), ""]


def markdown(seeds: Sequence[dict[str, Any]]) -> str:
    """Tables of verdicts, scores in percent with the difference's interval in points, and the reward model's accuracy.

    Args:
        seeds: one record a seed, as run.py makes them; at least one.
    """
    lines = [line for stage, title in JUDGED.items() for line in _judged(title, stage, seeds)]
    return "\n".join([*lines, *_reward(seeds)])
