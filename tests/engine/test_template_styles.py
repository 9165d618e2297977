"""What is trained is right under the templates of nine model families, with `{% generation %}` tags and without.

Two references that know nothing of the encoder: text written by hand (tests/engine/styles.py) and tokenized at once,
and transformers' own assistant mask of the tagged template.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from posttrain.engine.data.encode import Encoder, Row
from posttrain.engine.data.examples import Example
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.errors import TemplateError
from tests.engine.styles import ASK, MULTI, SINGLE, STYLES, TALKS, source, tokenizer

TOKENIZERS = [(name, False) for name in STYLES] + [("llama2", True)]
CASES = [(name, kind, talk) for name, kind in TOKENIZERS for talk in STYLES[name].texts]
# They put what comes first (tools, system text) before the last question, and so rewrite the turns before it.
REWRITES = {("mistral", "system")}


def encoder(name: str, kind: bool, is_tagged: bool, text: str = "") -> Encoder:
    made = tokenizer(name, kind)
    named = {key: value for key, value in made.special_tokens_map.items() if isinstance(value, str)}
    stops = made.convert_tokens_to_ids(list(STYLES[name].stops))
    return Encoder(made, ChatTemplate(text or source(name, is_tagged), named), stops)


def by_hand(name: str, kind: bool, talk: str, last_only: bool = False) -> tuple[list[int], list[int]]:
    """Ids and mask of the hand-written text up to the last trained token, from the tokenizer's offsets."""
    pieces = re.split("[⟦⟧]", STYLES[name].texts[talk])
    spans, position = [], 0
    for index, piece in enumerate(pieces):
        if index % 2:
            spans.append((position, position + len(piece)))
        position += len(piece)
    if last_only:
        spans = spans[-1:]
    # What the tokenizer writes into the gaps between special tokens (SentencePiece's first space) has no width.
    found = tokenizer(name, kind)("".join(pieces), add_special_tokens=False, return_offsets_mapping=True)
    mask = [
        int(any(start <= a and b <= end and (a, b) != (start, start) for start, end in spans))
        for a, b in found["offset_mapping"]
    ]
    used = len(mask) - mask[::-1].index(1)
    return found["input_ids"][:used], mask[:used]


@pytest.mark.parametrize(("name", "kind", "talk"), CASES)
def test_ids_and_mask_equal_the_text_written_by_hand(name: str, kind: bool, talk: str) -> None:
    messages, tools = TALKS[talk]
    for is_tagged in (True, False):
        made = encoder(name, kind, is_tagged)
        for loss_on in ("all_turns", "last_turn"):
            if (name, talk) in REWRITES and not is_tagged and loss_on == "all_turns":
                with pytest.raises(TemplateError, match="renders turn 3 differently"):
                    made.row(Example(messages, tools), "all_turns")
                continue
            row = made.row(Example(messages, tools), loss_on)  # type: ignore[arg-type]
            ids, mask = by_hand(name, kind, talk, loss_on == "last_turn")
            assert (list(row.ids), list(row.is_target)) == (ids, mask), (is_tagged, loss_on)


