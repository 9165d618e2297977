"""Renders chat templates of unknown origin: no code, no endless loop, no memory bomb. Imports no torch and no
transformers.

jinja2's `ImmutableSandboxedEnvironment` stops attribute tricks and mutation, but not `{% for a in range(99999) %}`
nested four deep, a macro that calls itself twice, or `x ~ x` forty times. So each compiled template counts: every
turn of a loop and every macro call costs one step of a budget, everything printed (also into a macro's or a block's
buffer) costs its length (`template_hooks.py`), and operators, filters and methods cost what they read and build
(`template_work.py`).

The names that Hugging Face templates expect are here: `raise_exception`, `tojson` without HTML escapes, `namespace`,
`{% generation %}`, loop controls and `strftime_now`. The last one answers with one fixed day: a prompt that changes
at midnight would make neither training nor an evaluation repeatable.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from posttrain.engine.data.template_hooks import hooks, instrument
from posttrain.engine.data.template_work import ITEM, READING_TESTS, Budget, bound, check_number, size, weigh

FIXED_DAY = datetime.datetime(2025, 1, 1)
# They build texts or lists far longer than their arguments.
_BANNED_METHODS = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate"}
    | {"striptags"}  # of escaped text: as many copies as it has comments
)
_LOOKUPS = frozenset({"get", "items", "keys", "values"})
_BANNED_FILTERS = (
    "batch",
    "center",
    "format",
    "indent",
    "pprint",
    "slice",
    "striptags",
    "urlize",
    "wordwrap",
    "xmlattr",
)
_BANNED_GLOBALS = ("cycler", "joiner", "lipsum")


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}` around an assistant's text; marks its ends with two characters for
    `_split_marks`."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration
    start, end = "\U000f1000", "\U000f1001"

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{self.start}{caller()}{self.end}"


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Charges what the rendering in progress does to `budget`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.budget = Budget()

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        instrument(tree)
        # jinja2 gives an environment only to nodes that its own parser makes, and constant folding needs it.
        tree.set_environment(self)
        return tree

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("powers are not available in chat templates")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting with % is not available in chat templates")
        check_number(left)
        check_number(right)
        length = 0
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    length = size(one) * max(other, 0)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            length = size(left) + size(right)
        bound(length)
        self.budget.charge(length)
        result = super().call_binop(context, operator, left, right)
        check_number(result)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Numbers and bytes have nothing that a template needs, and `to_bytes`, `ljust` and others build any length of
        something that nothing here weighs."""
        if isinstance(obj, int | float | complex | bytes | bytearray) or (isinstance(obj, str) and attr == "encode"):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Refuses `text.format` where it is looked up: jinja2 would hand on a function of its own for it, which `call`
        cannot tell from any other."""
        found = super().wrap_str_format(value)
        if found is not None:
            raise SecurityError(f"text.{value.__name__}() is not available in chat templates")

    def call(self, context: jinja2.runtime.Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(callee, "__self__", None), getattr(callee, "__name__", "")
        if isinstance(owner, str):
            if name in _BANNED_METHODS:
                raise SecurityError(f"text.{name}() is not available in chat templates")
            self.budget.charge(len(owner) + ITEM)
            if name == "replace" and len(args) >= 2:
                _bound_replace(owner, args[0], args[1])
            if name == "join" and args:
                args = (_bound_join(args[0], owner), *args[1:])
                self.budget.read(args[0])
            return self.budget.built(super().call(context, callee, *args, **kwargs))
        if isinstance(callee, Macro | LoopContext) or (isinstance(owner, dict) and name in _LOOKUPS):
            return super().call(context, callee, *args, **kwargs)
        for value in (owner, *args, *kwargs.values()):
            self.budget.read(value)
        return super().call(context, callee, *args, **kwargs)


def _bound_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        bound(len(text) + (text.count(old) + 1) * len(new))


def _bound_join(items: Any, glue: str = "") -> list[Any]:
    """The items as a list, after a look at how long the joined text will be."""
    listed = list(items)
    bound(weigh(listed) + len(glue) * len(listed))
    return listed


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if separators is not None and not all(isinstance(text, str) and len(text) <= 16 for text in separators):
        raise SecurityError("tojson takes separators of at most 16 characters")
    indent = None if indent is None else min(int(indent), 16)
    if indent is None:
        return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    pieces, length = [], 0
    for piece in encoder.iterencode(value):  # what is nested deeply is mostly indentation
        length += len(piece)
        bound(length)
        pieces.append(piece)
    return "".join(pieces)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 64 or any(character.isdigit() for character in pattern):  # "%999999d" pads
        raise SecurityError("strftime_now takes a short pattern without widths")
    return FIXED_DAY.strftime(pattern)


class _SafeNamespace(Namespace):
    """Refuses names with a leading underscore, which reach the object's own machinery."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _environment() -> _BoundedEnvironment:
    environment = _BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols], cache_size=0
    )
    for name in _BANNED_FILTERS:
        del environment.filters[name]
    for name in _BANNED_GLOBALS:
        del environment.globals[name]
    plain_join, plain_replace = environment.filters["join"], environment.filters["replace"]

    @jinja2.pass_eval_context
    def join(eval_context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
        return plain_join(eval_context, _bound_join(value, d), d, attribute)

    @jinja2.pass_eval_context
    def replace(eval_context: Any, text: Any, old: Any, new: Any, count: int | None = None) -> Any:
        _bound_replace(str(text), str(old), str(new))
        return plain_replace(eval_context, text, old, new, count)

    plain_int, plain_round, plain_sum = (environment.filters[name] for name in ("int", "round", "sum"))

    def integer(value: Any, default: int = 0, base: int = 10) -> int:
        result: int = plain_int(value, default, base)
        check_number(result)
        return result

    def rounded(value: float, precision: int = 0, method: Any = "common") -> float:
        if not -16 <= precision <= 16:
            raise SecurityError("round takes a precision of at most 16 digits")
        result: float = plain_round(value, precision, method)
        return result

    @jinja2.pass_environment
    def total(environment: Any, items: Any, attribute: Any = None, start: Any = 0) -> Any:
        if not isinstance(start, int | float):  # lists would be copied as often as there are items
            raise SecurityError("sum adds numbers only")
        result = plain_sum(environment, items, attribute, start)
        check_number(result)
        return result

    budget = environment.budget
    environment.filters |= {"tojson": _tojson, "join": join, "replace": replace}
    environment.filters |= {"int": integer, "round": rounded, "sum": total}
    environment.filters = {name: budget.filter(name, plain) for name, plain in environment.filters.items()}
    environment.filters |= hooks(budget)
    tests: dict[str, Any] = environment.tests
    tests |= {name: budget.test(tests[name]) for name in READING_TESTS}
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _SafeNamespace,
    }
    return environment


