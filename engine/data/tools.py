"""Tools and calls of tools, in the one form that templates get. Imports no torch."""

from __future__ import annotations

from typing import Any

from posttrain.engine.data.rows import RowError, check_texts, kind_of, optional_text, parse_json, required, text_of


def read_calls(value: Any, path: str) -> list[dict[str, Any]]:
    """Calls as {"name", "arguments"}; also accepts OpenAI's {"type": "function", "function": {...}} with arguments as
    text."""
    if not isinstance(value, list):
        raise RowError(path, f"must be a list of calls, not {kind_of(value)}")
    calls = []
    for index, item in enumerate(value):
        where = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise RowError(where, f"must be an object with name and arguments, not {kind_of(item)}")
        call = item.get("function", item)
        if not isinstance(call, dict):
            raise RowError(f"{where}.function", f"must be an object, not {kind_of(call)}")
        name = text_of(required(call, "name", where), f"{where}.name")
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = parse_json(arguments, f"{where}.arguments")
        if not isinstance(arguments, dict):
            raise RowError(f"{where}.arguments", f"must be an object, not {kind_of(arguments)}")
        check_texts(arguments, f"{where}.arguments")
        calls.append({"name": name, "arguments": arguments})
    return calls


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Tools as {"name", "description", "parameters"}; also accepts {"type": "function", "function": {...}}, and the
    list as JSON text."""
    if isinstance(value, str):
        value = parse_json(value, "tools") if value.strip() else None
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError("tools", f"must be a list of functions, not {kind_of(value)}")
    tools, names = [], set()
    for index, item in enumerate(value):
        where = f"tools[{index}]"
        if not isinstance(item, dict):
            raise RowError(where, f"must be an object with name, description and parameters, not {kind_of(item)}")
        function = item.get("function", item)
        if not isinstance(function, dict):
            raise RowError(f"{where}.function", f"must be an object, not {kind_of(function)}")
        name = text_of(required(function, "name", where), f"{where}.name")
        if name in names:
            raise RowError(f"{where}.name", f"a second tool named {name!r}")
        names.add(name)
        description = optional_text(function, "description", f"{where}.description")
        parameters = function.get("parameters")
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, dict):
            raise RowError(f"{where}.parameters", f"must be a JSON schema object, not {kind_of(parameters)}")
        check_texts(parameters, f"{where}.parameters")
        tools.append({"name": name, "description": description, "parameters": parameters})
    return tools
