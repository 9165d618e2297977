"""Call formats: written and read back the same, taught to any template, and read by transformers as by us."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.engine.checkers.calls import tool_call
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Example
from posttrain.engine.data.template import ChatTemplate, builtin_template
from posttrain.engine.data.tool_calls import (
    FORMATS,
    CallSyntaxError,
    Speech,
    check_speaks,
    read_answer,
    teach,
    write_calls,
)
from posttrain.engine.errors import TemplateError
from tests.engine.styles import ANSWER, ASK, CALL, CALLS, PARALLEL, STYLES, TOOLS, source, tokenizer

TEXT = st.text(st.sampled_from('ab \n"\\{};,[]</é𝄞') | st.characters(codec="utf-8"), max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    | st.sampled_from(["</tool_call>", "<tool_call>", "; "]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
CHATML_TEMPLATE = builtin_template("chatml")
MARKS = "".join(map(chr, (0xF1000, 0xF1001)))  # what stands for generation tags while a template is rendered
SOME_CALLS = st.lists(
    st.fixed_dictionaries({"name": TEXT.filter(str.strip), "arguments": st.dictionaries(TEXT, JSON, max_size=3)}),
    min_size=1,
    max_size=3,
).filter(lambda calls: not set(MARKS) & set(json.dumps(calls, ensure_ascii=False)))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), TEXT.filter(lambda text: not set(MARKS) & set(text)), SOME_CALLS)
def test_what_is_written_is_read_back(name: str, text: str, calls: list[dict[str, Any]]) -> None:
    text = text.replace("<tool_call>", "") if name == "hermes" else ""
    assert read_answer(name, write_calls(name, text, calls)) == (text, calls)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(FORMATS)), st.text(st.sampled_from('<tool_call>/{"name": ,"arguments"}[]; x'), max_size=40)
)
def test_any_answer_is_read_or_refused(name: str, answer: str) -> None:
    for text in (answer, f"<tool_call>{answer}", f'{{"name"{answer}', f'[{{"type"{answer}'):
        try:
            said, calls = read_answer(name, text)
        except CallSyntaxError:
            continue
        assert calls or said == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'
                   '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'),
        ("llama3", '{"name": "f", "parameters": {"x": 1}}; {"name": "f", "parameters": {"x": "é"}}'),
        ("openai", '[{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}, '
                   '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": \\"é\\"}"}}]'),
    ],
)  # fmt: skip
def test_each_format_by_hand(name: str, text: str) -> None:
    calls = PARALLEL[1]["tool_calls"]
    assert write_calls(name, "", calls) == text
    assert read_answer(name, text) == ("", calls)
    assert write_calls(name, "no.", []) == "no."
    assert read_answer(name, "no.") == ("no.", [])


@pytest.mark.parametrize("name", ["llama3", "openai"])
def test_a_format_without_room_for_text_says_so(name: str) -> None:
    with pytest.raises(TemplateError, match="no room for text beside the calls"):
        write_calls(name, "wait.", [CALL])


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("hermes", '<tool_call>{"name": "f"', "not JSON"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}', "not closed"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}</tool_call> so', "text after"),
        ("hermes", '<tool_call>{"name": "f", "parameters": {}}</tool_call>', "not an object of name and arguments"),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "arguments is not an object"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>', "NaN"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1, "x": 2}}</tool_call>', "twice"),
        ("hermes", "<tool_call>" + "[" * 100_000, "nested too deeply"),
        ("llama3", '{"name": "f", "parameters": {}} and more', "text after"),
        ("llama3", '{"name": 1, "parameters": {}}', "not an object of name"),
        ("openai", '[{"type": "function"}]', "not an object of name"),
        ("openai", '[{"type": "x", "function": {}}]', "not a list of functions"),
        ("openai", '[{"type": "function", "function": {"name": "f", "arguments": "{"}}]', "text that is not JSON"),
    ],
)
def test_a_broken_call_is_told(name: str, answer: str, reason: str) -> None:
    with pytest.raises(CallSyntaxError, match=reason):
        read_answer(name, answer)


@settings(max_examples=60, deadline=None)
@given(SOME_CALLS)
def test_training_and_evaluation_speak_the_same(calls: list[dict[str, Any]]) -> None:
    """A call as the built-in template trains it, and as Hermes tags write it, is right for the suite's checker; and
    both are read alike."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": calls[:1]}]
    text, spans = CHATML_TEMPLATE.render_marked(messages)
    answer = text[slice(*spans[0])].removesuffix("<|im_end|>")
    assert read_answer("hermes", answer) == ("", calls[:1])
    written = write_calls("hermes", "", calls[:1])
    for one in (answer, written):
        if "</tool_call>" not in json.dumps(calls[0]) or one is written:
            assert tool_call(one, calls[0]).ok


# -- templates that are taught ----------------------------------------------------------------------------------------