class Sandbox:
    """One compiled template.

    Raises (both methods):
        jinja2.TemplateError: bad syntax, `raise_exception`, or a limit (SecurityError is a TemplateError).
    """

    def __init__(self, source: str) -> None:
        self._environment = _environment()
        self._environment.budget.reset()  # jinja2 folds constants while it compiles, and that counts too
        try:
            self._template = self._environment.from_string(source)
        except (ValueError, MemoryError) as error:  # a number of too many digits is one of the built-ins' errors
            raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from None
        self._lock = threading.Lock()
        self.has_generation = "endgeneration" in source

    def render(self, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the (start, end) of each `{% generation %}` block in it."""
        with self._lock:
            self._environment.budget.reset()
            try:
                text = "".join(self._template.generate(**variables))
            except RecursionError:
                raise SecurityError("the template calls itself too deeply") from None
            except MemoryError:
                raise SecurityError("the template takes more memory than there is") from None
            except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
                # A template's own mistakes surface as the built-ins that its expressions raise.
                raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from None
        return _split_marks(text) if self.has_generation else (text, [])


def _split_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    plain: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    for index, piece in enumerate(text.replace(_Generation.end, _Generation.start).split(_Generation.start)):
        # Blocks do not nest, so pieces alternate: outside, inside, outside, ...
        if index % 2:
            spans.append((length, length + len(piece)))
        length += len(piece)
        plain.append(piece)
    return "".join(plain), spans
