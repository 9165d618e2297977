"""Writes what examples/grpo/tools.yaml needs: `python examples/grpo/make_tools_data.py --out DIR [--seed N]`.

    start.jsonl      conversations for tool-use training: few with a look-up, and the package's rows with calls
    prompts.jsonl    questions that a look-up answers, each with its table, for reinforcement learning
    held_out.jsonl   the same with other names and values

The values are drawn, so that no answer can be known without the tool. Keys are names of one word in start.jsonl and of
two in the prompts, which is what there is to learn. Same seed, same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from posttrain.engine.base.words import Draw
from posttrain.engine.environments.tools import SCHEMAS
from posttrain.evals.suites.generate.build import DATA_DIR, jsonl

ASKED = ("What number belongs to {key}?", "Tell me the number of {key}.", "Which number does {key} have?")
TABLE_ROWS = 3
TOOL = {**SCHEMAS["lookup"], "description": "Number of a name", "parameters": {
    "type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"],
}}  # fmt: skip


def question(d: Draw, num_words: int) -> tuple[str, str, dict[str, str]]:
    """A question, the key that it is about, and the table."""
    table = {" ".join(d.nonce() for _ in range(num_words)): str(d.num(10, 99)) for _ in range(TABLE_ROWS)}
    key = d.pick(sorted(table))
    return d.pick(ASKED).format(key=key), key, table


def prompt_row(d: Draw) -> dict[str, Any]:
    asked, key, table = question(d, num_words=2)
    others = sorted({number for number in table.values() if number != table[key]})
    target = {"all": [table[key]], "forbid": others, "table": table}
    messages = [{"role": "user", "content": asked}]
    return {"messages": messages, "tools": [TOOL], "checker": "mentions", "target": target}


def talk_row(d: Draw) -> dict[str, Any]:
    asked, key, table = question(d, num_words=1)
    call = {"name": "lookup", "arguments": {"key": key}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": table[key]},
        {"role": "assistant", "content": f"The number is {table[key]}."},
    ]
    return {"messages": messages, "tools": [TOOL]}


def build_files(seed: int, num_prompts: int, num_talks: int, num_others: int) -> dict[str, bytes]:
    rows = [json.loads(line) for line in (DATA_DIR / "ift.jsonl").read_text("utf-8").splitlines()]
    # As calls, not as text: what a format is told to write is what the environment reads.
    others = [{"messages": row["messages"], "tools": row["tools"]} for row in rows if row.get("tools")][:num_others]
    start = [*(talk_row(Draw(f"{seed}:talk:{i}")) for i in range(num_talks)), *others]
    Draw(f"{seed}:order").rng.shuffle(start)
    return {
        "start.jsonl": jsonl(start),
        "prompts.jsonl": jsonl([prompt_row(Draw(f"{seed}:prompt:{i}")) for i in range(num_prompts)]),
        "held_out.jsonl": jsonl([prompt_row(Draw(f"{seed}:held-out:{i}")) for i in range(100)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--talks", type=int, default=400)
    parser.add_argument("--others", type=int, default=1600)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = build_files(arguments.seed, arguments.prompts, arguments.talks, arguments.others)
    for name, body in files.items():
        (arguments.out / name).write_bytes(body)


if __name__ == "__main__":
    main()
