"""Formats in which a model writes tool calls: how each is written, read, and taught to a chat template. Imports no
torch.

    hermes    <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>, one block a call, after any text
    llama3    {"name": ..., "parameters": {...}}, several separated by "; ", and nothing else
    openai    [{"type": "function", "function": {"name": ..., "arguments": "{...}"}}, ...], and nothing else

The built-in chat templates write Hermes tags without the line breaks; `read` of `hermes` takes both, and so does the
checker of the suite `tool_use`.

A format is written in one place only, in jinja, and is part of the chat template that is trained and saved: `teach`
puts a head before a template which turns tools into system text, calls into an assistant's text and tools' answers into
a user turn (`<tool_response>`). So training, evaluations and whatever serves the model render the same, and a template
that knows nothing of tools can be used.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from posttrain.engine.checkers.calls import refuse_constant, strict_json, unique_keys
from posttrain.engine.data.examples import AnyExample, Message
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.errors import TemplateError

Call = dict[str, Any]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=refuse_constant)


class CallSyntaxError(ValueError):
    """Text that begins as a call and is none."""


@dataclass(frozen=True)
class CallFormat:
    """One format. `source` is jinja that writes `message` (its text and `calls`), `manual` tells a model how to call,
    `read` splits an answer into its text and its calls."""

    source: str
    manual: str
    read: Callable[[str], tuple[str, list[Call]]]


# -- reading ----------------------------------------------------------------------------------------------------------


def _read_hermes(answer: str) -> tuple[str, list[Call]]:
    """Raises CallSyntaxError: a block is not closed, not a call in JSON, or text follows it."""
    text, opening, rest = answer.partition(OPEN)
    calls = []
    while opening:
        value, rest = _decode(rest.lstrip())
        calls.append(_call(value, "arguments"))
        if not rest.lstrip().startswith(CLOSE):
            raise CallSyntaxError(f"a call is not closed by {CLOSE}")
        between, opening, rest = rest.lstrip().removeprefix(CLOSE).partition(OPEN)
        if between.strip():
            raise CallSyntaxError("text after a call")
    return (text.removesuffix("\n") if calls else text), calls


def _read_llama3(answer: str) -> tuple[str, list[Call]]:
    """Raises CallSyntaxError: it begins with a name, and is not a list of calls."""
    rest = answer.strip()
    if not rest.startswith('{"name"'):
        return answer, []
    calls = []
    while rest:
        value, rest = _decode(rest)
        calls.append(_call(value, "parameters"))
        rest = rest.lstrip()
        if rest and not rest.startswith(";"):
            raise CallSyntaxError("text after a call")
        rest = rest.removeprefix(";").lstrip()
    return "", calls


def _read_openai(answer: str) -> tuple[str, list[Call]]:
    """Raises CallSyntaxError: it begins as a list of functions, and is none."""
    if not answer.strip().startswith('[{"type"'):
        return answer, []
    value, rest = _decode(answer.strip())
    if rest.strip():
        raise CallSyntaxError("text after the calls")
    calls = []
    for item in value:
        if not isinstance(item, dict) or item.get("type") != "function":
            raise CallSyntaxError("not a list of functions")
        calls.append(_call(item.get("function"), "arguments"))
    return "", calls


def _decode(text: str) -> tuple[Any, str]:
    try:
        value, end = _DECODER.raw_decode(text)
    except RecursionError:
        raise CallSyntaxError("nested too deeply") from None
    except ValueError as error:
        raise CallSyntaxError(f"a call is not JSON: {error}") from None
    return value, text[end:]


def _call(value: Any, key: str) -> Call:
    if not isinstance(value, dict) or value.keys() != {"name", key} or not isinstance(value["name"], str):
        raise CallSyntaxError(f"a call is not an object of name and {key}")
    arguments = value[key]
    if isinstance(arguments, str):
        try:
            arguments = strict_json(arguments)
        except ValueError as error:
            raise CallSyntaxError(f"{key} is text that is not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise CallSyntaxError(f"{key} is not an object")
    return {"name": value["name"], "arguments": arguments}


# -- writing ----------------------------------------------------------------------------------------------------------

# "<\/" is "</" in JSON: no argument can close the block that it stands in.
_HERMES = """\
{{- message.content or '' -}}
{%- for call in message.tool_calls -%}
{%- set call = call.function or call -%}
{%- set given = call.arguments if call.arguments is string else call.arguments | tojson -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{%- set written = '{"name": ' ~ call.name | tojson ~ ', "arguments": ' ~ given ~ '}' -%}
{{- '<tool_call>\\n' ~ written | replace('</', '<\\\\/') ~ '\\n</tool_call>' -}}
{%- endfor -%}
"""
_ALONE = """\
{%- if message.content -%}
{{- raise_exception('this call format has no room for text beside the calls; call_format hermes has') -}}
{%- endif -%}
"""
_LLAMA3 = f"""\
{_ALONE}\
{{%- for call in message.tool_calls -%}}
{{%- set call = call.function or call -%}}
{{%- set given = call.arguments if call.arguments is string else call.arguments | tojson -%}}
{{{{- '; ' if not loop.first else '' -}}}}
{{{{- '{{"name": ' ~ call.name | tojson ~ ', "parameters": ' ~ given ~ '}}' -}}}}
{{%- endfor -%}}
"""
_OPENAI = f"""\
{_ALONE}\
{{{{- '[' -}}}}
{{%- for call in message.tool_calls -%}}
{{%- set call = call.function or call -%}}
{{%- set given = call.arguments if call.arguments is string else call.arguments | tojson -%}}
{{{{- '{{"type": "function", "function": {{"name": ' ~ call.name | tojson ~ ', "arguments": ' -}}}}
{{{{- given | tojson ~ '}}}}' ~ ('' if loop.last else ', ') -}}}}
{{%- endfor -%}}
{{{{- ']' -}}}}
"""

FORMATS: Mapping[str, CallFormat] = {
    "hermes": CallFormat(
        _HERMES,
        'To call one, write\\n<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>\\n'
        "and a block like it for each further call.",
        _read_hermes,
    ),
    "llama3": CallFormat(
        _LLAMA3,
        'To call one, write only {"name": NAME, "parameters": OBJECT}; with several, put "; " between them.',
        _read_llama3,
    ),
    "openai": CallFormat(
        _OPENAI,
        'To call them, write only [{"type": "function", "function": {"name": NAME, "arguments": JSON TEXT}}].',
        _read_openai,
    ),
}

# `turned` collects what the template behind sees. Answers of tools that follow each other are one user turn, and a
# user's next turn goes on in it: many templates want user and assistant to alternate.
_HEAD = """\
{%- set turned = namespace(turns=[], lead='', answers='') -%}
{%- if tools -%}
{%- set turned.lead -%}
{{- '# Tools\\n\\nThese functions can be called:\\n<tools>\\n' -}}
{%- for tool in tools -%}
{%- set tool = tool.function or tool -%}
{{- {'name': tool.name, 'description': tool.description or '', 'parameters': tool.parameters or {}} | tojson ~ '\\n' -}}
{%- endfor -%}
{{- '</tools>\\n\\n@manual@' -}}
{%- endset -%}
{%- endif -%}
{%- if turned.lead and '@into@' == 'system' and (not messages or messages[0].role != 'system') -%}
{%- set turned.turns = [{'role': 'system', 'content': turned.lead}] -%}
{%- set turned.lead = '' -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- set turned.answers = turned.answers ~ ('\\n' if turned.answers else '') -%}
{%- set turned.answers = turned.answers ~ '<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' -%}
{%- else -%}
{%- set content = message.content or '' -%}
{%- if turned.answers and message.role == 'user' -%}
{%- set content = turned.answers ~ '\\n\\n' ~ content -%}
{%- elif turned.answers -%}
{%- set turned.turns = turned.turns + [{'role': 'user', 'content': turned.answers}] -%}
{%- endif -%}
{%- set turned.answers = '' -%}
{%- if turned.lead and message.role == '@into@' -%}
{%- set content = @lead@ -%}
{%- set turned.lead = '' -%}
{%- endif -%}
{%- if message.tool_calls -%}
{%- set content -%}
@source@
{%- endset -%}
{%- endif -%}
{%- set turned.turns = turned.turns + [{'role': message.role, 'content': content}] -%}
{%- endif -%}
{%- endfor -%}
{%- if turned.answers -%}
{%- set turned.turns = turned.turns + [{'role': 'user', 'content': turned.answers}] -%}
{%- endif -%}
{%- set messages = turned.turns -%}
{%- set tools = none -%}
{{- '' }}"""


def teach(template: ChatTemplate, name: str) -> ChatTemplate:
    """The template with a head that speaks the call format `name`; one that has this head already stays as it is.

    Tools are described in the system text, or, where the template refuses or drops one, in the first question.
    """
    into = "system" if _takes_system(template) else "user"
    after = "turned.lead ~ '\\n\\n' ~ content" if into == "user" else "content ~ '\\n\\n' ~ turned.lead"
    call_format = FORMATS[name]
    head = _HEAD.replace("@manual@", call_format.manual).replace("@into@", into).replace("@lead@", after)
    head = head.replace("@source@\n", call_format.source)
    if template.text.startswith(head):
        return template
    return ChatTemplate(head + template.text, template.special_tokens)


def write_calls(name: str, text: str, calls: Sequence[Call]) -> str:
    """An assistant's turn in a call format.

    Raises:
        TemplateError: the format has no room for text beside calls.
    """
    if not calls:
        return text
    return _writer(name).render([{"role": "assistant", "content": text, "tool_calls": list(calls)}])


@functools.cache
def _writer(name: str) -> ChatTemplate:
    return ChatTemplate("{%- set message = messages[0] -%}" + FORMATS[name].source)


def read_answer(name: str, answer: str) -> tuple[str, list[Call]]:
    """The text and the calls of an assistant's turn.

    Raises:
        CallSyntaxError: it begins a call and does not end it.
    """
    return FORMATS[name].read(answer)


_SYSTEM = "\ue103"


def _takes_system(template: ChatTemplate) -> bool:
    """True if a system text is shown, and stays where it is when the conversation goes on (Mistral's moves on to the
    last question)."""
    asked = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "x"}]
    more = [*asked, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}]
    try:
        before, sign, _ = template.render(asked, add_generation_prompt=True).partition(_SYSTEM)
        return bool(sign) and template.render(more, add_generation_prompt=True).startswith(before + sign)
    except TemplateError:
        return False


_PROBES = {"the tools on offer": "\ue104", "a call's name": "\ue105", "arguments": "\ue106", "tools' answers": "\ue107"}


class Speech(NamedTuple):
    """What of tools a row holds, and so its template has to write."""

    tools: bool
    calls: bool
    answers: bool

    @classmethod
    def of(cls, example: AnyExample) -> Speech:
        messages = example.all_messages()
        return cls(
            bool(example.tools),
            any(message.get("tool_calls") for message in messages),
            any(message["role"] == "tool" for message in messages),
        )


ALL_OF_IT = Speech(True, True, True)


def check_speaks(
    template: ChatTemplate,
    speech: Speech = ALL_OF_IT,
    hint: str = "set call_format to hermes (or llama3, openai), which teaches the template that format",
) -> None:
    """Renders a conversation of this kind: many templates silently drop what they do not know.

    Raises:
        TemplateError: names what is missing, or what the template says.
    """
    tool, name, argument, result = _PROBES.values()
    talk: list[Message] = [{"role": "user", "content": "x"}]
    if speech.calls or speech.answers:
        calls = {"tool_calls": [{"name": name, "arguments": {argument: 1}}]} if speech.calls else {}
        talk.append({"role": "assistant", "content": "" if calls else "x", **calls})
    if speech.answers:
        talk.append({"role": "tool", "content": f'"{result}"'})
    if speech.answers or not speech.calls:
        talk.append({"role": "assistant", "content": "x"})
    schema = {"type": "object", "properties": {argument: {"type": "integer"}}}
    tools = [{"name": tool, "description": "x", "parameters": schema}] if speech.tools else []
    try:
        text = template.render(talk, tools)
    except TemplateError as error:
        raise TemplateError(f"the chat template does not know tool calls: {error}", hint=hint) from None
    wanted = dict(zip(_PROBES, (speech.tools, speech.calls, speech.calls, speech.answers), strict=True))
    missing = [what for what, mark in _PROBES.items() if wanted[what] and mark not in text]
    if missing:
        raise TemplateError(f"the chat template does not write {', '.join(missing)}", hint=hint)
