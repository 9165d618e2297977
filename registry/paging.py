"""Pages of a listing, and their opaque tokens."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from posttrain.engine.spec import sha256_text
from posttrain.registry.errors import InvalidArgumentError

DEFAULT_SIZE = 50
MAX_SIZE = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Items and the token of what follows; an empty token: nothing does."""

    items: list[T]
    next_page_token: str


def page_size(asked: int) -> int:
    """0 becomes 50; more than 1,000 becomes 1,000.

    Raises:
        InvalidArgumentError: negative.
    """
    if asked < 0:
        raise InvalidArgumentError("page_size is negative", "page_size")
    return min(asked, MAX_SIZE) or DEFAULT_SIZE


def encode_token(query: str, key: int) -> str:
    """A token for what lies beyond `key` in the answer to `query`."""
    return base64.urlsafe_b64encode(json.dumps([sha256_text(query)[:12], key]).encode()).decode().rstrip("=")


def decode_token(query: str, token: str, start: int) -> int:
    """The key in a token, or `start` for an empty one.

    Raises:
        InvalidArgumentError: not a token of ours, or of another query.
    """
    if not token:
        return start
    try:
        made_for, key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if made_for != sha256_text(query)[:12] or type(key) is not int or not 0 <= key < 2**63:
            raise ValueError("of another query")
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidArgumentError(
            "this page token does not belong to this query", "page_token", "start again without one"
        ) from error
    return key
