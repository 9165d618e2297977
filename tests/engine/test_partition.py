"""Duplicates and held-out rows are decided by a row's content alone."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.data.examples import Example
from posttrain.engine.data.formats import detect, normalise
from posttrain.engine.data.partition import SeenDigests, content_digest, is_held_out


def example(row: dict[str, Any]) -> Any:
    return normalise(row, detect(row))


def test_rows_that_mean_the_same_have_one_digest() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    same = [
        {"prompt": "q", "completion": "a"},
        {"messages": turns, "id": 7},
        {"instruction": "q", "input": "", "output": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "tools": "[]"},
    ]
    assert len({content_digest(example(row)) for row in same}) == 1
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    other = [
        {"prompt": "q", "completion": "a "},
        pair,
        pair | {"margin": 1.0},
        {"prompt": "q", "chosen": "b", "rejected": "a"},
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": False},
    ]
    assert len({content_digest(example(row)) for row in [*same, *other]}) == 1 + len(other)


@given(st.lists(st.binary(min_size=1, max_size=2), max_size=400))
def test_seen_digests_are_a_set(items: list[bytes]) -> None:
    seen, known = SeenDigests(), set()
    for item in items:
        digest = hashlib.sha256(item).digest()[:16]
        assert seen.add(digest) == (digest not in known)
        known.add(digest)
    assert len(seen) == len(known)


def test_seen_digests_take_21_to_32_bytes_each() -> None:
    seen = SeenDigests()
    sizes = []
    for number in range(20_000):
        assert seen.add(hashlib.sha256(b"%d" % number).digest()[:16])
        if number >= 2000:
            sizes.append(seen.num_bytes / len(seen))
    assert 21 <= min(sizes) < max(sizes) <= 32.1
    assert not seen.add(hashlib.sha256(b"0").digest()[:16])


def test_a_split_has_about_its_share_and_follows_the_prompt() -> None:
    rows = [example({"prompt": f"question {number}", "completion": "a"}) for number in range(4000)]
    held = [is_held_out(row, 0.05, 0) for row in rows]
    assert 150 < sum(held) < 250  # binomial: mean 200, deviation 14
    assert held == [is_held_out(row, 0.05, 0) for row in rows]
    assert held != [is_held_out(row, 0.05, 1) for row in rows], "another seed, other rows"
    grown = [is_held_out(row, 0.1, 0) for row in rows]
    assert all(now for now, before in zip(grown, held, strict=True) if before), "a larger share keeps the smaller one"
    prompt = rows[0].messages[:1]
    others = [
        example({"prompt": "question 0", "completion": "another answer"}),
        example({"prompt": "question 0", "chosen": "a", "rejected": "b"}),
        example({"messages": [*prompt, {"role": "assistant", "content": "x"}, *prompt], "label": None}),
    ]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert {is_held_out(row, share, 5) for row in others} == {is_held_out(rows[0], share, 5)}


def test_a_split_is_the_same_on_every_machine() -> None:
    """Written down once: who trained on one side must find it again with the next version."""
    rows = [Example([{"role": "user", "content": str(n)}, {"role": "assistant", "content": "a"}]) for n in range(40)]
    assert [n for n, row in enumerate(rows) if is_held_out(row, 0.2, 3)] == [2, 6, 16, 17, 22, 25, 30, 31]
