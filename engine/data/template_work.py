"""What a chat template's rendering may cost: the limits, and the weights that are charged against them. Imports nothing
but jinja2.

A step of a loop says nothing of the work that is done in it: sorting 200 000 texts is one expression. So operators,
comparisons, filters, tests and methods are charged what they read and what they build. A unit of work is about a
character read; an item of a list costs ITEM, of a list that is sorted SORTED_ITEM.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from jinja2.exceptions import SecurityError

MAX_STEPS = 100_000
MAX_TEXT = 2**22
MAX_NUMBER = 2**63
MAX_WORK = 2**26
ITEM, SORTED_ITEM = 64, 512

# What these do does not depend on how much they are given.
_FREE = frozenset({"length", "count", "default", "d", "first", "last", "abs", "float", "attr", "random", "safe"})
# These look at each item and not into it; an item that they hand to another filter or test is charged there.
_SHALLOW = frozenset(
    {"list", "map", "select", "selectattr", "reject", "rejectattr", "reverse", "items", "sum", "wordcount"}
)
_SORTING = frozenset({"sort", "dictsort", "groupby", "unique", "min", "max"})
# Tests that compare or read a whole text.
READING_TESTS = frozenset(
    {"in", "lower", "upper"}
    | {"==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge"}
)


class Budget:
    """Steps, printed characters and work that are left to the rendering in progress; `reset` before each."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.steps_left, self.text_left, self.work_left = MAX_STEPS, MAX_TEXT, MAX_WORK

    def tick(self) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS} steps")

    def write(self, length: int) -> None:
        self.text_left -= length
        if self.text_left < 0:
            raise SecurityError(f"the template writes more than {MAX_TEXT} characters")

    def charge(self, work: int) -> None:
        self.work_left -= work
        if self.work_left < 0:
            raise SecurityError(f"the template does more than {MAX_WORK} units of work")

    def read(self, value: Any) -> None:
        """Charges a text or a list, with all that is in it, as an operator or a method reads it."""
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            self.charge(weigh(value))

    def counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.charge(ITEM)
            yield item

    def built(self, result: Any) -> Any:
        """Charges what a filter or a method made; an iterator is charged as it is read."""
        if isinstance(result, str):
            self.charge(len(result))
        elif isinstance(result, list | tuple | dict):
            self.charge(ITEM * len(result))
        elif isinstance(result, Iterator):
            return self.counted(result)
        return result

    def filter(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, charged for its arguments and its result; `wraps` keeps jinja2's marks on the function."""
        if name in _FREE:
            return plain
        item = SORTED_ITEM if name in _SORTING else ITEM if name in _SHALLOW else 0

        @functools.wraps(plain)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.charge(ITEM)
            for value in (*args, *kwargs.values()) if kwargs else args:
                if item and isinstance(value, str | list | tuple | dict | set | range):
                    self.charge(item * len(value))
                if name not in _SHALLOW:
                    self.read(value)
            return self.built(plain(*args, **kwargs))

        return guarded

    def test(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def guarded(*args: Any) -> Any:
            # Of two texts, the shorter one bounds the work, except where one is sought in the other.
            for value in args[-1:]:
                self.read(value)
            return plain(*args)

        return guarded


def weigh(value: Any) -> int:
    """About how many characters the value's text has; stops at the limit, so that shared nested lists cannot explode.

    Raises:
        SecurityError: more than MAX_TEXT.
    """
    if isinstance(value, str):
        bound(len(value))
        return len(value)
    weight, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            weight += 8 * len(item)
            bound(weight)
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            weight += 8 * len(item)
            bound(weight)
            waiting += item
        weight += len(item) if isinstance(item, str) else 8
        bound(weight)
    return weight


def size(value: str | list[Any] | tuple[Any, ...]) -> int:
    """What a copy takes that shares the items."""
    return len(value) if isinstance(value, str) else 8 * len(value)


def bound(length: float) -> None:
    if length > MAX_TEXT:
        raise SecurityError(f"the template builds a text or list longer than {MAX_TEXT}")


def check_number(value: Any) -> None:
    if isinstance(value, int) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise SecurityError("the template computes a number above 2**63")
