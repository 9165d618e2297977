"""Templates render as transformers renders them, and a hostile one runs no code, does not hang and fills no memory."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.engine.data.template import CHATML, ChatTemplate, builtin_template
from posttrain.engine.errors import TemplateError
from tests.engine.tiny import tiny_tokenizer

TOOLS = [
    {"name": "f", "description": "d", "parameters": {"type": "object"}},
    {"name": "g", "description": "", "parameters": {}},
]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <nice> & 'kind'."},
    {"role": "user", "content": "hi\n"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": "é"}}]},
    {"role": "tool", "content": '{"x": 1}'},
    {"role": "assistant", "content": "done"},
]


def test_chatml_is_what_it_says() -> None:
    text = builtin_template("chatml").render(MESSAGES, TOOLS, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\n# Tools\n"
        '{"name":"f","description":"d","parameters":{"type":"object"}}\n'
        '{"name":"g","description":"","parameters":{}}<|im_end|>\n'
        "<|im_start|>system\nBe <nice> & 'kind'.<|im_end|>\n"
        "<|im_start|>user\nhi\n<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name":"f","arguments":{"b":1,"a":"é"}}</tool_call><|im_end|>\n'
        '<|im_start|>tool\n{"x": 1}<|im_end|>\n'
        "<|im_start|>assistant\ndone<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_generation_blocks_are_the_assistants_text() -> None:
    text, spans = builtin_template("chatml").render_marked(MESSAGES)
    assert [text[a:b] for a, b in spans] == [
        '<tool_call>{"name":"f","arguments":{"b":1,"a":"é"}}</tool_call><|im_end|>',
        "done<|im_end|>",
    ]


LLAMA2_LIKE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' ~ content.strip() ~ ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
NAMESPACES = (
    "{%- set ns = namespace(found=false, n=0) -%}"
    "{%- for m in messages | reverse -%}{%- set ns.n = ns.n + 1 -%}{%- endfor -%}"
    "{{ ns.n }}{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | join(', ') | upper }}"
    "{%- for k, v in messages[0].items() -%}{{ k }}={{ v | trim }};{%- endfor -%}"
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content | replace('a', 'b') }}{% endfor %}"
)


@pytest.mark.parametrize("text", [CHATML, LLAMA2_LIKE, NAMESPACES])
@pytest.mark.parametrize("prompt", [False, True])
def test_rendering_equals_transformers(text: str, prompt: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": " u "},
        {"role": "assistant", "content": "a"},
    ]
    named = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    ours = ChatTemplate(text, named).render(messages, add_generation_prompt=prompt)
    assert ours == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


GROW = "{{% set ns=namespace(x='aaaa') %}}{{% for i in range(99) %}}{{% set ns.x = {} %}}{{% endfor %}}{{{{ ns.x }}}}"
HOSTILE = {
    "endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros without end": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "macros two by two": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for a in range(3) recursive %}{{ loop([1,2,3]) }}{% endfor %}",
    "doubling with ~": GROW.format("ns.x ~ ns.x"),
    "doubling with +": GROW.format("ns.x + ns.x"),
    "doubling with *": GROW.format("ns.x * 2"),
    "doubling with join": GROW.format("[ns.x, ns.x] | join"),
    "doubling with join method": GROW.format("''.join([ns.x, ns.x])"),
    "doubling with replace": GROW.format("ns.x.replace('a', 'aaaaaaaaaaa')"),
    "doubling with replace filter": GROW.format("ns.x | replace('a', 'aaaaaaaaaaa')"),
    "doubling lists": GROW.format("[ns.x, ns.x]"),
    "doubling into a block": "{% set ns=namespace(x='a') %}{% for i in range(99) %}"
    "{% set q %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = q %}{% endfor %}",
    "growing numbers": "{% set ns=namespace(x=9) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "constant text": "{{ 'a' * 1000000000 }}",
    "constant list": "{{ [1] * 1000000000 }}",
    "padding": "{{ 'x'.ljust(1000000000) }}",
    "percent format": "{{ '%999999999d' % 1 }}",
    "format method": "{{ '{:>999999999}'.format(1) }}",
    "padded date": "{{ strftime_now('%999999999d') }}",
    "class of a text": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ namespace.__init__.__globals__ }}",
    "underscore attribute": "{% set ns = namespace(__class__=1) %}",
    "missing item": "{{ messages[99].content.x }}",
    "syntax": "{% for %}",
    "shadowed guards": "{% set tick = namespace %}{% set emit = namespace %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped(name: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(HOSTILE[name]).render(MESSAGES)


@pytest.mark.parametrize(
    "expression",
    [
        "'{:>999999999}'.format(1)",
        "'{x:>999999999}'.format_map({'x': 1})",
        "'{:>999999999}'['format'](1)",
        "('{:>999999999}' | attr('format'))(1)",
        "'1'.rjust(999999999)",
    ],
)
def test_a_method_that_formats_is_refused_before_it_builds_anything(expression: str) -> None:
    """What it builds is not printed, so no limit of printed text ends it."""
    with pytest.raises(TemplateError, match=r"text\.\w+\(\) is not available in chat templates"):
        ChatTemplate("{% set x = " + expression + " %}").render(MESSAGES)


def test_a_template_cannot_change_what_it_is_given() -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(TemplateError):
        ChatTemplate("{{ messages.append(1) }}").render(messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_a_templates_refusal_is_told() -> None:
    with pytest.raises(TemplateError, match="no system please"):
        ChatTemplate("{{ raise_exception('no system please') }}").render(MESSAGES)


def test_digest_follows_the_text() -> None:
    assert ChatTemplate("a").digest != ChatTemplate("b").digest
    assert ChatTemplate("a").digest == ChatTemplate("a", {"bos_token": "x"}).digest
