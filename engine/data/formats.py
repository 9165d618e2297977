"""The three row formats, and the one form that everything behind them uses. Imports no torch and no transformers.

    messages            {"messages": [{"role", "content", "tool_calls"?}, ...], "tools"?: [...]}
    prompt_completion   {"prompt": TEXT | [messages], "completion": TEXT | [messages], "tools"?: [...]}
    alpaca              {"instruction": TEXT, "input"?: TEXT, "output": TEXT, "system"?: TEXT}

`normalise` turns any of them into an `Example` (messages and tools). A column `meta` is for people and ignored
silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from posttrain.engine.data.examples import Example, Message

Format = Literal["messages", "prompt_completion", "alpaca"]
FORMATS: tuple[Format, ...] = ("messages", "prompt_completion", "alpaca")
ROLES = ("system", "user", "assistant", "tool")
REQUIRED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
OPTIONAL: dict[Format, tuple[str, ...]] = {
    "messages": ("tools", "meta"),
    "prompt_completion": ("tools", "meta"),
    "alpaca": ("input", "system", "meta"),
}
MESSAGE_FIELDS = ("role", "content", "tool_calls", "name", "tool_call_id", "meta")
MAX_ROW_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row. `row` is the 1-based line of the file, 0 for the whole file; `field` is a path, or
    empty."""

    row: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"row {self.row}" if self.row else "file"
        return f"{where}, field {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class RowError(ValueError):
    """One row cannot be used; carries the field's path and the reason."""

    def __init__(self, field_path: str, message: str) -> None:
        super().__init__(message)
        self.field = field_path


