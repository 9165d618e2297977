"""Messages as OpenAI writes them ({"role", "content", "tool_calls"?}) and turns as ShareGPT does ({"from", "value"}).

Both become messages; nothing behind this module knows of the second. Imports no torch.
"""

from __future__ import annotations

from typing import Any

from posttrain.engine.data.examples import Message
from posttrain.engine.data.rows import RowError, kind_of, optional_text, parse_json, required, text_of
from posttrain.engine.data.tools import read_calls

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_FIELDS = ("role", "content", "tool_calls", "name", "tool_call_id", "meta")
CALL = "function_call"
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    CALL: "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
TURN_FIELDS = ("from", "value", "weight", "meta")


def read_turns(value: Any, path: str, role: str) -> list[Message]:
    """Plain text as one turn of `role`, or a list of messages or turns."""
    if isinstance(value, str):
        return [{"role": role, "content": text_of(value, path)}]
    if not isinstance(value, list):
        raise RowError(path, f"must be text or a list of messages, not {kind_of(value)}")
    return read_messages(value, path)


def read_messages(value: Any, path: str) -> list[Message]:
    """A list of messages or ShareGPT turns, in the one form.

    Raises:
        RowError: no list, an empty one, an unknown field or role, a text missing or empty, a bad call.
    """
    if not isinstance(value, list):
        raise RowError(path, f"must be a list of messages, not {kind_of(value)}")
    if not value:
        raise RowError(path, "is empty")
    messages = [read_message(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return _in_order_of_calls(value, messages, path)


def _in_order_of_calls(value: list[dict[str, Any]], messages: list[Message], path: str) -> list[Message]:
    """The tools' answers after each assistant turn in the order of its calls, which is what templates and scoring go
    by; they are matched by id where the calls and the answers have ids.

    Raises:
        RowError: two calls or answers of one id, an answer without one beside others, or to no call of the turn.
    """
    ordered = list(messages)
    for start, message in enumerate(messages):
        if not message.get("tool_calls"):
            continue
        ids = [call.get("id") for call in value[start]["tool_calls"]] if "tool_calls" in value[start] else []
        end = start + 1
        while end < len(messages) and messages[end]["role"] == "tool":
            end += 1
        answers = range(start + 1, end)
        if not any(ids) or not any("tool_call_id" in messages[index] for index in answers):
            continue
        for number, call_id in enumerate(ids):
            where = f"{path}[{start}].tool_calls[{number}].id"
            text_of(call_id, where)
            if call_id in ids[:number]:
                raise RowError(where, f"a second call of the id {call_id!r:.80}")
        place_of: dict[int, int] = {}
        for index in answers:
            where = f"{path}[{index}].tool_call_id"
            call_id = required(messages[index], "tool_call_id", f"{path}[{index}]")
            if call_id not in ids:
                raise RowError(where, f"{call_id!r:.80} is the id of no call of the turn before")
            if ids.index(call_id) in place_of.values():
                raise RowError(where, f"a second answer to the call {call_id!r:.80}")
            place_of[index] = ids.index(call_id)
        if len(place_of) < max(place_of.values()) + 1:
            missing = min(set(range(len(ids))) - set(place_of.values()))
            raise RowError(f"{path}[{start}].tool_calls[{missing}].id", "has no answer, and a call after it has one")
        ordered[start + 1 : end] = [messages[index] for index in sorted(place_of, key=place_of.__getitem__)]
    return ordered


def read_message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise RowError(path, f"must be an object with role and content, not {kind_of(value)}")
    if "from" in value:
        return _turn(value, path)
    unknown = [key for key, held in value.items() if key not in MESSAGE_FIELDS and held is not None]
    if unknown:
        raise RowError(f"{path}.{unknown[0]}", f"unknown field of a message (known: {', '.join(MESSAGE_FIELDS)})")
    role = required(value, "role", path)
    if role not in ROLES:
        raise RowError(f"{path}.role", f"unknown role {role!r:.80} (known: {', '.join(ROLES)})")
    calls = value.get("tool_calls")
    content = value.get("content")
    if calls is not None and role != "assistant":
        raise RowError(f"{path}.tool_calls", f"only an assistant turn calls tools, not {role}")
    if calls:
        text = optional_text(value, "content", f"{path}.content")
        return {"role": role, "content": text, "tool_calls": read_calls(calls, f"{path}.tool_calls")}
    if content is None:
        raise RowError(f"{path}.content", "is missing")
    message: Message = {
        "role": role,
        "content": text_of(content, f"{path}.content", allow_empty=role in ("system", "tool")),
    }
    for key in ("name", "tool_call_id"):
        if value.get(key) is not None:
            message[key] = text_of(value[key], f"{path}.{key}")
    return message


def _turn(value: dict[str, Any], path: str) -> Message:
    """One ShareGPT turn. The text of a `function_call` is JSON of one call, or of a list of calls made at once."""
    unknown = [key for key, held in value.items() if key not in TURN_FIELDS and held is not None]
    if unknown:
        raise RowError(f"{path}.{unknown[0]}", f"unknown field of a turn (known: {', '.join(TURN_FIELDS)})")
    speaker = required(value, "from", path)
    role = SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowError(f"{path}.from", f"unknown speaker {speaker!r:.80} (known: {', '.join(SPEAKERS)})")
    if role == "assistant" and value.get("weight") not in (None, 1):
        raise RowError(f"{path}.weight", "must be 1 or absent: single turns cannot be weighted")
    text = text_of(required(value, "value", path), f"{path}.value", allow_empty=role in ("system", "tool"))
    if speaker not in (CALL, "tool_call"):
        return {"role": role, "content": text}
    called = parse_json(text, f"{path}.value")
    calls = read_calls(called if isinstance(called, list) else [called], f"{path}.value")
    if not calls:
        raise RowError(f"{path}.value", "has no call")
    return {"role": role, "content": "", "tool_calls": calls}


def system_turn(row: dict[str, Any], messages: list[Message], path: str) -> list[Message]:
    """The row's `system` text as a first message, if it has one.

    Raises:
        RowError: the conversation begins with a system turn too.
    """
    text = optional_text(row, "system", "system")
    if not text.strip():
        return []
    if messages and messages[0]["role"] == "system":
        raise RowError("system", f"is given, and {path} begins with a system turn too")
    return [{"role": "system", "content": text}]
