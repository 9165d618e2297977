"""A job spec as a plain dict (YAML, JSON, a form) into its protocol message, driven by the message's own description.

A tagged choice is a dict with the tag among its options (`{type: lora, rank: 8}`) and a `oneof` in the protocol. What
spec.py says about ranges and defaults is the server's business; here a field must exist and have the right type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.service.client.errors import ClientError
from posttrain.service.proto import spec_pb2


def spec_to_proto(spec: Mapping[str, Any]) -> spec_pb2.JobSpec:
    """The message of a spec.

    Raises:
        ClientError: INVALID_ARGUMENT, with the path of the field that does not exist or has a wrong type.
    """
    message = spec_pb2.JobSpec()
    _fill(message, spec, "")
    return message


def _fill(message: Any, data: Any, path: str) -> None:
    if not isinstance(data, Mapping):
        raise _bad(path, f"expected a mapping of options, got {type(data).__name__}")
    options = dict(data)
    for choice in message.DESCRIPTOR.oneofs:
        if choice.name in {"kind", "type"}:  # the others are proto3's own, one per optional field
            tag = options.pop(choice.name, None)
            if tag not in {field.name for field in choice.fields}:
                known = ", ".join(field.name for field in choice.fields)
                raise _bad(_join(path, choice.name), f"expected one of {known}")
            chosen = getattr(message, tag)
            chosen.SetInParent()
            _fill(chosen, options, path)
            return
    for name, value in options.items():
        where = _join(path, str(name))
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise _bad(where, f"no such option; the options here: {', '.join(message.DESCRIPTOR.fields_by_name)}")
        if field.is_repeated:
            if not isinstance(value, list | tuple):
                raise _bad(where, f"expected a list, got {type(value).__name__}")
            for index, item in enumerate(value):
                if field.message_type is not None:
                    _fill(getattr(message, name).add(), item, f"{where}.{index}")
                else:
                    _set(getattr(message, name).append, item, f"{where}.{index}")
        elif field.message_type is not None:
            getattr(message, name).SetInParent()
            _fill(getattr(message, name), value, where)
        else:
            _set(lambda item, name=name: setattr(message, name, item), value, where)


def _set(assign: Any, value: Any, path: str) -> None:
    try:
        assign(value)
    except (TypeError, ValueError) as error:
        raise _bad(path, str(error)) from error


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _bad(path: str, description: str) -> ClientError:
    return ClientError(
        "INVALID_ARGUMENT",
        "BAD_SPEC",
        f"{path or 'spec'}: {description}",
        fields=[(path or "spec", description)],
        hint="`posttrain init KIND` writes a spec with all options and their meaning",
    )
