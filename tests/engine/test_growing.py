"""Ids of a text piece by piece, encoded from a late special token on: the same as from the start, in linear time."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from posttrain.engine.data import growing
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Example
from posttrain.engine.data.growing import Anchors, Encode, GrowingIds
from posttrain.engine.data.template import ChatTemplate
from tests.engine.styles import source, tokenizer
from tests.engine.tiny import tiny_tokenizer

# Spelt within each other, over each other's borders, with the space before or behind, as whole words only.
ODD = [
    AddedToken("<a>", special=True, normalized=False),
    AddedToken("<a>b", special=True, normalized=False),
    AddedToken("x<a", special=True, normalized=False),
    AddedToken("<l>", special=True, normalized=False, lstrip=True),
    AddedToken("<r>", special=True, normalized=False, rstrip=True),
    AddedToken("<w>", special=True, normalized=False, single_word=True),
    AddedToken("<n>", special=True, normalized=True),
]
PIECES = [*(token.content for token in ODD), " ", "\n", "x", "b", "the ", "quick", "<", ">", "▁", "é"]


@functools.cache
def odd_tokenizer(is_sentencepiece: bool) -> Any:
    made = tokenizer("llama2", True) if is_sentencepiece else tiny_tokenizer()
    made.add_tokens(ODD, special_tokens=True)
    return made


def from_the_start(text: str, ends: list[int], encode: Encode) -> list[int]:
    """The same in the plain way, in time that grows with the square of the number of pieces."""
    ids, before, is_whole = list[int](), 0, True
    for end in ends:
        whole = encode(text[:end])
        is_whole = is_whole and whole[: len(ids)] == ids
        ids += whole[len(ids) :] if is_whole else encode(text[before:end])
        before = end
    return ids


@pytest.mark.parametrize("is_sentencepiece", [False, True])
@given(data=st.data())
def test_any_text_in_any_pieces(is_sentencepiece: bool, data: st.DataObject) -> None:
    made = odd_tokenizer(is_sentencepiece)
    text = "".join(data.draw(st.lists(st.sampled_from(PIECES), max_size=40)))
    ends = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))

    def encode(part: str) -> list[int]:
        ids: list[int] = made(part, add_special_tokens=False)["input_ids"]
        return ids

    anchors = Anchors.of(made)
    assert anchors is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "ANCHOR_CHARACTERS", 4)
        grown = GrowingIds(text, encode, encode, anchors)
        for end in ends:
            grown.extend(end)
    assert grown.ids == from_the_start(text, ends, encode)


def test_an_anchor_is_a_token_that_is_whole_and_takes_nothing_before_it() -> None:
    anchors = Anchors.of(odd_tokenizer(False))
    assert anchors is not None
    text = "a<a>b <l>c <r>d<w>e<n>f" + "." * 20
    assert text[anchors.last(text, 0, len(text)) :].startswith("<r>")
    assert anchors.last(text, 0, text.index("<a>") + 4) == 0, "with more text it might be another one"


def talk(num_turns: int) -> Example:
    turns = [("user", "what is {} plus <|im_end|> three?"), ("assistant", "it is {}. the fox")]
    return Example([{"role": turns[i % 2][0], "content": turns[i % 2][1].format(i)} for i in range(num_turns)])


def encoder_of(is_tagged: bool) -> Encoder:
    made = tiny_tokenizer(is_chat=True)
    return Encoder(made, ChatTemplate(source("chatml", is_tagged), {}), (made.eos_token_id,))


@pytest.mark.parametrize("is_tagged", [True, False])
def test_a_long_row_is_the_same_from_anchors_and_from_the_start(is_tagged: bool) -> None:
    anchored, plain = encoder_of(is_tagged), encoder_of(is_tagged)
    plain._anchors = None
    for num_turns in (2, 21, 120):
        assert anchored.row(talk(num_turns), "all_turns") == plain.row(talk(num_turns), "all_turns")


def test_twice_the_turns_are_twice_the_text_to_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder_of(is_tagged=True)
    plain, encoded = made._encode, list[int]()

    def counted(text: str) -> list[int]:
        encoded.append(len(text))
        return plain(text)

    monkeypatch.setattr(made, "_encode", counted)
    sums = []
    for num_turns in (200, 400):
        encoded.clear()
        made.row(talk(num_turns), "all_turns")
        sums.append(sum(encoded))
    assert sums[1] < 2.2 * sums[0], "four times as much from the start"
