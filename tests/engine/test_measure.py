"""A dataset is measured with what a job of its kind would use, and by hand the same numbers come out."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.data.statistics import Statistics
from posttrain.engine.measure import measure
from posttrain.service.measuring import serve_measuring
from posttrain.service.proto import datasets_pb2

from .tiny import make_task, tiny_tokenizer


def size(text: str) -> int:
    return len(tiny_tokenizer(is_chat=True)(text)["input_ids"])


HEAD = "<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("options", "row", "trained", "characters"),
    [
        ({"kind": "ift"}, {"messages": []}, ["dog"], 10),
        ({"kind": "sft"}, {"messages": []}, ["dog"], 10),
        ({"kind": "dpo"}, {"chosen": "dog", "rejected": "lazy dog"}, ["dog", "lazy dog"], 18),
        ({"kind": "dpo", "loss": {"type": "kto"}}, {"completion": "dog", "label": True}, ["dog"], 10),
    ],
)
def test_rows_of_each_kind_by_hand(
    tmp_path: Path, options: dict[str, Any], row: dict[str, Any], trained: list[str], characters: int
) -> None:
    turns = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "dog"}]
    given = {"messages": turns} if "messages" in row else {"prompt": "the fox", **row}
    task = make_task(tmp_path, **options, rows=[given] * 2)
    found, num_characters = measure(task)
    answers = [size(f"{text}<|im_end|>") for text in trained]
    assert num_characters == 2 * characters
    assert found.num_trained == 2 * sum(answers)
    assert found.num_tokens == 2 * (size(HEAD) + sum(answers)), "a pair's prompt is computed once"
    assert (found.num_rows, found.longest) == (2, size(HEAD) + max(answers))


def test_prompts_that_are_answered_later(tmp_path: Path) -> None:
    rows = [{"prompt": "the fox", "checker": "exact", "target": "dog"}] * 2
    found, num_characters = measure(make_task(tmp_path, "grpo", rows=rows))
    assert (num_characters, found.num_trained, found.num_tokens) == (2 * 7, 0, 2 * size(HEAD))
    assert found.longest == size(HEAD) + 1, "with room for a token of an answer"


def test_a_measuring_process_answers_with_numbers_or_with_the_reason(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    found, num_characters = measure(task)
    for given, code, expected in (
        (task, 0, {"type": "measured", "num_characters": num_characters, "statistics": asdict(found)}),
        (
            task.model_copy(update={"spec": task.spec.model_copy(update={"template": {"type": "own"}})}),
            1,
            {"type": "failure", "code": "BAD_TEMPLATE"},
        ),
    ):
        out = io.BytesIO()
        plain = given.model_dump_json(warnings=False).encode()
        assert serve_measuring(io.BytesIO(plain + b"\n"), out) == code
        answer = json.loads(out.getvalue())
        assert {name: answer[name] for name in expected} == expected


def test_the_protocol_has_each_number() -> None:
    message = {field.name for field in datasets_pb2.DatasetStatistics.DESCRIPTOR.fields}
    assert message == {"dataset", "model", "num_characters", *(field.name for field in fields(Statistics))}
