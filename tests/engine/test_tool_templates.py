"""What follows a call in every chat template: the tokens that training has there, or a refusal by name."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.engine.data.builtin import BUILTIN
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.template import ChatTemplate, builtin_template
from posttrain.engine.data.tool_calls import FORMATS, teach
from posttrain.engine.environments.speech import calls_of
from posttrain.engine.errors import TemplateError
from tests.engine.styles import STYLES, source
from tests.engine.styles import tokenizer as style_tokenizer
from tests.engine.tiny import END, tiny_tokenizer

CALL = {"name": "calculator", "arguments": {"expression": "2+3"}}
TURN = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "what is it?"},
    TURN,
    {"role": "tool", "content": "5 <|im_end|> é"},
    TURN,
    {"role": "tool", "content": "6"},
]
TOOLS = [{"name": "calculator", "description": "d", "parameters": {"type": "object"}}]


def encoder_of(name: str) -> tuple[Encoder, Any]:
    builtin = BUILTIN[name]
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in builtin.tokens if token != END]})
    stop = tokenizer.convert_tokens_to_ids(builtin.stop_token)
    return Encoder(tokenizer, builtin_template(name, {"bos_token": END}), [stop]), tokenizer


def check_whole(encoder: Encoder, tokenizer: Any) -> None:
    """Piece by piece the ids are those of the whole conversation: prompt, turn, what follows it, turn, and so on."""
    ids = encoder.prompt(TALK[:1], TOOLS)
    for end in (3, 5):
        turn = encoder.turn_text(TALK[: end - 1], TOOLS)
        written = tokenizer(turn, add_special_tokens=False)["input_ids"]
        before = encoder.prompt(TALK[: end - 2], TOOLS)
        assert ids == before
        follows = encoder.tool_turns(TALK[:end], TOOLS, 1)
        whole = encoder.prompt(TALK[:end], TOOLS)
        stop = whole[len(ids) + len(written)]
        assert [*ids, *written, stop, *follows] == whole
        ids = whole


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_templates(name: str) -> None:
    encoder, tokenizer = encoder_of(name)
    assert calls_of(encoder, tokenizer) == ("hermes", True)
    check_whole(encoder, tokenizer)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_a_template_was_taught(name: str) -> None:
    tokenizer = tiny_tokenizer(is_chat=True)
    plain = ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encoder = Encoder(tokenizer, teach(plain, name), [tokenizer.convert_tokens_to_ids("<|im_end|>")])
    assert calls_of(encoder, tokenizer) == (name, True)
    check_whole(encoder, tokenizer)


def refusal_of(text: str) -> str:
    tokenizer = tiny_tokenizer(is_chat=True)
    encoder = Encoder(tokenizer, ChatTemplate(text), [tokenizer.convert_tokens_to_ids("<|im_end|>")])
    with pytest.raises(TemplateError) as caught:
        calls_of(encoder, tokenizer)
    assert caught.value.hint
    return str(caught.value)


BODY = "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
START, STOP, ASKS = (
    "<|im_start|>{{ m.role }}\n",
    "<|im_end|>\n",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)


def loop(turn: str) -> str:
    return "{% for m in messages %}" + turn + "{% endfor %}" + ASKS


def test_templates_that_cannot_are_refused_by_name() -> None:
    foreign = loop(START + BODY.replace("tool_call>", "my_call>") + STOP)
    assert "in none of the formats that are read (hermes, llama3, openai)" in refusal_of(foreign)
    hides = loop("{% if m.role != 'tool' %}" + START + BODY + STOP + "{% endif %}")
    assert "does not show what a tool answers" in refusal_of(hides)
    moves = "{% if messages[-1].role == 'tool' %}<|im_start|>tools ran\n<|im_end|>{% endif %}"
    assert "changes what stands before a tool's answer" in refusal_of(moves + loop(START + BODY + STOP))
    assert "without any of" in refusal_of(loop(START + BODY + "\n"))
    thinks = loop(START + "{% if m.role == 'assistant' and not loop.last %}<|im_start|>{% endif %}" + BODY + STOP)
    assert "changes what stands before a tool's answer" in refusal_of(thinks)
    refuses = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    assert "no tools" in refusal_of(refuses + loop(START + BODY + STOP))


def test_one_call_at_a_time_if_the_template_takes_no_more() -> None:
    single = "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}"
    text = loop(single + START + BODY + STOP)
    tokenizer = tiny_tokenizer(is_chat=True)
    encoder = Encoder(tokenizer, ChatTemplate(text), [tokenizer.convert_tokens_to_ids("<|im_end|>")])
    assert calls_of(encoder, tokenizer) == ("hermes", False)


READABLE = ("llama3", "qwen")


@pytest.mark.parametrize("name", STYLES)
def test_families_own_templates_work_or_say_why(name: str) -> None:
    """Where it works, the ids of a call that is read are those of the whole conversation."""
    tokenizer, style = style_tokenizer(name), STYLES[name]
    stops = [tokenizer.convert_tokens_to_ids(stop) for stop in style.stops]
    named = {"bos_token": style.bos, "eos_token": style.eos}
    encoder = Encoder(tokenizer, ChatTemplate(source(name, is_tagged=True), named), stops)
    if name in READABLE:
        calls_of(encoder, tokenizer)
        check_whole(encoder, tokenizer)
        return
    with pytest.raises(TemplateError, match="tools cannot run with this chat template"):
        calls_of(encoder, tokenizer)
