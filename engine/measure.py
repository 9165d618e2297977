"""A dataset as a job would see it: encoded with the tokenizer and template of its model, and measured. No weights are
loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.examples import AnyExample, Example, LabelledExample, PairExample
from posttrain.engine.data.statistics import Statistics, statistics_of
from posttrain.engine.data.validate import iter_examples
from posttrain.engine.errors import EmptyDatasetError
from posttrain.engine.methods import method_of
from posttrain.engine.models import context_of, load_config, load_tokenizer
from posttrain.engine.run import turn_stop_ids
from posttrain.engine.spec import BuiltinTemplate
from posttrain.engine.task import TrainTask


def measure(task: TrainTask) -> tuple[Statistics, int]:
    """Statistics of a task's datasets together, under its `batch.max_tokens` or the model's context, and the number
    of characters in their texts. Memory is one row's, and four bytes for each.

    Raises:
        EngineError: as training would, before it loads weights: a template, a row or the tokenizer does not fit.
    """
    config, tokenizer = load_config(task.base), load_tokenizer(task.base)
    method = method_of(task.spec)
    template, _ = method.prepare_tokenizer(tokenizer)
    is_builtin = isinstance(task.spec.template, BuiltinTemplate)
    encoder = Encoder(tokenizer, template, turn_stop_ids(task.base, tokenizer, config, is_builtin))
    num_characters = 0

    def rows() -> Iterator[AnyRow]:
        nonlocal num_characters
        for dataset in task.datasets:
            for number, example in iter_examples(Path(dataset.path), dataset.format):
                num_characters += _num_characters(example)
                row = method.encode(example, encoder, dataset.ref, number)
                if row is not None:  # tool_use leaves out what does not fit its tools
                    yield row

    found = statistics_of(rows(), min(task.spec.batch.max_tokens, context_of(config)))
    if found is None:
        raise EmptyDatasetError(f"{task.datasets[0].ref}: no rows")
    return found, num_characters


def _num_characters(example: AnyExample) -> int:
    """Of the messages' texts; of a pair, the prompt once."""
    if isinstance(example, Example):
        messages: list[dict[str, Any]] = example.messages
    elif isinstance(example, PairExample):
        messages = [*example.prompt, *example.chosen, *example.rejected]
    elif isinstance(example, LabelledExample):
        messages = [*example.prompt, *example.completion]
    else:
        messages = example.prompt
    return sum(len(message["content"]) for message in messages)
