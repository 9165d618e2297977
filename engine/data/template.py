"""Chat templates: the built-in `chatml`, any other as text, and rendering within limits. Imports no torch and no
transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from posttrain.engine.data.examples import Message
from posttrain.engine.data.sandbox import Sandbox
from posttrain.engine.errors import TemplateError
from posttrain.engine.spec import sha256_text

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

# Tools stand in a system block of their own, one compact JSON object a line; a tool's answer is a turn of role `tool`.
CHATML = """\
{%- macro compact(value) -%}{{ value | tojson(separators=(',', ':')) }}{%- endmacro -%}
{%- if tools -%}
{{- '<|im_start|>system\\n# Tools\\n' -}}
{%- for tool in tools -%}
{{- compact({'name': tool.name, 'description': tool.description, 'parameters': tool.parameters}) -}}
{{- '\\n' if not loop.last else '' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('unknown role ' ~ message.role) -}}
{%- endif -%}
{{- '<|im_start|>' ~ message.role ~ '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>' ~ compact({'name': call.name, 'arguments': call.arguments}) ~ '</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- message.content -}}
{{- '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

BUILTIN = {"chatml": CHATML}


class ChatTemplate:
    """A chat template's text, ready to render.

    `special_tokens` are the tokenizer's named tokens that templates refer to (`bos_token`, `eos_token`, ...).

    Raises:
        TemplateError: the text is not a jinja2 template.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self.text = text
        self.special_tokens = dict(special_tokens or {})
        try:
            self._sandbox = Sandbox(text)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"the chat template cannot be read: {error}") from None

    @functools.cached_property
    def digest(self) -> str:
        """Hex sha256 of the template's text: equal text, equal prompts."""
        return sha256_text(self.text)

    @property
    def marks_generation(self) -> bool:
        """True if the template itself says which text is the assistant's (`{% generation %}`)."""
        return self._sandbox.has_generation

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text.

        Raises:
            TemplateError: the template refuses these messages, fails, or exceeds its limits.
        """
        return self.render_marked(messages, tools, add_generation_prompt=add_generation_prompt)[0]

    def render_marked(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text and the character spans of `{% generation %}` blocks; see `render`."""
        variables = {
            **self.special_tokens,
            # Own copies out of plain JSON types: the template cannot reach what the caller holds.
            "messages": [_plain(message) for message in messages],
            "tools": [_plain(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._sandbox.render(variables)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template fails: {error}") from None


def builtin_template(name: str) -> ChatTemplate:
    """A template that this package ships."""
    return ChatTemplate(BUILTIN[name])


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
