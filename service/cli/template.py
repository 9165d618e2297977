"""`posttrain init`: a commented spec with every option of a kind, its meaning, range and default."""

from __future__ import annotations

import textwrap
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from posttrain.engine.spec import KINDS, NAME_PATTERN, REF_PATTERN, OwnTemplate

WIDTH: Final = 100

# Something to put where an option has no default; a person puts their own.
_PLACEHOLDERS: Final[dict[str, Any]] = {
    "base": "tiny-base@1",
    "output": "my-model",
    "version": "my-model@1",
    "dataset": "my-data@1",
    "datasets": ["my-held-out@1"],
    "suites": ["instruction_following"],
    "model": "my-reward-model@1",
    "function": "my_rewards:score",
}
_BASE_WITH_TEMPLATE: Final = "tiny-instruct@1"
_PATTERNS: Final = {NAME_PATTERN: "a name", REF_PATTERN: "NAME@NUMBER or NAME@ALIAS"}


def template(kind: str) -> str:
    """The YAML of a kind: valid as it is but for the names in it, equal to the defaults everywhere else."""
    model = KINDS[kind]
    lines = [
        f"# {(model.__doc__ or kind).strip()}",
        "# Options that stand at their default can be left out.",
        "",
        f"kind: {kind}",
    ]
    for name in sorted(model.model_fields, key=lambda item: not model.model_fields[item].is_required()):
        if name != "kind":
            lines += ["", *_option(model, name)]
    return "\n".join(lines) + "\n"


def _option(model: type[BaseModel], name: str, given: BaseModel | None = None) -> list[str]:
    """An option's comment and its lines of YAML, with the value that `given` has, or else the option's default."""
    field = model.model_fields[name]
    members = alternatives(field)
    if members and _is_list(field):
        return _choices(name, field, members)
    if members:
        return _choice(name, field, members)
    nested = _nested(field)
    if nested is not None and _is_list(field):
        return [*_comment(field, "a list"), f"{name}:", *_indent(_fields(nested), first="  - ", rest="    ")]
    if nested is not None:
        return [*_comment(field), f"{name}:", *_indent(_fields(nested))]
    if given is not None:
        value = getattr(given, name)
    else:
        value = _placeholder(model, name) if field.is_required() else field.get_default(call_default_factory=True)
    return [*_comment(field, _kind(model, name)), f"{name}: {_scalar(value)}"]


def _placeholder(model: type[BaseModel], name: str) -> Any:
    template_field = model.model_fields.get("template")
    if (
        name == "base"
        and template_field
        and isinstance(template_field.get_default(call_default_factory=True), OwnTemplate)
    ):
        return _BASE_WITH_TEMPLATE  # the template is the base's own, so it needs one
    return _PLACEHOLDERS[name]


def _choice(name: str, field: FieldInfo, members: dict[str, type[BaseModel]]) -> list[str]:
    """A tagged choice: the default in force, the others beside it as comments."""
    default = field.get_default(call_default_factory=True)
    chosen = default.type if isinstance(default, BaseModel) and hasattr(default, "type") else next(iter(members))
    lines = [*_comment(field, f"one of: {', '.join(members)}"), f"{name}:"]
    for tag in sorted(members, key=lambda item: item != chosen):
        # The default may be a member whose options are not at their own defaults (one epoch and not two).
        given = default if tag == chosen and isinstance(default, BaseModel) else None
        block = _indent([f"type: {tag}", *_fields(members[tag], given)])
        if tag == chosen:
            lines += block
        else:
            lines += [f"# {name}:", *(f"# {line}".rstrip() for line in block)]
    return lines


def _choices(name: str, field: FieldInfo, members: dict[str, type[BaseModel]]) -> list[str]:
    """A list of tagged choices: the default items, the other members beside them as comments."""
    chosen = field.get_default(call_default_factory=True)
    lines = [*_comment(field, f"a list, each one of: {', '.join(members)}"), f"{name}:"]
    for item in chosen:
        lines += _item(item.type, _fields(members[item.type], item))
    for tag in [tag for tag in members if tag not in {item.type for item in chosen}]:
        lines += [f"# {line}".rstrip() for line in _item(tag, _fields(members[tag]))]
    return lines


def _item(tag: str, options: list[str]) -> list[str]:
    return _indent([f"type: {tag}", *options], first="  - ", rest="    ")


def _fields(model: type[BaseModel], given: BaseModel | None = None) -> list[str]:
    return [line for name in model.model_fields if name != "type" for line in _option(model, name, given)]


def _comment(field: FieldInfo, kind: str = "") -> list[str]:
    parts = [kind, "needed" if field.is_required() else ""]
    head = "; ".join(part for part in parts if part)
    text = f"{field.description} ({head})" if field.description and head else field.description or head
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _kind(model: type[BaseModel], name: str) -> str:
    """Type and range of a plain option, in words."""
    schema = model.model_json_schema()["properties"][name]
    if "enum" in schema or "const" in schema:
        return "one of: " + ", ".join(schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return "a list"
    if "pattern" in schema:
        if "NAME@" in schema.get("description", ""):
            return ""
        return _PATTERNS.get(schema["pattern"], f"of the form {schema['pattern']}")
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema and abs(schema[key]) < 1e6]
    return f"{words[schema['type']]} {' and '.join(bounds)}".rstrip()


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    """The options that a field holds, singly or as a list; None for a plain value."""
    inner = get_args(field.annotation)[0] if _is_list(field) else field.annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def alternatives(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """Tag -> options, of a tagged choice or a list of them; empty for anything else."""
    annotation: Any = field.annotation
    marks: list[Any] = [field, *field.metadata]
    if _is_list(field):
        annotation, *marks = get_args(get_args(annotation)[0]) or (None,)
    if not any(getattr(item, "discriminator", None) for item in marks):
        return {}
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(annotation)}


def _scalar(value: object) -> str:
    """A plain value as YAML on one line."""
    assert value is not PydanticUndefined
    if isinstance(value, float):
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")  # YAML 1.1 reads 2e-05 as text
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("...\n").strip()


def _indent(lines: list[str], first: str = "  ", rest: str = "  ") -> list[str]:
    """Indents; with a list's dash, the comments before the first option stay above it."""
    if first == rest:
        return [f"{rest}{line}" for line in lines]
    start = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return [
        *(f"  {line}" for line in lines[:start]),
        f"{first}{lines[start]}",
        *(f"{rest}{line}" for line in lines[start + 1 :]),
    ]