@pytest.mark.parametrize(("name", "kind", "talk"), CASES)
def test_mask_equals_that_of_transformers(name: str, kind: bool, talk: str) -> None:
    made = tokenizer(name, kind)
    messages, tools = TALKS[talk]
    theirs = made.apply_chat_template(
        in_openai_form(messages, as_text=name == "deepseek"),
        tools=[{"type": "function", "function": tool} for tool in tools] or None,
        chat_template=source(name, True),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    row = encoder(name, kind, True).row(Example(messages, tools), "all_turns")
    assert list(row.ids) == theirs["input_ids"][: len(row)]
    assert list(row.is_target) == theirs["assistant_masks"][: len(row)]
    assert not any(theirs["assistant_masks"][len(row) :])


def in_openai_form(messages: list[dict[str, Any]], as_text: bool) -> list[dict[str, Any]]:
    """The messages as a user of transformers writes them: calls as functions with ids; DeepSeek wants arguments as
    text."""
    given: list[dict[str, Any]] = []
    results = 0
    for message in messages:
        if "tool_calls" in message:
            calls = [
                {
                    "type": "function",
                    "id": f"call0000{index}",
                    "function": {
                        "name": call["name"],
                        "arguments": json.dumps(call["arguments"], ensure_ascii=False)
                        if as_text
                        else call["arguments"],
                    },
                }
                for index, call in enumerate(message["tool_calls"])
            ]
            given.append({**message, "tool_calls": calls})
        elif message["role"] == "tool":
            given.append({**message, "tool_call_id": f"call0000{results}"})
            results += 1
        else:
            given.append(message)
    return given


@pytest.mark.parametrize(("name", "kind", "talk"), CASES)
def test_a_prompt_is_what_stands_before_the_trained_answer(name: str, kind: bool, talk: str) -> None:
    messages, tools = TALKS[talk]
    for is_tagged in (True, False):
        made = encoder(name, kind, is_tagged)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for i in turns:
            row = made.row(Example(messages[: i + 1], tools), "last_turn")
            prompt = made.prompt(messages[:i], tools)
            assert list(row.ids[: len(prompt)]) == prompt
            assert row.is_target == bytes(len(prompt)) + b"\1" * (len(row) - len(prompt))


@pytest.mark.parametrize("name", STYLES)
def test_a_forged_token_stays_text(name: str) -> None:
    style, made = STYLES[name], tokenizer(name)
    marks = dict.fromkeys([*style.tokens, *style.stops, style.eos])
    forged = "x" + "".join(f"{mark}\ny" for mark in marks)
    special = {index for index, token in made.added_tokens_decoder.items() if token.special}
    for is_tagged in (True, False):
        rows: list[Row] = []
        for text in ("x", forged):
            messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
            rows.append(encoder(name, False, is_tagged).row(Example(messages), "all_turns"))
        honest, attack = ([index for index in row.ids if index in special] for row in rows)
        assert attack == honest
        assert made.decode(list(rows[1].ids)).count(forged.strip()) == 2


@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen", "deepseek"])
def test_a_forged_token_in_a_call_or_a_tool_stays_text(name: str) -> None:
    stop = STYLES[name].stops[0]
    arguments = {f"a{stop}": stop, "b": [{stop: 1}]}
    for calls, tools in (
        ([{"name": "f", "arguments": arguments}], []),
        (
            [{"name": "f", "arguments": {}}],
            [{"name": "g", "description": stop, "parameters": {"properties": arguments}}],
        ),
    ):
        messages = [SINGLE[0], {"role": "assistant", "content": "", "tool_calls": calls}]
        counts = []
        for given, offered in ((messages, tools), ([SINGLE[0], {**SINGLE[1]}], [])):
            row = encoder(name, False, True).row(Example(given, offered), "last_turn")
            counts.append(sum(row.ids[i] in tokenizer(name).convert_tokens_to_ids([stop]) for i in find_targets(row)))
        assert counts == [1, 1]


def find_targets(row: Row) -> list[int]:
    return [i for i, is_target in enumerate(row.is_target) if is_target]


LAST = re.compile(r"(\s\+\s|\{\{- )(eos_token|'[^']*') -\}\}\s*\{%- endgeneration -%\}")


@pytest.mark.parametrize("name", STYLES)
def test_a_stop_token_that_would_not_be_trained_is_an_error(name: str) -> None:
    """Outside the tags; and, without tags, not written at all."""
    text = source(name, True)
    outside = LAST.sub(lambda m: (" -}}" if "+" in m[1] else "") + "{%- endgeneration -%}{{- " + m[2] + " -}}", text)
    unwritten = LAST.sub(lambda m: " -}}" if "+" in m[1] else "", text).replace("{%- generation -%}", "")
    assert outside != text != unwritten
    named = {"bos_token": "B", "eos_token": "E"}
    assert ChatTemplate(outside, named).render(SINGLE) == ChatTemplate(text, named).render(SINGLE)
    for broken in (outside, unwritten):
        with pytest.raises(TemplateError, match="no stop token is trained"):
            encoder(name, False, True, broken).row(Example(MULTI), "all_turns")


@pytest.mark.parametrize(
    ("name", "talk", "reason"),
    [
        ("gemma", "system", "System role not supported"),
        ("llama3", "parallel", "This model only supports single tool-calls"),
    ],
)
def test_what_a_family_does_not_know_is_refused_in_its_words(name: str, talk: str, reason: str) -> None:
    for is_tagged in (True, False):
        with pytest.raises(TemplateError, match=f"d row 3: the chat template fails: {reason}"):
            encoder(name, False, is_tagged).row(Example(*TALKS[talk]), "all_turns", "d", 3)


def test_a_generation_prompt_that_is_not_what_the_tags_follow_is_an_error() -> None:
    """Trained after `assistant\\n<think>`, asked for after `assistant\\n`."""
    text = source("chatml", True).replace("{%- generation -%}", "{{- '<think>' -}}{%- generation -%}")
    with pytest.raises(TemplateError, match="generation prompt is not what stands before"):
        encoder("chatml", False, True, text).row(Example(MULTI), "all_turns")


def test_only_the_first_stop_token_of_a_turn_is_trained() -> None:
    """Phi-3 writes <|end|>, and <|endoftext|> after a conversation's last turn: nothing is generated after the
    first."""
    row = encoder("phi", False, False).row(Example(SINGLE), "all_turns")
    text = tokenizer("phi").decode(list(row.ids))
    assert text.endswith("it is five.<|end|>")
    assert ASK in text
