"""Renders chat templates of unknown origin: no code, no endless loop, no memory bomb. Imports no torch and no
transformers.

jinja2's `ImmutableSandboxedEnvironment` stops attribute tricks and mutation, but not `{% for a in range(99999) %}`
nested four deep, a macro that calls itself twice, or `x ~ x` forty times. So each compiled template counts: every
turn of a loop and every macro call costs one step of a budget, everything printed (also into a macro's or a block's
buffer) costs its length, and what operators, filters and methods work on is weighed first.

The names that Hugging Face templates expect are here: `raise_exception`, `tojson` without HTML escapes, `namespace`,
`{% generation %}`, loop controls and `strftime_now`. The last one answers with one fixed day: a prompt that changes
at midnight would make neither training nor an evaluation repeatable.
"""

from __future__ import annotations

import datetime
import functools
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_STEPS = 100_000
MAX_TEXT = 2**22
MAX_NUMBER = 2**63
FIXED_DAY = datetime.datetime(2025, 1, 1)
# They build texts or lists far longer than their arguments.
_BANNED_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate"})
_BANNED_FILTERS = ("batch", "center", "format", "indent", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
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
    """Counts steps and printed characters of the rendering in progress; `reset` before each."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def reset(self) -> None:
        self.steps_left, self.text_left = MAX_STEPS, MAX_TEXT

    def tick(self) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS} steps")

    def emit(self, value: Any) -> Any:
        self.text_left -= _weigh(value)
        if self.text_left < 0:
            raise SecurityError(f"the template writes more than {MAX_TEXT} characters")
        return value

    def concat_texts(self, *parts: Any) -> str:
        _bound(sum(map(_weigh, parts)))
        return "".join(map(str, parts))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _instrument(tree)
        # jinja2 gives an environment only to nodes that its own parser makes, and constant folding needs it.
        tree.set_environment(self)
        return tree

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("powers are not available in chat templates")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting with % is not available in chat templates")
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    _bound(_weigh(one) * other)
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _bound(_weigh(left) + _weigh(right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise SecurityError("the template computes a number above 2**63")
        return result

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
            if name == "replace" and len(args) >= 2:
                _bound_replace(owner, args[0], args[1])
            if name == "join" and args:
                args = (_bound_join(args[0], owner), *args[1:])
        return super().call(context, callee, *args, **kwargs)


def _own_call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    """A call of the environment's own method: unlike a variable, no `{% set %}` can put something else in its place."""
    call = nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)
    call.set_lineno(line)
    return call


def _instrument(tree: nodes.Node) -> None:
    """Adds the counting: loops and macros tick, printed values are emitted, and `a ~ b`, for which jinja2 has no
    hook, is weighed."""

    def swapped(value: Any) -> Any:
        if isinstance(value, nodes.Node):
            _instrument(value)
        if isinstance(value, nodes.Concat):
            return _own_call("concat_texts", value.nodes, value.lineno)
        return value

    for key, value in list(tree.iter_fields()):
        setattr(tree, key, [swapped(item) for item in value] if isinstance(value, list) else swapped(value))
    if isinstance(tree, nodes.For | nodes.Macro | nodes.CallBlock):
        tree.body.insert(0, nodes.ExprStmt(_own_call("tick", [], tree.lineno)).set_lineno(tree.lineno))
    if isinstance(tree, nodes.Output):
        tree.nodes = [
            _own_call("emit", [nodes.Const(node.data) if isinstance(node, nodes.TemplateData) else node], node.lineno)
            for node in tree.nodes
        ]


def _weigh(value: Any) -> int:
    """About how many characters the value's text has; stops at the limit, so that shared nested lists cannot explode.

    Raises:
        SecurityError: more than MAX_TEXT.
    """
    weight, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        weight += len(item) if isinstance(item, str) else 8
        _bound(weight)
    return weight


def _bound(length: float) -> None:
    if length > MAX_TEXT:
        raise SecurityError(f"the template builds a text or list longer than {MAX_TEXT}")


def _bound_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _bound(len(text) + (text.count(old) + 1) * len(new))


def _bound_join(items: Any, glue: str = "") -> list[Any]:
    """The items as a list, after a look at how long the joined text will be."""
    listed = list(items)
    _bound(_weigh(listed) + len(glue) * len(listed))
    return listed


def _weighed(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that weighs its arguments first; `wraps` keeps jinja2's marks on the function."""

    @functools.wraps(plain)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, str | list | tuple | dict):
                _weigh(value)
        return plain(*args, **kwargs)

    return guarded


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    indent = None if indent is None else min(int(indent), 16)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


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

    environment.filters |= {"tojson": _tojson, "join": join, "replace": replace}
    environment.filters = {name: _weighed(plain) for name, plain in environment.filters.items()}
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
        self._environment.reset()  # jinja2 folds constants while it compiles, and that counts too
        self._template = self._environment.from_string(source)
        self._lock = threading.Lock()
        self.has_generation = "endgeneration" in source

    def render(self, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the (start, end) of each `{% generation %}` block in it."""
        with self._lock:
            self._environment.reset()
            try:
                text = "".join(self._template.generate(**variables))
            except RecursionError:
                raise SecurityError("the template calls itself too deeply") from None
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
