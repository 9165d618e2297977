"""A calculator for what models write: exact arithmetic on numbers of bounded size. Imports no torch.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/" | "//" | "%") signed)*
    signed   = ("+" | "-") signed | power
    power    = atom ("**" | "^") signed | atom
    atom     = number | "(" sum ")"

Precedence is Python's: -2 ** 2 is -4, 2 ** 3 ** 2 is 512. Values are fractions, so 0.1 + 0.2 is 0.3; one that is no
whole number is shown with 12 significant digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

MAX_CHARACTERS = 400
MAX_DEPTH = 40
MAX_BITS = 1024  # of a numerator or denominator: 308 digits
MAX_EXPONENT = 1024
SIGNIFICANT_DIGITS = 12
_TOKEN = re.compile(r"\s*(?:((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)|(\*\*|//|[-+*/%^()]))", re.ASCII)
_SYNONYMS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


class CalculationError(ValueError):
    """What is wrong, in words for whoever wrote the expression."""


def calculate(expression: str) -> str:
    """The value as text.

    Raises:
        CalculationError: not an expression, one that is too long or too deep, a number that is too large, a division by
            zero, or a root.
    """
    if len(expression) > MAX_CHARACTERS:
        raise CalculationError(f"the expression has more than {MAX_CHARACTERS} characters")
    return _shown(_Parser(_tokens(expression.translate(_SYNONYMS))).value())


def _tokens(text: str) -> list[str]:
    found, place, text = list[str](), 0, text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise CalculationError(f"cannot read {text[place:].strip()[:20]!r}")
        found.append(match[1] or match[2])
        place = match.end()
    if not found:
        raise CalculationError("the expression is empty")
    return found


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def value(self) -> Fraction:
        value = self._sum()
        if self._next():
            raise CalculationError(f"unexpected {self._next()!r}")
        return value

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        found = self._next()
        if found not in wanted:
            return ""
        self._at += 1
        return found

    def _sum(self) -> Fraction:
        value = self._product()
        while operator := self._take("+", "-"):
            value = _apply(operator, value, self._product())
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while operator := self._take("*", "//", "/", "%"):
            value = _apply(operator, value, self._signed())
        return value

    def _signed(self) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CalculationError(f"nested deeper than {MAX_DEPTH}")
        sign = self._take("-", "+")
        value = self._signed() if sign else self._power()
        self._depth -= 1
        return -value if sign == "-" else value

    def _power(self) -> Fraction:
        base = self._atom()
        return _apply("**", base, self._signed()) if self._take("**", "^") else base

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise CalculationError("a bracket is not closed")
            return value
        token = self._next()
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise CalculationError(
                f"a number is missing before {token!r}" if token else "a number is missing at the end"
            )
        self._at += 1
        return _bounded(Fraction(Decimal(token)))


def _power_of(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CalculationError("an exponent has to be a whole number")
    size = abs(exponent.numerator)
    # Told from the sizes alone: a power that is too large is never computed.
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) not in (0, 1) and (size > MAX_EXPONENT or (bits - 1) * size > MAX_BITS):
        raise CalculationError("the result is too large")
    if base == 0 and exponent < 0:
        raise CalculationError("division by zero")
    if abs(base) == 1:
        return base if size % 2 else Fraction(1)
    return base**exponent.numerator if base else Fraction(int(size == 0))


def _divisor(value: Fraction) -> Fraction:
    if not value:
        raise CalculationError("division by zero")
    return value


_OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / _divisor(b),
    "//": lambda a, b: a // _divisor(b),
    "%": lambda a, b: a % _divisor(b),
    "**": _power_of,
}


def _apply(operator: str, a: Fraction, b: Fraction) -> Fraction:
    return _bounded(Fraction(_OPERATORS[operator](a, b)))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculationError("the result is too large")
    return value


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    context = Context(prec=SIGNIFICANT_DIGITS)
    shown = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{shown:f}" if 1e-6 <= abs(value) < 10**SIGNIFICANT_DIGITS else f"{shown:e}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