def parse_row(line: bytes) -> dict[str, Any]:
    """One JSONL line to an object.

    Raises:
        RowError: not UTF-8, not JSON, not an object, a field given twice, NaN, a lone surrogate, or too large.
    """
    if len(line) > MAX_ROW_BYTES:
        raise RowError("", f"the row has {len(line)} bytes; at most {MAX_ROW_BYTES} are read")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("", f"not UTF-8: byte {line[error.start]:#04x} at position {error.start}") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_fields)
    except RowError:
        raise
    except RecursionError:
        raise RowError("", "nested too deeply") from None
    except ValueError as error:
        raise RowError("", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError("", f"not a JSON object but {_kind(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RowError("", f"{name} is not JSON")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RowError(key, "given twice in one object")
        found[key] = value
    return found


def detect(row: dict[str, Any]) -> Format:
    """The format whose fields the row has.

    Raises:
        RowError: none, or several.
    """
    found = [name for name in FORMATS if any(key in row for key in REQUIRED[name])]
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{name}: {', '.join(REQUIRED[name])}" for name in FORMATS)
    if found:
        raise RowError("", f"has fields of several formats ({' and '.join(found)})")
    raise RowError("", f"has fields of no known format ({known})")


def extra_columns(row: dict[str, Any], row_format: Format) -> list[str]:
    """Columns that this format does not read; they are kept in the file and never trained on."""
    known = (*REQUIRED[row_format], *OPTIONAL[row_format])
    return [key for key in row if key not in known]


def normalise(row: dict[str, Any], row_format: Format) -> Example:
    """The row in the common form, checked.

    Raises:
        RowError: a field is missing, empty or of a wrong type; no assistant turn; an unknown role; bad tools.
    """
    if row_format == "messages":
        messages = _messages(_required(row, "messages"), "messages")
    elif row_format == "prompt_completion":
        messages = _turns(_required(row, "prompt"), "prompt", "user")
        answer = _turns(_required(row, "completion"), "completion", "assistant")
        if not any(message["role"] == "assistant" for message in answer):
            raise RowError("completion", "has no assistant turn: nothing to train on")
        messages = messages + answer
    else:
        messages = _alpaca(row)
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("messages", "has no assistant turn: nothing to train on")
    return Example(messages, _tools(row.get("tools")))


def _alpaca(row: dict[str, Any]) -> list[Message]:
    instruction = _text(_required(row, "instruction"), "instruction")
    context = _optional(row, "input", "input")
    system = _optional(row, "system", "system")
    output = _text(_required(row, "output"), "output")
    asked = f"{instruction}\n\n{context}" if context.strip() else instruction
    head: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    return [*head, {"role": "user", "content": asked}, {"role": "assistant", "content": output}]


def _turns(value: Any, path: str, role: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": _text(value, path)}]
    return _messages(value, path)


def _messages(value: Any, path: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowError(path, f"must be a list of messages, not {_kind(value)}")
    if not value:
        raise RowError(path, "is empty")
    return [_message(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise RowError(path, f"must be an object with role and content, not {_kind(value)}")
    unknown = [key for key in value if key not in MESSAGE_FIELDS]
    if unknown:
        raise RowError(f"{path}.{unknown[0]}", f"unknown field of a message (known: {', '.join(MESSAGE_FIELDS)})")
    role = _required(value, "role", path)
    if role not in ROLES:
        raise RowError(f"{path}.role", f"unknown role {role!r} (known: {', '.join(ROLES)})")
    calls = value.get("tool_calls")
    content = value.get("content")
    if calls is not None and role != "assistant":
        raise RowError(f"{path}.tool_calls", f"only an assistant turn calls tools, not {role}")
    if calls:
        text = _optional(value, "content", f"{path}.content")
        return {"role": role, "content": text, "tool_calls": _calls(calls, f"{path}.tool_calls")}
    if content is None:
        raise RowError(f"{path}.content", "is missing")
    message: Message = {
        "role": role,
        "content": _text(content, f"{path}.content", allow_empty=role in ("system", "tool")),
    }
    for key in ("name", "tool_call_id"):
        if value.get(key) is not None:
            message[key] = _text(value[key], f"{path}.{key}")
    return message


def _calls(value: Any, path: str) -> list[dict[str, Any]]:
    """Calls as {"name", "arguments"}; also accepts OpenAI's {"type": "function", "function": {...}} with arguments as
    text."""
    if not isinstance(value, list):
        raise RowError(path, f"must be a list of calls, not {_kind(value)}")
    calls = []
    for index, item in enumerate(value):
        where = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise RowError(where, f"must be an object with name and arguments, not {_kind(item)}")
        call = item.get("function", item)
        if not isinstance(call, dict):
            raise RowError(f"{where}.function", f"must be an object, not {_kind(call)}")
        name = _text(_required(call, "name", where), f"{where}.name")
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments, parse_constant=_refuse_constant)
            except ValueError:
                raise RowError(f"{where}.arguments", "is text that is not JSON") from None
        if not isinstance(arguments, dict):
            raise RowError(f"{where}.arguments", f"must be an object, not {_kind(arguments)}")
        _check_texts(arguments, f"{where}.arguments")
        calls.append({"name": name, "arguments": arguments})
    return calls


def _tools(value: Any) -> list[dict[str, Any]]:
    """Tools as {"name", "description", "parameters"}; also accepts {"type": "function", "function": {...}}."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError("tools", f"must be a list of functions, not {_kind(value)}")
    tools, names = [], set()
    for index, item in enumerate(value):
        where = f"tools[{index}]"
        if not isinstance(item, dict):
            raise RowError(where, f"must be an object with name, description and parameters, not {_kind(item)}")
        function = item.get("function", item)
        if not isinstance(function, dict):
            raise RowError(f"{where}.function", f"must be an object, not {_kind(function)}")
        name = _text(_required(function, "name", where), f"{where}.name")
        if name in names:
            raise RowError(f"{where}.name", f"a second tool named {name!r}")
        names.add(name)
        description = _optional(function, "description", f"{where}.description")
        parameters = function.get("parameters")
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, dict):
            raise RowError(f"{where}.parameters", f"must be a JSON schema object, not {_kind(parameters)}")
        _check_texts(parameters, f"{where}.parameters")
        tools.append({"name": name, "description": description, "parameters": parameters})
    return tools


def _required(row: dict[str, Any], key: str, path: str = "") -> Any:
    where = f"{path}.{key}" if path else key
    if row.get(key) is None:
        raise RowError(where, "is missing")
    return row[key]


def _optional(row: dict[str, Any], key: str, path: str) -> str:
    return "" if row.get(key) is None else _text(row[key], path, allow_empty=True)


def _text(value: Any, path: str, allow_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise RowError(path, f"must be text, not {_kind(value)}")
    if not allow_empty and not value.strip():
        raise RowError(path, "is empty")
    _check_texts(value, path)
    return value


def _check_texts(value: Any, path: str) -> None:
    """JSON may escape half a surrogate pair, which no tokenizer can encode."""
    for text in _strings(value):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(path, f"holds a lone surrogate {text[error.start]!r} at position {error.start}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]
