"""Templates render as transformers renders them, and a hostile one runs no code, does not hang and fills no memory."""

from __future__ import annotations

import time
from typing import Any

import jinja2
import pytest

from posttrain.engine.data.sandbox import Sandbox
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


IN_A_LOOP = "{{% set s = {} %}}{{% for i in range({}) %}}{{% set x = {} %}}{{% endfor %}}"
LIMITED = {
    "bytes of a text": "{% set x = 'x'.encode() * 900000000 %}",
    "bytes padded": "{% set x = 'x'.encode().ljust(900000000) %}",
    "bytes by attr": "{% set x = ('x' | attr('encode'))() * 900000000 %}",
    "bytes of a number": "{% set x = (5).to_bytes(900000000, 'big') %}",
    "long separators": "{% set x = ([0] * 9000) | tojson(separators=('x' * 100000, ':')) %}",
    "indentation": "{% set ns = namespace(x=[0] * 100000) %}"
    "{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}"
    "{% set x = ns.x | tojson(indent=16) %}",
    "sorting": IN_A_LOOP.format("('ab' * 100000) | list", 50, "s | sort"),
    "cases": IN_A_LOOP.format("'ab' * 2000000", 200, "s | upper | lower"),
    "methods": IN_A_LOOP.format("'ab' * 2000000", 200, "s.upper()"),
    "splitting": IN_A_LOOP.format("'ab' * 2000000", 9, "s.split('a')"),
    "slices": IN_A_LOOP.format("'ab' * 2000000", 9999, "s[1:]"),
    "searching": IN_A_LOOP.format("'ab' * 2000000", 9999, "'bb' in s"),
    "searching by a test": IN_A_LOOP.format("'ab' * 2000000", 9999, "'bb' is in s"),
    "comparing": IN_A_LOOP.format("['ab' * 2000000, 'ab' * 2000000]", 9999, "s[0] == s[1]"),
    "concatenating": IN_A_LOOP.format("'ab' * 1000000", 999, "s ~ 'c'"),
    "adding": IN_A_LOOP.format("'ab' * 1000000", 999, "s + 'c'"),
    "conditions": IN_A_LOOP.format("1", 9999, "0") + "{% for a in range(9999) %}{% for b in range(99999) if false %}"
    "{% endfor %}{% endfor %}",
    "generators": IN_A_LOOP.format("range(99999)", 9999, "s | select | select('none') | list"),
    "lists in lists": IN_A_LOOP.format("[[0]] * 99999", 9, "s | sum(start=[])"),
    "large numbers": "{% set s = ('f' * 2000000) | int(base=16) %}{% set x = s // 3 %}",
    "large literals": "{% set x = 0x" + "f" * 5000 + " // 0xff3 %}",
    "decimal digits": "{% set x = 1" + "0" * 5000 + " %}",
    "digits": "{% set x = 1 | round(99999999, 'ceil') %}",
}


@pytest.mark.parametrize("name", LIMITED)
def test_work_and_memory_are_limited_and_the_limit_is_named(name: str) -> None:
    """Nothing is printed, so no limit of printed text ends these."""
    begun = time.process_time()
    limits = "more than 67108864 units of work|longer than 4194304|is unsafe|above 2[*][*]63|at most 16|numbers only"
    limits += "|4300 digits"
    with pytest.raises(TemplateError, match=limits):
        ChatTemplate(LIMITED[name]).render(MESSAGES)
    assert time.process_time() - begun < 20


def test_running_out_of_memory_is_the_templates_error() -> None:
    def full() -> None:
        raise MemoryError

    with pytest.raises(jinja2.TemplateError, match="more memory than there is"):
        Sandbox("{{ full() }}").render({"full": full})


def test_a_long_conversation_stays_within_the_limits() -> None:
    """200 turns of 5000 characters, with what templates do to each turn."""
    text = (
        "{% for m in messages %}{% if loop.index0 == messages | length - 1 or m.content in ('a', 'b') %}{% endif %}"
        "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
        "{% else %}{{ (m.content | trim)[:-1] + 'x' }}{% endif %}"
        "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{{ users | length }}{% endfor %}"
    )
    shown = ChatTemplate(text).render([{"role": "user", "content": "word " * 1000}] * 200)
    assert shown == ("word " * 999 + "worx200") * 200


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
