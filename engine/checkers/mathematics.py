"""Mathematical answers in LaTeX or plain notation: `math`, by the package math-verify (extra `math`).

Reading and comparing expressions has no bound that could be computed beforehand (a short power tower is enough), so
`math` runs where a timer ends it: in the process of the rewards, see `engine/rewards`. The scorers of suites have no
such process, and do not know it.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

from posttrain.engine.checkers.judgement import Judgement, Target, right, wrong
from posttrain.engine.data.patterns import UncheckableError

MAX_READ = 4000  # last characters of an answer, where its result stands
MAX_TARGET = 1000
MAX_DEPTH = 20  # of brackets; the grammar's time grows steeply with it
_DELIMITERS = ("$", "\\boxed", "\\(", "\\[", "\\begin{")
_OPEN, _CLOSE = "([{", ")]}"


def math(answer: str, target: Target) -> Judgement:
    """Right if the answer's result equals `answer` of the target as mathematics: 1/2 is 0.5 and \\frac{1}{2}.

    The result is what math-verify takes for it: the last \\boxed{}, what follows "answer is", else the last formula or
    number. Of a long answer the last MAX_READ characters are read. A decimal fraction that stands for an exact number
    is compared to six places.

    Raises:
        UncheckableError: the target is no mathematics. ModuleNotFoundError: the extra is not installed.
    """
    golds = _gold(str(target["answer"]))
    tail = answer[-MAX_READ:]
    if _depth(tail) > MAX_DEPTH:
        return wrong("nested too deeply")
    found = _parse(tail)
    if not found:
        return wrong("no expression")
    # No timeout of its own: it would take the signal of the process's timer.
    return right() if _package().verify(golds, found, timeout_seconds=None) else wrong("another value")


@functools.lru_cache(maxsize=64)
def _gold(text: str) -> list[Any]:
    if len(text) > MAX_TARGET:
        raise UncheckableError(f"the answer has more than {MAX_TARGET} characters")
    found = _parse(text if any(mark in text for mark in _DELIMITERS) else f"${text}$")
    if not any(not isinstance(item, str) for item in found):
        raise UncheckableError("the answer cannot be read as mathematics")
    return found


def _parse(text: str) -> list[Any]:
    found: list[Any] = _package().parse(text, parsing_timeout=None)
    return found


@functools.cache
def _package() -> Any:
    try:
        package = importlib.import_module("math_verify")
    except ModuleNotFoundError as error:
        if error.name != "math_verify":
            raise
        raise ModuleNotFoundError("needs the package math-verify: pip install 'posttrain[math]'") from None
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # that the timer is ours, once in each process
    return package


def _depth(text: str) -> int:
    depth = deepest = 0
    for mark in text:
        if mark in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif mark in _CLOSE:
            depth = max(0, depth - 1)
    return deepest
