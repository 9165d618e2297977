"""Checks values against JSON schemas in bounded work. Imports no torch.

Schemas come from whoever wrote the rows, values from there or from a model, so every check is bounded, and the same
each time: both have at most `MAX_NODES` values; each keyword costs what it looks at, out of `MAX_COST` for a row; a
pattern is matched in linear time, by the engine that pydantic uses, which has neither look-around nor back-references
and refuses a pattern that grows too large. References reach inside their own schema only, and nothing can be fetched:
the registry that resolves them has no retriever.
"""

from __future__ import annotations

import contextvars
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import pydantic
import referencing
import referencing.exceptions
import referencing.jsonschema
from jsonschema.validators import extend, validator_for

from posttrain.engine.data.patterns import KEPT, UncheckableError, matcher_of, shown
from posttrain.engine.data.rows import kind_of

MAX_NODES = 2_048
MAX_COST = 50_000
MAX_MATCHED = 4_096  # characters that a pattern is matched with
_DIALECTS = (
    jsonschema.Draft4Validator,
    jsonschema.Draft6Validator,
    jsonschema.Draft7Validator,
    jsonschema.Draft201909Validator,
    jsonschema.Draft202012Validator,
)
_KNOWN = "draft-04, draft-06, draft-07, 2019-09 and 2020-12 at json-schema.org"
# Whether an argument is evaluated depends on other keywords' outcome, or on the way that was taken: not bounded here.
_UNSUPPORTED = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef")

# What jsonschema raises of a schema that the dialect's own schema lets through, such as multipleOf with a huge number.
_BROKEN = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
_WORD = re.compile(r"[\w$-]+")
Finding = tuple[str, str]


