from __future__ import annotations

import pytest

from posttrain.tui.filtering import matches

FIELDS = {"name": "Support-Bot sft", "state": "running", "kind": "sft"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", True),
        ("bot", True),
        ("bot RUNNING", True),
        ("bot failed", False),
        ("!failed", True),
        ("!bot", False),
        ("state:run", True),
        ("state:fail", False),
        ("!state:fail kind:sft", True),
        ("owner:me", False),
        ("!owner:me", True),
        ("!", False),
        ("name:support-bot", True),
    ],
)
def test_matches(query: str, expected: bool) -> None:
    assert matches(query, FIELDS) is expected
