"""The final number of a worked answer, as GSM8K asks for it (arXiv:2110.14168).

Two extractions, as lm-eval has them: `strict` takes what follows "####", `flexible` the last number of the text.
Numbers are compared as numbers (18 = 18.0 = $18), not as text. Right is what the flexible one finds; the reason says
when the strict one disagrees.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None


def strict(text: str) -> Decimal | None:
    """The number after the first "####", or None."""
    match = _STRICT.search(text)
    return _number(match[1]) if match else None


def flexible(text: str) -> Decimal | None:
    """The last number of the text, or None."""
    found = [number for number in map(_number, _FLEXIBLE.findall(text)) if number is not None]
    return found[-1] if found else None


def judge(answer: str, target: str) -> tuple[bool, str]:
    """(right, reason) of an answer against a worked solution that ends in "#### NUMBER".

    Raises:
        ValueError: the target has no such number.
    """
    wanted = strict(target)
    if wanted is None:
        raise ValueError("the target has no final number after ####")
    found, marked = flexible(answer), strict(answer)
    shown = "no number" if found is None else f"answered {found}"
    if (found == wanted) != (marked == wanted):
        shown += "; strict extraction disagrees"
    return found == wanted, f"{shown}, wanted {wanted}"
