"""What is measured: entries, models, rows. Both sides are given exactly this.

Rows are random tokens. Every optimiser step has the same lengths, in another order: quantiles of a log-normal, so
that steps can be compared with each other, and a spread of ratios is noise and not luck of the draw.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from posttrain.engine.base import BASE_DIR
from posttrain.engine.data.encoded import AnyRow, Branch, Group, Row

SEED = 20
SHORTEST, LONGEST = 20, 400
MEDIAN_TOKENS, SPREAD = 90.0, 0.75  # of the log-normal: a mean near 115 tokens
LORA = {"type": "lora", "rank": 16, "alpha": 32.0}
FULL = {"type": "full"}


@dataclass(frozen=True)
class Entry:
    """One comparison. `options` are those of the engine's spec that are not its defaults."""

    name: str
    kind: Literal["sft", "dpo", "reward"]
    adapter: dict[str, Any]
    learning_rate: float
    options: dict[str, Any]

    @property
    def is_lora(self) -> bool:
        return bool(self.adapter["type"] == "lora")

    @property
    def caches_reference(self) -> bool:
        return self.options.get("reference") == "cached"


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("sft_full", "sft", FULL, 1e-5, {}),
        Entry("sft_lora", "sft", LORA, 1e-4, {}),
        Entry("dpo_lora", "dpo", LORA, 5e-6, {"reference": "adapter_off"}),
        Entry("dpo_lora_cached", "dpo", LORA, 5e-6, {"reference": "cached"}),
        Entry("reward", "reward", FULL, 3e-6, {}),
    )
}


@dataclass(frozen=True)
class Size:
    """How much of a model's work is measured.

    `rows` a step, or half as many pairs; `tried` steps of each of TRL's settings, then `timed` steps of the fastest.
    `cost` is what an entry takes beside the others, for the time left.
    """

    rows: int
    tried: int
    timed: int
    row_layouts: tuple[str, ...]
    pair_layouts: tuple[str, ...]
    cost: float

    def layouts(self, entry: Entry) -> tuple[str, ...]:
        """TRL's settings that are tried, see `benchmarks.peer`."""
        return self.row_layouts if entry.kind == "sft" else self.pair_layouts

    def steps(self, entry: Entry) -> int:
        """One to warm up, and those that are tried and timed."""
        return 1 + self.tried * len(self.layouts(entry)) + self.timed


SIZES = {
    "3m": Size(
        16, 2, 12, ("padded:1", "grouped:4", "packed:256", "packed:512"), ("padded:1", "grouped:2", "grouped:4"), 1.0
    ),
    "135m": Size(
        8, 1, 4, ("padded:1", "grouped:4", "packed:256", "packed:512"), ("padded:1", "grouped:2", "grouped:4"), 2.5
    ),
}
SMOKE = {
    "3m": Size(4, 1, 2, ("grouped:2", "packed:128"), ("padded:1", "grouped:2"), 1.0),
    "135m": Size(2, 1, 1, ("grouped:2", "packed:128"), ("padded:1",), 3.0),
}


def build_model(name: str, attention: str, kind: Literal["language", "reward"] = "language") -> Any:
    """A float32 model, the same weights each time: the shipped base, or SmolLM2-135M's shape with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

    auto = AutoModelForCausalLM if kind == "language" else AutoModelForSequenceClassification
    others = {} if kind == "language" else {"num_labels": 1, "pad_token_id": 0}
    torch.manual_seed(SEED)
    if name == "3m":
        return auto.from_pretrained(
            BASE_DIR, dtype=torch.float32, attn_implementation=attention, local_files_only=True, **others
        )
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        initializer_range=1 / 24,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        **others,
    )
    return auto.from_config(config, dtype=torch.float32, attn_implementation=attention)


def vocabulary_of(name: str) -> int:
    return 2048 if name == "3m" else 49152


def lengths(count: int) -> list[int]:
    """`count` quantiles of the log-normal, cut to 20-400 tokens, ascending."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    return [min(LONGEST, max(SHORTEST, round(MEDIAN_TOKENS * math.exp(SPREAD * q)))) for q in quantiles]


def steps_of(entry: Entry, model: str, num_rows: int, num_steps: int) -> list[list[AnyRow]]:
    """The rows, or half as many pairs, of each step; a row's second half is trained."""
    rng = random.Random(SEED)
    steps: list[list[AnyRow]] = []
    for _ in range(num_steps):
        first = sum(map(len, steps))
        sizes = list(enumerate(lengths(num_rows if entry.kind == "sft" else max(1, num_rows // 2))))
        rng.shuffle(sizes)
        make = _row if entry.kind == "sft" else _pair
        steps.append([make(rng, model, length, rank, first + i) for i, (rank, length) in enumerate(sizes)])
    return steps


def _row(rng: random.Random, model: str, length: int, rank: int, number: int) -> Row:
    prompt = length // 2
    return Row(_tokens(rng, model, length), bytes(prompt) + b"\1" * (length - prompt), "data@1", number)


def _pair(rng: random.Random, model: str, length: int, rank: int, number: int) -> Group:
    """A prompt of three times the answer; the rejected answer is a quarter longer or shorter than the chosen one."""
    answer = length // 4
    other = round(answer * (1.25 if rank % 2 else 0.75))
    branches = [Branch(_tokens(rng, model, size), b"\1" * size) for size in (answer, other)]
    return Group(_tokens(rng, model, length - answer), tuple(branches), "data@1", number)


def _tokens(rng: random.Random, model: str, count: int) -> array[int]:
    return array("i", [rng.randrange(1, vocabulary_of(model)) for _ in range(count)])  # 0 is the padding


def sequences_of(row: AnyRow) -> list[tuple[list[int], list[bool]]]:
    """Ids, and which are trained, of the row, or of prompt and chosen and prompt and rejected answer."""
    if isinstance(row, Row):
        return [(list(row.ids), [bool(mark) for mark in row.is_target])]
    prompt = list(row.prefix)
    return [
        ([*prompt, *branch.ids], [False] * len(prompt) + [bool(mark) for mark in branch.is_target])
        for branch in row.branches
    ]


def num_tokens(rows: Sequence[AnyRow]) -> int:
    """Tokens of all sequences, a shared prompt counted in each: the same on both sides, whatever they compute."""
    return sum(len(ids) for row in rows for ids, _ in sequences_of(row))


def by_mix(steps: Sequence[Sequence[AnyRow]], order: Sequence[int]) -> list[AnyRow]:
    """The rows as a data set of which the engine's mix, which draws row `order[i]` at position i, makes these steps."""
    placed = dict(zip(order, (row for step in steps for row in step), strict=True))
    return [placed[i] for i in range(len(placed))]
