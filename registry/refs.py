"""References and file names: what may be written where. Pure functions.

support-bot@3            a version
support-bot@latest       its newest version (of a dataset: the newest sealed one)
support-bot@production   what an alias names now (models only)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from posttrain.engine.spec import NAME_PATTERN, REF_PATTERN
from posttrain.registry.errors import BadRefError, InvalidArgumentError, UnsafePathError

LATEST = "latest"
ALIAS_PATTERN = r"[a-z][a-z0-9_-]{0,62}"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Ref:
    """NAME@SELECTOR. `number` is 0 where the selector is a word."""

    name: str
    selector: str

    @property
    def number(self) -> int:
        return int(self.selector) if self.selector.isdigit() else 0

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}"


def parse_ref(text: str) -> Ref:
    """Splits a reference.

    Raises:
        BadRefError: it is not one.
    """
    if not re.fullmatch(REF_PATTERN, text) or text.endswith("\n"):
        raise BadRefError(f"{shown(text)} is not a reference")
    name, _, selector = text.partition("@")
    return Ref(name, selector)


def check_name(text: str, field: str) -> str:
    """Raises InvalidArgumentError if `text` cannot be the name of a model, dataset or suite."""
    if not re.fullmatch(NAME_PATTERN, text) or text.endswith("\n"):
        hint = "lower-case letters, digits, '.', '_' and '-', at most 63, a letter or digit at both ends"
        raise InvalidArgumentError(f"{shown(text)} is not a name", field, hint)
    return text


def check_alias(text: str) -> str:
    """Raises InvalidArgumentError if `text` cannot be an alias; `latest` has a meaning of its own."""
    if not re.fullmatch(ALIAS_PATTERN, text) or text == LATEST:
        hint = "a lower-case letter, then letters, digits, '_' and '-', at most 63; not 'latest'"
        raise InvalidArgumentError(f"{shown(text)} is not an alias", "alias", hint)
    return text


def check_digest(text: str) -> str:
    """Raises InvalidArgumentError if `text` is not a lower-case hex sha256."""
    if not _DIGEST.fullmatch(text):
        raise InvalidArgumentError(f"{shown(text)} is not a sha256", "digest", "64 lower-case hexadecimal digits")
    return text


def check_path(path: str) -> str:
    """A file's path inside a version or a suite, '/' between parts.

    Raises:
        UnsafePathError: empty, absolute, with '.', '..', an empty part, a backslash, a control character, a part over
            255 bytes or more than 1,024 bytes in all.
    """
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsafePathError(f"{shown(path)}: the name is not valid Unicode") from None
    parts = path.split("/")
    if "\\" in path or _CONTROL.search(path):
        raise UnsafePathError(f"{shown(path)}: a backslash or control character in a file name")
    if any(part in ("", ".", "..") for part in parts):
        raise UnsafePathError(f"{shown(path)}: not a plain relative path")
    if len(raw) > 1024 or any(len(part.encode()) > 255 for part in parts):
        raise UnsafePathError(f"{shown(path)}: the name is too long")
    return path


def shown(text: str) -> str:
    """Untrusted text for a message: escaped, quoted and cut."""
    return repr(text if len(text) <= 80 else text[:77] + "...").encode("ascii", "backslashreplace").decode()
