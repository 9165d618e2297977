"""Checks tool calls against the JSON schemas of the tools on offer (`schemas.py`). Imports no torch.

One rule is stricter than JSON schema, whose objects are open: an argument that `properties` does not list is wrong,
unless the schema says otherwise (`additionalProperties`, `patternProperties`, or a combination of schemas). A tool
without `properties` takes anything.
"""

from __future__ import annotations

from typing import Any

from posttrain.engine.data.examples import Example, Message
from posttrain.engine.data.patterns import UncheckableError, shown
from posttrain.engine.data.schemas import Budget, Finding, first_error, names_of, said_extra

_OPENING = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas")


def check_calls(example: Example) -> list[Finding]:
    """What is wrong with the calls of a conversation and with what follows them: (field, reason), at most one for each
    call and message."""
    tools = {tool["name"]: (index, tool["parameters"]) for index, tool in enumerate(example.tools)}
    budget = Budget()
    found: list[Finding] = []
    num_open = 0
    for number, message in enumerate(example.messages):
        calls = message.get("tool_calls") or []
        if message["role"] == "tool":
            num_open -= 1
            if num_open < 0:
                found.append((f"messages[{number}]", "a tool's answer without a call that it answers"))
        else:
            num_open = len(calls)
        for index, call in enumerate(calls):
            found += _check(call, tools, f"messages[{number}].tool_calls[{index}]", budget)
    return found


def _check(call: Message, tools: dict[str, tuple[int, Any]], where: str, budget: Budget) -> list[Finding]:
    if call["name"] not in tools:
        offered = shown(names_of(tools)) if tools else "none"
        return [(f"{where}.name", f"no tool {shown(repr(call['name']))} is on offer ({offered})")]
    position, parameters = tools[call["name"]]
    try:
        validator = budget.validator(position, parameters)
    except UncheckableError as error:
        return [(f"tools[{position}].parameters", str(error))]
    try:
        wrong = _first_error(validator, parameters, call["arguments"], budget)
    except UncheckableError as error:
        return [(f"{where}.arguments", f"cannot be checked: {error}")]
    return [(f"{where}.arguments{wrong[0]}", wrong[1])] if wrong else []


def _first_error(
    validator: Any, parameters: dict[str, Any], arguments: dict[str, Any], budget: Budget
) -> Finding | None:
    found = first_error(validator, arguments, budget)
    if found is not None:
        return found
    listed = parameters.get("properties")
    if isinstance(listed, dict) and not any(key in parameters for key in _OPENING):
        more = [name for name in arguments if name not in listed]
        if more:
            return "", said_extra(more, listed)
    return None
