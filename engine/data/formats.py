"""The formats of a row: which fields tell each, and who reads it. Imports no torch and no transformers.

    messages            {"messages": [{"role", "content", "tool_calls"?}, ...], "tools"?: [...]}
    prompt_completion   {"prompt": TEXT | [messages], "completion": TEXT | [messages], "tools"?: [...]}
    alpaca              {"instruction": TEXT, "input"?: TEXT, "output": TEXT, "system"?: TEXT}
    sharegpt            {"conversations": [{"from", "value"}, ...], "system"?: TEXT, "tools"?: [...] | JSON TEXT}
    preference          {"prompt"?: TEXT | [messages], "chosen": ..., "rejected": ..., "margin"?: NUMBER, "tools"?}
    unpaired            {"prompt", "completion", "label": BOOLEAN} or {"messages": [...], "label": BOOLEAN}
    prompts             {"prompt": TEXT | [messages], "checker": NAME, "target"?: {...} | TEXT | NUMBER,
                         "reference"?: TEXT, "tools"?: [...]}

`normalise` turns a row into an example (`examples.py`); the first four become conversations. `prompts` are answered by
the model that is trained, and judged by a checker (`prompts.py`). A column `meta` is for
people and ignored silently.
"""

from __future__ import annotations

from typing import Any, Literal

from posttrain.engine.data.examples import AnyExample, Example
from posttrain.engine.data.messages import read_messages, read_turns, system_turn
from posttrain.engine.data.preferences import alpaca_prompt, read_labelled, read_pair
from posttrain.engine.data.prompts import read_prompt
from posttrain.engine.data.rows import RowError, kind_of, required, text_of
from posttrain.engine.data.tools import read_tools
from posttrain.engine.spec import DpoSpec, KtoLoss, TrainSpec

ConversationFormat = Literal["messages", "prompt_completion", "alpaca", "sharegpt"]
Format = Literal["messages", "prompt_completion", "alpaca", "sharegpt", "preference", "unpaired", "prompts"]
CONVERSATIONS: tuple[ConversationFormat, ...] = ("messages", "prompt_completion", "alpaca", "sharegpt")
FORMATS: tuple[Format, ...] = (*CONVERSATIONS, "preference", "unpaired", "prompts")

# Any of these tells a conversation's format; `chosen`, `rejected`, `label` and `checker` turn it into one of the
# others.
REQUIRED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "preference": ("chosen", "rejected"),
    "unpaired": ("label",),
    "prompts": ("checker",),
}
OPTIONAL: dict[Format, tuple[str, ...]] = {
    "messages": ("tools", "meta"),
    "prompt_completion": ("tools", "meta"),
    "alpaca": ("input", "system", "meta"),
    "sharegpt": ("system", "tools", "meta"),
    "preference": ("prompt", "conversations", "instruction", "input", "system", "tools", "margin", "meta"),
    "unpaired": (
        *("prompt", "completion", "messages", "conversations", "instruction", "input", "output"),
        *("system", "tools", "meta"),
    ),
    "prompts": (
        *("prompt", "messages", "conversations", "instruction", "input"),
        *("target", "reference", "system", "tools", "meta"),
    ),
}

# What each kind of job reads. A kind that reads by its options is told apart in `formats_for`.
FORMATS_OF_KIND: dict[str, tuple[Format, ...]] = {
    "ift": CONVERSATIONS,
    "sft": CONVERSATIONS,
    "tool_use": CONVERSATIONS,
    "dpo": ("preference",),
    "reward": ("preference",),
    "grpo": ("prompts",),
    "ppo": ("prompts",),
}


def formats_for(spec: TrainSpec) -> tuple[Format, ...]:
    """The formats that a job of this spec can read."""
    if isinstance(spec, DpoSpec) and isinstance(spec.loss, KtoLoss):
        return ("unpaired",)
    return FORMATS_OF_KIND[spec.kind]


def detect(row: dict[str, Any]) -> Format:
    """The format whose fields the row has; a field that is null counts as absent.

    A `label` that is text is a column like any other, since datasets for classifiers have it, but not beside a prompt
    and a completion: there it would turn labelled answers, also the bad ones, into ones to imitate.

    Raises:
        RowError: none, or several.
    """
    has = {key for key, value in row.items() if value is not None}
    found: list[Format] = [name for name in CONVERSATIONS if any(key in has for key in REQUIRED[name])]
    if has & {"chosen", "rejected"}:
        clash = has & {"completion", "output"}
        if not clash:
            return "preference"
        raise RowError("", f"has fields of several formats (chosen or rejected, and {min(clash)})")
    is_labelled = "label" in has and not isinstance(row["label"], str)
    if {"prompt", "completion", "label"} <= has and not isinstance(row["label"], bool):
        kind = kind_of(row["label"])
        raise RowError("label", f"must be true or false, not {kind}; a column of another meaning needs another name")
    if "checker" in has and not has & {"completion", "output"} and not is_labelled:
        return "prompts"
    if len(found) > 1:
        raise RowError("", f"has fields of several formats ({' and '.join(found)})")
    if found:
        return "unpaired" if is_labelled else found[0]
    known = "; ".join(f"{name}: {', '.join(REQUIRED[name])}" for name in FORMATS)
    raise RowError("", f"has fields of no known format ({known})")


def check_same(row: dict[str, Any], row_format: Format, expected: Format) -> None:
    """Raises RowError if a row is of another format than the rows before it; says what it lacks."""
    if expected == "unpaired" and isinstance(row.get("label"), str):
        raise RowError("label", "must be true or false, not text")
    if row_format != expected:
        missing = [key for key in REQUIRED[expected] if row.get(key) is None]
        lacks = f"; {missing[0]} is missing" if missing else ""
        raise RowError("", f"is {row_format}, but the rows before it are {expected}{lacks}: one dataset, one format")


def extra_columns(row: dict[str, Any], row_format: Format) -> list[str]:
    """Columns that this format does not read; they are kept in the file and never trained on."""
    known = (*REQUIRED[row_format], *OPTIONAL[row_format])
    return [key for key in row if key not in known]


def normalise(row: dict[str, Any], row_format: Format) -> AnyExample:
    """The row in its common form, checked: a conversation, a pair, a labelled answer or a prompt.

    Raises:
        RowError: a field is missing, empty or of a wrong type; no assistant turn; an unknown role; bad tools; a checker
            that is not known, or that its target does not fit.
    """
    if row_format == "preference":
        return read_pair(row)
    if row_format == "unpaired":
        return read_labelled(row)
    if row_format == "prompts":
        return read_prompt(row)
    return read_conversation(row, row_format)


def read_conversation(row: dict[str, Any], row_format: ConversationFormat) -> Example:
    """As `normalise`, of the formats of one conversation."""
    path = "messages"
    if row_format == "messages":
        messages = read_messages(required(row, path), path)
    elif row_format == "sharegpt":
        path = "conversations"
        messages = read_messages(required(row, path), path)
        messages = system_turn(row, messages, path) + messages
    elif row_format == "prompt_completion":
        messages = read_turns(required(row, "prompt"), "prompt", "user")
        answer = read_turns(required(row, "completion"), "completion", "assistant")
        if not any(message["role"] == "assistant" for message in answer):
            raise RowError("completion", "has no assistant turn: nothing to train on")
        messages = messages + answer
    else:
        messages = alpaca_prompt(row)
        messages.append({"role": "assistant", "content": text_of(required(row, "output"), "output")})
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError(path, "has no assistant turn: nothing to train on")
    return Example(messages, read_tools(row.get("tools")))
