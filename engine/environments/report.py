"""What came of completions with tools: numbers, and turns to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from posttrain.engine.rollout import Completion


def tool_numbers(completions: Sequence[Completion]) -> dict[str, float]:
    """Turns and calls of a completion, and of the calls that ran the share that was answered by an error. A call that
    cannot be read counts among them, and by itself."""
    results = [result for completion in completions for result in completion.results]
    metrics = {
        "turns": fmean(max(len(completion.turns), 1) for completion in completions),
        "tool_calls": len(results) / len(completions),
        "tool_tokens": fmean(len(completion.token_ids) - completion.num_sampled for completion in completions),
    }
    if results:
        metrics["tool_error_share"] = fmean(result.is_error for result in results)
        metrics["malformed_call_share"] = fmean(result.is_malformed for result in results)
    return metrics


def turns_of(completion: Completion, tokenizer: Any) -> list[dict[str, Any]]:
    """What the model wrote in each turn, special tokens included, and what tools answered, as plain JSON values."""
    return [
        {
            "text": tokenizer.decode(
                list(completion.token_ids[turn.start : turn.end]), clean_up_tokenization_spaces=False
            ),
            "results": [asdict(result) for result in turn.results],
        }
        for turn in completion.turns
    ]