@dataclass
class Budget:
    """What is left of MAX_COST, and the weight of each value in the arguments."""

    left: int = MAX_COST
    num_nodes: int = 0
    weights: dict[int, int] = field(default_factory=dict)
    # Of this row: the caches shared by rows are small, and nothing may be made twice that is paid once.
    patterns: dict[str, Any] = field(default_factory=dict)
    validators: dict[int, Any] = field(default_factory=dict)

    def weigh(self, value: Any) -> int:
        """Once for all containers: about how much text a value is.

        Raises:
            UncheckableError: more than MAX_NODES values.
        """
        inner: Sequence[Any] = ()
        if isinstance(value, dict):
            inner = [*value, *value.values()]
        elif isinstance(value, list):
            inner = value
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise UncheckableError(f"more than {MAX_NODES} values")
        weight = 16 + (len(value) if isinstance(value, str) else sum(map(self.weigh, inner)))
        self.weights[id(value)] = weight
        return weight

    def spend(self, keyword_value: Any, instance: Any) -> None:
        size = len(keyword_value) if isinstance(keyword_value, list | dict | str) else 0
        self.take(1 + size + self.weights.get(id(instance), 0) // 64)

    def matcher(self, pattern: str, text: str) -> Any:
        """A pattern costs most when it is compiled; then its size, which is bounded, times the text's."""
        self.take(1 + len(text) // 4 + (0 if pattern in self.patterns else 500))
        return _once(self.patterns, pattern, lambda: matcher_of(pattern))

    def validator(self, position: int, parameters: Any) -> Any:
        return _once(self.validators, position, lambda: validator_of(json.dumps(parameters, sort_keys=True)))

    def take(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise UncheckableError(f"checking the row's calls takes more than {MAX_COST} steps")


def _once(made: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """What `make` returns, or the UncheckableError that it raises, made once for each key."""
    if key not in made:
        try:
            made[key] = make()
        except UncheckableError as error:
            made[key] = error
        except _BROKEN as error:
            made[key] = UncheckableError(f"{type(error).__name__}: {shown(str(error))}")
    if isinstance(made[key], UncheckableError):
        raise UncheckableError(str(made[key]))
    return made[key]


_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("budget")


def first_error(validator: Any, value: Any, budget: Budget) -> Finding | None:
    """Where in the value, and what, is wrong first.

    Raises:
        UncheckableError: finding out takes more than the budget, or the schema refers to what is not there.
    """
    token = _budget.set(budget)
    try:
        budget.num_nodes = 0
        budget.weigh(value)
        error = next(validator.iter_errors(value), None)
    except RecursionError:
        raise UncheckableError("its schema refers to itself too deeply") from None
    except referencing.exceptions.Unresolvable as missing:
        raise UncheckableError(f"its schema has no {shown(repr(missing.ref))}") from None
    except UncheckableError:
        raise
    except _BROKEN as broken:
        raise UncheckableError(f"{type(broken).__name__}: {shown(str(broken))}") from None
    finally:
        _budget.reset(token)
    return None if error is None else (_path(error.absolute_path), _reason(error))


def _reason(error: Any) -> str:
    """An error in our words, which show no more of the arguments than they need."""
    wanted, given = error.validator_value, error.instance
    if error.validator == "required":
        return f"lacks {shown(names_of(name for name in wanted if name not in given))}"
    if error.validator == "type":
        named = wanted if isinstance(wanted, str) else " or ".join(wanted)
        return f"must be {shown(named)}, not {kind_of(given)}"
    if error.validator == "enum":
        return f"must be one of {shown(json.dumps(wanted, ensure_ascii=False))}, not {shown(repr(given))}"
    if error.validator in ("anyOf", "oneOf"):
        return f"fits none, or more than one, of the alternatives of {error.validator}"
    brief = (not isinstance(given, dict | list) and len(str(given)) < 40) or error.validator in _OWN
    return shown(error.message if brief else f"breaks {error.validator}: {json.dumps(wanted, ensure_ascii=False)}")


def said_extra(names: Sequence[str], listed: Any) -> str:
    return f"has {shown(names_of(names))}, which the tool does not take ({shown(names_of(listed)) or 'nothing'})"


def _path(keys: Sequence[Any]) -> str:
    return shown("".join(f"[{key}]" if isinstance(key, int) else f".{names_of([key])}" for key in keys))


def names_of(names: Iterable[Any]) -> str:
    """Plain where they are words; as Python writes them where they could pass for something else."""
    return ", ".join(name if _WORD.fullmatch(name) else repr(name) for name in map(str, names))


# -- schemas ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=KEPT)
def validator_of(text: str) -> Any:
    """A validator of a schema (as JSON text) whose keywords spend a budget.

    Raises:
        UncheckableError: it is no JSON schema, too large, reaches outside itself, or uses what cannot be bounded.
    """
    schema = json.loads(text)
    _inspect(schema)
    named = schema.get("$schema", "")
    if not isinstance(named, str):
        raise UncheckableError(f"names its dialect ($schema) by {kind_of(named)}, not text")
    try:
        # The older drafts' names begin with http:, and are often written with https:.
        name = re.sub(r"^https(?=://json-schema\.org/draft-0)", "http", named)
        default = None if "$schema" in schema else jsonschema.Draft202012Validator
        dialect = validator_for({"$schema": name} if name else schema, default=default)
    except ValueError:  # its name is no URL
        dialect = None
    if dialect not in _DIALECTS:
        raise UncheckableError(f"is of a dialect ($schema) that is not known: {shown(repr(named))}; {_KNOWN} are")
    try:
        dialect.check_schema(schema, format_checker=jsonschema.FormatChecker(()))
    except jsonschema.SchemaError as error:
        raise UncheckableError(f"is no JSON schema: {_path(error.absolute_path)[1:]}: {shown(error.message)}") from None
    except RecursionError:
        raise UncheckableError("is nested too deeply") from None
    return _bounded(dialect)(schema, registry=referencing.Registry())


@functools.lru_cache(maxsize=KEPT)
def tried_validator(text: str) -> Any:
    """As `validator_of`, of a schema that was tried: its references lead somewhere, and each kind of value can be
    checked by it.

    Raises:
        UncheckableError: as `validator_of`; or it refers to what is not there, or to itself for ever.
    """
    validator, schema = validator_of(text), json.loads(text)
    waiting, refs, has_id = [schema], set[str](), False
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            refs |= {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            has_id |= bool(node.keys() & {"$id", "id", "$anchor"})
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    resource = referencing.jsonschema.specification_with(validator.META_SCHEMA["$schema"]).create_resource(schema)
    resolver = referencing.Registry().with_resource("", resource).resolver()
    for ref in sorted(refs) if not has_id else ():  # with names of its own a schema says itself what is meant
        try:
            resolver.lookup(ref)
        except referencing.exceptions.Unresolvable:
            raise UncheckableError(f"has no {shown(repr(ref))}, which it refers to") from None
    value: Any
    for value in (None, True, 0, "", [], {}):
        first_error(validator, value, Budget())
    return validator


def _inspect(schema: Any) -> None:
    waiting, num_nodes = [schema], 0
    while waiting:
        node = waiting.pop()
        num_nodes += 1
        if num_nodes > MAX_NODES:
            raise UncheckableError(f"has more than {MAX_NODES} values")
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise UncheckableError(f"refers to {shown(repr(reference))}: only #/... within the schema is read")
            unsupported = [key for key in _UNSUPPORTED if key in node]
            if unsupported:
                raise UncheckableError(f"uses {unsupported[0]}, which is not checked here")
            waiting += [*node, *node.values()]
        elif isinstance(node, list):
            waiting += node


@functools.cache
def _bounded(dialect: Any) -> Any:
    return extend(dialect, {name: _spending(_OWN.get(name, plain)) for name, plain in dialect.VALIDATORS.items()})


Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


def _spending(plain: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _budget.get().spend(value, instance)
        yield from plain(validator, value, instance, schema) or ()

    return check


def _matches(pattern: str, text: str) -> bool:
    if len(text) > MAX_MATCHED:
        raise UncheckableError(f"a pattern stands against more than {MAX_MATCHED} characters")
    matcher = _budget.get().matcher(pattern, text)
    try:
        matcher.validate_python(text)
    except pydantic.ValidationError:
        return False
    return True


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield jsonschema.ValidationError(f"does not match the pattern {shown(repr(pattern))}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    listed, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [name for name in instance if name not in listed and not any(_matches(one, name) for one in patterns)]
    if isinstance(allowed, dict):
        for name in extra:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extra:
        yield jsonschema.ValidationError(said_extra(extra, listed))


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if wanted and isinstance(instance, list) and len({_canonical(item) for item in instance}) < len(instance):
        yield jsonschema.ValidationError("has an item twice")


def _canonical(value: Any) -> str:
    """Equal text for equal JSON values: 1 is 1.0, true is not 1."""

    def plain(item: Any) -> Any:
        if isinstance(item, float) and item.is_integer():
            return int(item)
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        return [plain(inner) for inner in item] if isinstance(item, list) else item

    return json.dumps(plain(value), sort_keys=True)


_OWN: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