LEAD = (
    '# Tools\n\nThese functions can be called:\n<tools>\n{"name": "f", "description": "d", "parameters": {"type": '
    '"object"}}\n</tools>\n\nTo call one, write\n<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>\n'
    "and a block like it for each further call."
)
TWO = (
    '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'
    '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'
)
RESULTS = "<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response>"
TAUGHT = {
    "zephyr": f"<|system|>\n{LEAD}</s>\n<|user|>\n{ASK}</s>\n<|assistant|>\n{TWO}</s>\n"
    f"<|user|>\n{RESULTS}</s>\n<|assistant|>\n{ANSWER}</s>\n",
    "gemma": f"<bos><start_of_turn>user\n{LEAD}\n\n{ASK}<end_of_turn>\n<start_of_turn>model\n{TWO}<end_of_turn>\n"
    f"<start_of_turn>user\n{RESULTS}<end_of_turn>\n<start_of_turn>model\n{ANSWER}<end_of_turn>\n",
    "mistral": f"<s>[INST] {LEAD}\n\n{ASK}[/INST] {TWO}</s>[INST] {RESULTS}[/INST] {ANSWER}</s>",
}


def template(name: str, is_tagged: bool = True) -> ChatTemplate:
    return ChatTemplate(source(name, is_tagged), {"bos_token": STYLES[name].bos, "eos_token": STYLES[name].eos})


@pytest.mark.parametrize("name", TAUGHT)
def test_a_taught_template_by_hand(name: str) -> None:
    """Zephyr takes a system text, Gemma refuses one, and Mistral's moves it to the last question."""
    assert teach(template(name), "hermes").render(PARALLEL, TOOLS) == TAUGHT[name]


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("call_format", FORMATS)
def test_any_template_can_be_taught_any_format(name: str, call_format: str) -> None:
    taught = teach(template(name, is_tagged=False), call_format)
    check_speaks(taught)
    assert teach(taught, call_format) is taught
    made = tokenizer(name)
    encoder = Encoder(made, taught, made.convert_tokens_to_ids(list(STYLES[name].stops)))
    row = encoder.row(Example(PARALLEL, TOOLS), "all_turns")
    trained = made.decode([token for token, is_target in zip(row.ids, row.is_target, strict=True) if is_target])
    stop = next(stop for stop in reversed(STYLES[name].stops) if stop in trained)
    answers = [read_answer(call_format, text.strip()) for text in trained.split(stop)[:2]]
    assert answers == [("", PARALLEL[1]["tool_calls"]), (ANSWER, [])]
    prompt = encoder.prompt(PARALLEL[:1], TOOLS)
    assert list(row.ids[: len(prompt)]) == prompt
    assert '"name": "f"' in made.decode(prompt)


@pytest.mark.parametrize("name", STYLES)
def test_a_taught_template_is_the_same_to_transformers(name: str) -> None:
    taught = teach(template(name), "hermes")
    made = tokenizer(name)
    talk = [*PARALLEL, {"role": "user", "content": "why?"}]
    theirs = made.apply_chat_template(
        talk, tools=TOOLS, chat_template=taught.text, tokenize=False, add_generation_prompt=True
    )
    assert theirs == taught.render(talk, TOOLS, add_generation_prompt=True)


def test_a_system_text_and_a_question_after_results_keep_their_place() -> None:
    talk = [{"role": "system", "content": "be quick."}, *CALLS[:3], {"role": "user", "content": "well?"}]
    text = teach(template("chatml"), "llama3").render(talk, TOOLS)
    assert text.startswith("<|im_start|>system\nbe quick.\n\n# Tools\n")
    assert text.count("<|im_start|>system") == 1
    assert text.endswith("<|im_start|>user\n<tool_response>\n5\n</tool_response>\n\nwell?<|im_end|>\n")
    assert text.count(ASK) == 1
    without = teach(template("chatml"), "llama3").render(talk[:2])
    assert without == template("chatml").render(talk[:2]), "without tools nothing changes"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("chatml", "does not write the tools on offer, a call's name, arguments"),
        ("deepseek", "does not write the tools on offer"),
        ("gemma", "does not know tool calls: .*must alternate"),
    ],
)
def test_a_template_that_drops_calls_is_named(name: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason) as caught:
        check_speaks(template(name))
    assert "call_format" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "speech", "missing"),
    [
        ("chatml", Speech(False, False, False), ""),
        ("chatml", Speech(True, False, False), "the tools on offer$"),
        ("chatml", Speech(False, True, False), "a call's name, arguments$"),
        ("chatml", Speech(False, False, True), ""),
        ("deepseek", Speech(False, True, True), ""),
        ("deepseek", Speech(True, True, True), "the tools on offer$"),
        ("llama3", Speech(False, True, False), ""),
        ("qwen", Speech(True, False, False), ""),
        ("mistral", Speech(False, True, True), ""),
    ],
)
def test_only_what_a_row_holds_has_to_be_written(name: str, speech: Speech, missing: str) -> None:
    if not missing:
        check_speaks(template(name), speech)
        return
    with pytest.raises(TemplateError, match=f"does not write {missing}"):
        check_speaks(template(name), speech)


@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen"])
def test_a_template_with_tools_of_its_own_speaks(name: str) -> None:
    check_speaks(template(name))
