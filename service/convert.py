"""A spec as protocol message <-> the plain dict that posttrain.engine.spec validates. Generic: knows no option by name.

A message whose only content is a `oneof` is a tagged choice: {<oneof's name>: <member's name>, ...the member's
fields}. Fields that are absent stay absent, so that spec.py alone declares defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import unknown_fields
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from posttrain.service.errors import FieldViolation, InvalidFieldError
from posttrain.service.proto import spec_pb2


def choice_of(descriptor: Descriptor) -> str:
    """The oneof's name if the message is a tagged choice, else an empty text."""
    oneofs = [oneof for oneof in descriptor.oneofs if not _is_synthetic(oneof.fields)]
    if len(oneofs) == 1 and len(oneofs[0].fields) == len(descriptor.fields):
        return str(oneofs[0].name)
    return ""


def _is_synthetic(fields: Iterable[FieldDescriptor]) -> bool:
    """`optional` declares a oneof of its own around a single scalar field."""
    fields = list(fields)
    return len(fields) == 1 and fields[0].containing_oneof.name == f"_{fields[0].name}"


def to_dict(message: Message, path: str = "") -> dict[str, Any]:
    """A message as a plain dict.

    Raises:
        InvalidFieldError: the message carries a field number that this server does not know; an option is never
        ignored.
    """
    for unknown in unknown_fields.UnknownFieldSet(message):
        place = path or "spec"
        text = (
            f"unknown option (field number {unknown.field_number} of {message.DESCRIPTOR.name}); is the client newer?"
        )
        raise InvalidFieldError([FieldViolation(place, text)])
    tag = choice_of(message.DESCRIPTOR)
    if tag:
        member = message.WhichOneof(tag)
        if member is None:
            return {}
        return {tag: member, **to_dict(getattr(message, member), path)}
    plain: dict[str, Any] = {}
    for field, value in message.ListFields():
        place = f"{path}.{field.name}" if path else field.name
        if field.message_type is None:
            plain[field.name] = list(value) if field.is_repeated else value
        elif field.is_repeated:
            plain[field.name] = [to_dict(item, f"{place}[{index}]") for index, item in enumerate(value)]
        else:
            plain[field.name] = to_dict(value, place)
    return plain


def fill(message: Message, plain: dict[str, Any]) -> None:
    """Sets a message from a plain dict of the same shape; a key that the message lacks is a KeyError."""
    tag = choice_of(message.DESCRIPTOR)
    if tag:
        rest = dict(plain)
        member = getattr(message, rest.pop(tag))
        member.SetInParent()
        fill(member, rest)
        return
    for name, value in plain.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.message_type is None:
            if field.is_repeated:
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        elif field.is_repeated:
            for item in value:
                fill(getattr(message, name).add(), item)
        else:
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)


def spec_to_proto(plain: dict[str, Any]) -> spec_pb2.JobSpec:
    """A spec's plain dict (`model_dump()`) as the protocol's message."""
    message = spec_pb2.JobSpec()
    fill(message, plain)
    return message
