"""The tools on offer: name, schema and function of each, and what a call of one gives. Imports no torch."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from posttrain.engine.environments.calculator import CalculationError, calculate
from posttrain.engine.environments.snippet import Snippets
from posttrain.engine.errors import SpecError
from posttrain.engine.policy_options import ToolEnvironment

MAX_TEXT = 20_000  # characters of an answer before it is cut to tokens
TABLE = "table"  # the field of a row's target that `lookup` reads
ARGUMENT = {"calculator": "expression", "lookup": "key", "python": "code"}
_SAID = {
    "calculator": (
        "Works out an arithmetic expression of numbers, + - * / // % ** and brackets.",
        "for example 2 * (3 + 4)",
    ),
    "lookup": ("Gives the value that is stored under a key.", "the key, as it is written"),
    "python": ("Runs Python code and gives what it prints.", "the code"),
}
SCHEMAS: Mapping[str, dict[str, Any]] = {
    name: {
        "name": name,
        "description": said,
        "parameters": {
            "type": "object",
            "properties": {ARGUMENT[name]: {"type": "string", "description": argument}},
            "required": [ARGUMENT[name]],
        },
    }
    for name, (said, argument) in _SAID.items()
}


def not_allowed(spec: Any, allows_python: bool) -> Iterator[tuple[str, str]]:
    """Places in a spec, and why: tools that the server does not allow."""
    options = getattr(spec, "environment", None)
    if isinstance(options, ToolEnvironment) and "python" in options.tools and not allows_python:
        yield "environment.tools", "the server does not let models run Python"


def check_allowed(spec: Any, allows_python: bool) -> None:
    """Raises SpecError for the first tool that is not allowed."""
    for place, problem in not_allowed(spec, allows_python):
        raise SpecError(f"{place}: {problem}", hint="posttrain serve --python-tool allows it")


class ToolError(Exception):
    """A call that failed; its text is for the model."""


class Toolbox:
    """The tools that an environment's options name.

    Raises:
        SpecError: python is among them, and its processes cannot be kept from the network here.
    """

    def __init__(self, options: ToolEnvironment) -> None:
        self.names: Sequence[str] = tuple(options.tools)
        self._snippets = Snippets(options.timeout_s) if "python" in options.tools else None
        self._tools: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
            "calculator": lambda expression, table: calculate(expression),
            "lookup": _looked_up,
            "python": lambda code, table: self._run(code),
        }

    @property
    def is_slow(self) -> bool:
        """Whether calls of several completions should run beside each other."""
        return self._snippets is not None

    def call(
        self, name: str, arguments: Mapping[str, Any], table: Mapping[str, Any], offered: Sequence[str] = ()
    ) -> str:
        """What a call gives, printable and at most MAX_TEXT characters long. `offered`: the prompt's tools, if not all.

        Raises:
            ToolError: what is wrong, in words for the model.
        """
        names = [known for known in self.names if not offered or known in offered]
        if name not in names:
            raise ToolError(f"there is no tool {name[:80]!r}; there are {', '.join(names)}")
        wanted = ARGUMENT[name]
        if set(arguments) != {wanted}:
            raise ToolError(f"{name} takes one argument, {wanted}")
        value = arguments[wanted]
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "python":
            value = str(value)
        if not isinstance(value, str):
            raise ToolError(f"{wanted} must be text")
        try:
            return printable(self._tools[name](value, table))
        except CalculationError as error:
            raise ToolError(str(error)) from None

    def _run(self, code: str) -> str:
        assert self._snippets is not None
        ran = self._snippets.run(code)
        if ran.failure:
            raise ToolError(f"{ran.failure}\n{ran.output}".strip())
        return ran.output or "(nothing was printed)"


def _looked_up(key: str, table: Mapping[str, Any]) -> str:
    if key not in table:
        raise ToolError(f"there is no entry {key[:80]!r}")
    value = table[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def printable(text: str) -> str:
    """Without control characters but line breaks and tabs, formatting ones and halves of surrogate pairs."""
    kept = (c for c in text[:MAX_TEXT] if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return "".join(kept)
