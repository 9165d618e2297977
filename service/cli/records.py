"""Protocol messages as JSON: one record, one line, with the protocol's own field names.

This is protobuf's JSON mapping with two differences that scripts are glad of: 64-bit integers are numbers, not strings,
and a plain field is there whether it is set or not. A number that is not finite is the text "NaN", "Infinity" or
"-Infinity".
"""

from __future__ import annotations

import json
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_WIDE = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)


def to_dict(message: Message) -> dict[str, Any]:
    """A message as plain JSON values."""
    plain: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _widen(message.DESCRIPTOR, plain)
    return plain


def enum_name(enum: Any, number: int) -> str:
    """A value's name; the number itself if a newer server knows a value that this program does not."""
    known = enum.DESCRIPTOR.values_by_number.get(number)
    return str(known.name) if known is not None else str(number)


def echo_json(record: Message | dict[str, Any]) -> None:
    """One line on stdout. JSON escapes control characters, so it is safe on a terminal."""
    plain = record if isinstance(record, dict) else to_dict(record)
    click.echo(json.dumps(plain, ensure_ascii=True, allow_nan=False))


def _widen(descriptor: Descriptor, plain: dict[str, Any]) -> None:
    for name, value in plain.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            continue
        if field.message_type is not None and not field.message_type.full_name.startswith("google.protobuf."):
            if field.message_type.GetOptions().map_entry:
                continue
            for item in value if field.is_repeated else [value]:
                _widen(field.message_type, item)
        elif field.cpp_type in _WIDE:
            plain[name] = [int(item) for item in value] if field.is_repeated else int(value)
