"""Rows that say which answer is better: pairs, and single answers with a label. Imports no torch.

The prompt is `prompt` (text or messages), `conversations` (ShareGPT turns) or `instruction` (with `input`), or it is
implicit: `chosen` and `rejected` are whole conversations, as messages or as text in Anthropic's form

    \\n\\nHuman: ...\\n\\nAssistant: ...

and the prompt is the longest run of turns that both begin with, up to an assistant's turn.
"""

from __future__ import annotations

import math
import re
from typing import Any

from posttrain.engine.data.examples import LabelledExample, Message, PairExample
from posttrain.engine.data.messages import read_message, read_messages, read_turns, system_turn
from posttrain.engine.data.rows import RowError, kind_of, optional_text, required, text_of
from posttrain.engine.data.tools import read_tools

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}
PROMPT_FIELDS = ("prompt", "conversations", "instruction")


def read_pair(row: dict[str, Any]) -> PairExample:
    """A prompt, the chosen way to go on and the rejected one.

    Raises:
        RowError: something is missing or of a wrong type; the two are equal, share no beginning (implicit prompt), or
            one does not begin and end with an assistant's turn; the margin is no number of at least 0.
    """
    prompt = prompt_of(row)
    chosen, rejected = (_answer(required(row, name), name) for name in ("chosen", "rejected"))
    if prompt is None:
        length = _shared(chosen, rejected)
        if not length:
            raise RowError("", "has no prompt, and chosen and rejected do not begin with the same turns")
        prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
        prompt = system_turn(row, prompt, "chosen") + prompt
    elif chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:  # given once alone and once in each conversation
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    _check_answer(chosen, "chosen")
    _check_answer(rejected, "rejected")
    if chosen == rejected:
        raise RowError("rejected", "is the same as chosen: nothing to prefer")
    return PairExample(prompt, chosen, rejected, read_tools(row.get("tools")), _margin(row.get("margin")))


def read_labelled(row: dict[str, Any]) -> LabelledExample:
    """A prompt, one way to go on, and whether that was desirable; of a whole conversation the last turn is judged.

    Raises:
        RowError: something is missing or of a wrong type; the label is not true or false; the conversation does not
            end with an assistant's turn, or has nothing before it.
    """
    label = required(row, "label")
    if not isinstance(label, bool):
        raise RowError("label", f"must be true or false, not {kind_of(label)}")
    field = "completion" if row.get("completion") is not None else "output"
    if row.get("messages") is not None:
        prompt, completion = _last_turn(read_messages(row["messages"], "messages"), "messages")
        prompt = system_turn(row, prompt, "messages") + prompt
    elif row.get(field) is not None:
        found = prompt_of(row)
        if found is None:
            raise RowError("prompt", "is missing")
        prompt, completion = found, _answer(row[field], field)
        _check_answer(completion, field)
    elif row.get("conversations") is not None:
        found = prompt_of(row) or []
        prompt, completion = _last_turn(found, "conversations")
    else:
        raise RowError("completion", "is missing")
    return LabelledExample(prompt, completion, label, read_tools(row.get("tools")))


def prompt_of(row: dict[str, Any]) -> list[Message] | None:
    """The prompt that a row gives by itself, or None."""
    given = [name for name in PROMPT_FIELDS if row.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise RowError(given[1], f"is given beside {given[0]}: which is the prompt?")
    name, value = given[0], row[given[0]]
    if name == "instruction":
        return alpaca_prompt(row)
    if name == "conversations" and isinstance(value, str):
        raise RowError(name, "must be a list of turns, not text")
    if isinstance(value, str) and value.startswith("\n\nHuman:") and value.rstrip().endswith("\n\nAssistant:"):
        messages = _transcript(value.rstrip().removesuffix("\n\nAssistant:"), name)
    else:
        messages = read_turns(value, name, "user")
    return system_turn(row, messages, name) + messages


def alpaca_prompt(row: dict[str, Any]) -> list[Message]:
    """`instruction`, with `input` below it, after `system`."""
    instruction = text_of(required(row, "instruction"), "instruction")
    context = optional_text(row, "input", "input")
    asked = f"{instruction}\n\n{context}" if context.strip() else instruction
    return [*system_turn(row, [], "instruction"), {"role": "user", "content": asked}]


def _answer(value: Any, path: str) -> list[Message]:
    """One turn, several, or a whole conversation."""
    if isinstance(value, dict):
        return [read_message(value, path)]
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        return _transcript(value, path)
    return read_turns(value, path, "assistant")


def _transcript(text: str, path: str) -> list[Message]:
    """Text in Anthropic's form as messages; the space after a colon and the last line's end are not content."""
    _, *parts = _SPEAKER.split(text)
    messages: list[Message] = []
    for index, (speaker, content) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        if not content.strip():
            raise RowError(path, f"turn {index + 1} ({speaker}) is empty")
        messages.append({"role": _ROLE[speaker], "content": text_of(content.strip(), path)})
    return messages


def _shared(first: list[Message], second: list[Message]) -> int:
    """How many turns are the prompt of both: what they share, up to a place where both go on with the assistant."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    while length and not all(length < len(side) and side[length]["role"] == "assistant" for side in (first, second)):
        length -= 1
    return length


def _last_turn(messages: list[Message], path: str) -> tuple[list[Message], list[Message]]:
    if messages[-1]["role"] != "assistant":
        raise RowError(f"{path}[{len(messages) - 1}]", "must be the assistant's turn that the label judges")
    if len(messages) == 1:
        raise RowError(path, "has no turn before the answer")
    return messages[:-1], messages[-1:]


def _check_answer(messages: list[Message], path: str) -> None:
    if not messages:
        raise RowError(path, "has nothing after the prompt")
    for message, word in ((messages[0], "begin"), (messages[-1], "end")):
        if message["role"] != "assistant":
            raise RowError(path, f"must {word} with an assistant's turn, not the {message['role']}'s")


def _margin(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("margin", f"must be a number, not {kind_of(value)}")
    try:
        margin = float(value)
    except OverflowError:
        margin = math.inf
    if not 0 <= margin < math.inf:
        raise RowError("margin", f"must be at least 0 and finite (chosen is the better one), not {value!s:.20}")
    return margin
