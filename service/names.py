"""Resource names, references and free texts of requests: parsed once, here, into plain parts or an error that names
the field.
"""

from __future__ import annotations

import re

from posttrain.engine.data.rows import unfit_for_people
from posttrain.engine.spec import NAME_PATTERN
from posttrain.service.errors import FieldViolation, InvalidFieldError

PROJECT = "projects/*"
JOB = "projects/*/jobs/*"
DATASET = "projects/*/datasets/*"
DATASET_VERSION = "projects/*/datasets/*/versions/*"
MODEL = "projects/*/models/*"
MODEL_VERSION = "projects/*/models/*/versions/*"
ALIAS = "projects/*/models/*/aliases/*"
EVAL_RUN = "projects/*/evalRuns/*"
GATE_RUN = "projects/*/gateRuns/*"
PROMOTION = "projects/*/promotions/*"

_PART = re.compile(NAME_PATTERN)
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/@-]{0,128}$")


def invalid(field: str, description: str) -> InvalidFieldError:
    return InvalidFieldError([FieldViolation(field, description)])


def parse(name: str, *patterns: str, field: str = "name") -> tuple[str, ...]:
    """The parts of a resource name that stand for `*` in the one pattern that fits.

    Raises:
        InvalidFieldError: no pattern fits, or a part is no plain name.
    """
    parts = name.split("/")
    for pattern in patterns:
        expected = pattern.split("/")
        if len(parts) == len(expected) and all(want in ("*", got) for want, got in zip(expected, parts, strict=True)):
            found = tuple(got for want, got in zip(expected, parts, strict=True) if want == "*")
            if all(_PART.fullmatch(part) for part in found):
                return found
    raise invalid(field, f"{shown(name)!r} is not of the form {' or '.join(patterns)}")


def fill(pattern: str, *parts: object) -> str:
    """A resource name from a pattern and its parts."""
    pieces = pattern.split("*")
    if len(pieces) != len(parts) + 1:
        raise ValueError(f"{pattern} has {len(pieces) - 1} parts, not {len(parts)}")
    return pieces[0] + "".join(f"{part}{rest}" for part, rest in zip(parts, pieces[1:], strict=True))


def check_text(field: str, text: str, limit: int) -> str:
    """A free text for people: bounded, and nothing in it that acts on a terminal.

    Raises:
        InvalidFieldError: too long, or it holds a control or reordering character.
    """
    reason = unfit_for_people(text, limit)
    if reason:
        raise invalid(field, reason)
    return text


def check_request_id(text: str) -> str:
    """A request id; empty means that the caller wants none.

    Raises:
        InvalidFieldError: too long, or characters other than letters, digits and ._:/@-
    """
    if not _REQUEST_ID.fullmatch(text):
        raise invalid("request_id", "at most 128 letters, digits and ._:/@-")
    return text


def page_size(size: int, default: int = 50, most: int = 1000) -> int:
    """The number of items of a page.

    Raises:
        InvalidFieldError: negative.
    """
    if size < 0:
        raise invalid("page_size", "not negative")
    return min(size or default, most)


def shown(text: str, limit: int = 80) -> str:
    """A text of a request, safe to put into a message."""
    cleaned = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])
    return cleaned + ("..." if len(text) > limit else "")
