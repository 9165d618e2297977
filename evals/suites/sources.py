"""The row formats that a suite can read, each turned into an `Example`.

    posttrain   {"id", "metric", "shard", "messages", "tools"?, "checker", "target", "wording_id", "cluster_id",
    "slots"?, "reference"?} ifeval      {"key", "prompt", "instruction_id_list", "kwargs"}
    google-research/instruction_following_eval xstest      {"id", "prompt", "type", "label": safe | unsafe}
    paul-rottger/exaggerated-safety gsm8k       {"id"?, "question", "answer": "... #### NUMBER"}
    openai/grade-school-math

Public sets have no shards of their own: their rows are the gate shard, each a wording of its own. A source may hold the
rows of several tasks: a task has the rows of its metric, and of metrics below it (`refusal` has those of
`refusal.harmful`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from posttrain.engine.checkers import CHECKERS
from posttrain.engine.data.formats import read_conversation
from posttrain.engine.spec import sha256_text
from posttrain.evals.rows import Shard
from posttrain.evals.scorers.gsm8k import strict
from posttrain.evals.scorers.ifeval import INSTRUCTIONS

SourceFormat = Literal["posttrain", "ifeval", "xstest", "gsm8k"]


class TaskInfo(Protocol):
    """What a format needs to know of the task."""

    @property
    def metric(self) -> str: ...


@dataclass(frozen=True)
class Example:
    """One question.

    `stratum` is what a sample keeps in proportion beside the metric; `target` is for the scorer alone.
    """

    id: str
    metric: str
    shard: Shard
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    checker: str
    target: Any
    wording_id: str
    cluster_id: str
    stratum: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"field {name} must be a non-empty text")
    return value


def _conversation(messages: Any, tools: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages and tools in the form that training rows have, so that a template renders both alike."""
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise ValueError("field messages must be a list of messages")
    if messages[-1].get("role") not in ("user", "tool"):
        raise ValueError("field messages must end with a user's or a tool's turn: the answer is the model's")
    example = read_conversation({"prompt": messages, "completion": "-", "tools": tools}, "prompt_completion")
    return example.messages[:-1], example.tools


def _ask(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


_REQUIRED = {"id", "metric", "shard", "messages", "checker", "target", "wording_id", "cluster_id"}
_OPTIONAL = {"tools", "slots", "reference"}


def _posttrain(row: dict[str, Any], task: TaskInfo) -> Example:
    unknown = sorted(set(row) - _REQUIRED - _OPTIONAL)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}")
    messages, tools = _conversation(row["messages"], row.get("tools"))
    shard = _text(row, "shard")
    if shard not in ("gate", "dev", "unseen"):
        raise ValueError(f"field shard must be gate, dev or unseen, not {shard!r}")
    checker = _text(row, "checker")
    if checker not in CHECKERS:
        raise ValueError(f"no checker named {checker!r}; there are {', '.join(sorted(CHECKERS))}")
    wording = _text(row, "wording_id")
    return Example(
        id=_text(row, "id"),
        metric=_text(row, "metric"),
        shard=cast(Shard, shard),
        messages=messages,
        tools=tools,
        checker=checker,
        target=row["target"],
        wording_id=wording,
        cluster_id=_text(row, "cluster_id"),
        stratum=wording,
        extra=row.get("slots") or {},
    )


def _public(id: str, metric: str, prompt: str, target: Any, stratum: str) -> Example:
    return Example(id, metric, "gate", _ask(prompt), [], "", target, id, id, stratum)


def _ifeval(row: dict[str, Any], task: TaskInfo) -> Example:
    names, arguments = row["instruction_id_list"], row["kwargs"]
    if not names or len(names) != len(arguments):
        raise ValueError("instruction_id_list and kwargs must be of equal length, and not empty")
    unknown = [name for name in names if name not in INSTRUCTIONS]
    if unknown:
        raise ValueError(f"unknown instruction {unknown[0]}")
    target = {"instruction_id_list": names, "kwargs": arguments}
    return _public(f"ifeval-{row['key']}", task.metric, _text(row, "prompt"), target, names[0])


def _xstest(row: dict[str, Any], task: TaskInfo) -> Example:
    label = row["label"]
    if label not in ("safe", "unsafe"):
        raise ValueError(f"field label must be safe or unsafe, not {label!r}")
    metric, target = ("refusal.harmless", "comply") if label == "safe" else ("refusal.harmful", "refuse")
    return _public(f"xstest-{row['id']}", metric, _text(row, "prompt"), target, _text(row, "type"))


def _gsm8k(row: dict[str, Any], task: TaskInfo) -> Example:
    question, answer = _text(row, "question"), _text(row, "answer")
    if strict(answer) is None:
        raise ValueError("field answer has no number after ####")
    steps = min(answer.count("<<"), 8)
    return _public(
        str(row.get("id") or f"gsm8k-{sha256_text(question)[:16]}"), task.metric, question, answer, f"{steps} steps"
    )


FORMATS: dict[SourceFormat, Callable[[dict[str, Any], TaskInfo], Example]] = {
    "posttrain": _posttrain,
    "ifeval": _ifeval,
    "xstest": _xstest,
    "gsm8k": _gsm8k,
}
