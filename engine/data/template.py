"""Chat templates: a built-in one or any other as text, rendered within limits. Imports no torch and no transformers.

A template sees what templates in the field expect: tools and calls in OpenAI's form, {"type": "function", "function":
{...}}, each call with an id of nine letters and digits, which the tool's answer repeats.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from posttrain.engine.data.builtin import BUILTIN
from posttrain.engine.data.examples import Message
from posttrain.engine.data.sandbox import Sandbox
from posttrain.engine.errors import TemplateError
from posttrain.engine.spec import sha256_text

CHATML, TURN_END = BUILTIN["chatml"].text, BUILTIN["chatml"].stop_token
# What a template finds out about itself by being asked to render a call.
_CALLING: list[Message] = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
]


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
        has_calls = any(message.get("tool_calls") for message in messages)
        return self._render(messages, tools, add_generation_prompt, has_calls and self._wants_text_arguments)

    @functools.cached_property
    def _wants_text_arguments(self) -> bool:
        """True of a template that joins a call's arguments to text, so that they have to be JSON text (DeepSeek's)."""
        for as_text in (False, True):
            try:
                self._render(_CALLING, (), False, as_text)
            except TemplateError:
                continue
            return as_text
        return False

    def _render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], prompts: bool, text_arguments: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        variables = {
            **self.special_tokens,
            # Own copies out of plain JSON types: the template cannot reach what the caller holds.
            "messages": _present([_plain(message) for message in messages], text_arguments),
            "tools": [_Function(_plain(tool)) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": prompts,
        }
        try:
            return self._sandbox.render(variables)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template fails: {error}") from None


class _Function(dict[str, Any]):
    """A tool or a call in OpenAI's form. A template written for the bare form finds `name` and the others as well."""

    def __init__(self, given: dict[str, Any], **fields: Any) -> None:
        super().__init__(type="function", **fields, function=given.get("function", given))

    def __missing__(self, key: str) -> Any:
        return self["function"][key]


def _present(messages: list[Message], text_arguments: bool) -> list[Message]:
    """The messages with calls as functions with ids, and each tool's answer with the id and name of its call, which
    is the next one in order."""
    waiting: list[_Function] = []
    number = 0
    for message in messages:
        if message.get("tool_calls"):
            waiting = []
            for call in message["tool_calls"]:
                waiting.append(_Function(call, id=f"call{number:05d}"))
                number += 1
                function = waiting[-1]["function"]
                if text_arguments and not isinstance(function["arguments"], str):
                    function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
            message["tool_calls"] = list(waiting)
        elif message["role"] == "tool" and waiting:
            call = waiting.pop(0)
            message["tool_call_id"] = call["id"]
            message.setdefault("name", call["function"]["name"])
    return messages


def builtin_template(name: str, special_tokens: Mapping[str, str] | None = None) -> ChatTemplate:
    """A template that this package ships.

    `special_tokens`: as of `ChatTemplate`; some begin with `bos_token`, if there is one.
    """
    return ChatTemplate(BUILTIN[name].text, special_tokens)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
