"""The chat templates that this package ships, for a base that has none. One declaration each: text, the tokens that
its turns need, and the one that ends an answer. Imports nothing.

Marks and tokens are those of the model family that a template is named after, so that its text is what a reader (or a
serving stack) knows. Three things are the same in all of them. Tools stand before the conversation, one compact JSON
object a line; a call is written `<tool_call>{"name":...,"arguments":{...}}</tool_call>`, which is what the suite
`tool_use` reads; and earlier turns never change when later ones are added, so every turn can be trained as it is
generated. That is where they differ from the families' own (Mistral's puts tools before the last question).

Left out is what makes a poor choice for a new model: Llama 2, whose marks are no tokens, so that a user can write them,
and DeepSeek, whose tool results are followed by an answer without any mark.
"""

from __future__ import annotations

from dataclasses import dataclass

_COMPACT = """\
{%- macro compact(value) -%}{{ value | tojson(separators=(',', ':')) }}{%- endmacro -%}
"""
# Both forms are read: {"name", ...} and OpenAI's {"type": "function", "function": {...}}.
_TOOLS = """\
{%- for tool in tools -%}
{%- set tool = tool.function or tool -%}
{{- compact({'name': tool.name, 'description': tool.description or '', 'parameters': tool.parameters or {}}) -}}
{{- '\\n' if not loop.last else '' -}}
{%- endfor -%}
"""
_ANSWER = """\
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>{"name":' ~ compact(call.name) ~ ',"arguments":' -}}
{{- call.arguments if call.arguments is string else compact(call.arguments) -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
"""
# A header with the role's name opens each turn.
_HEADERS = f"""\
{_COMPACT}\
@start@\
{{%- if tools -%}}
{{{{- '@open@system@name_end@# Tools\\n' -}}}}
{_TOOLS}\
{{{{- '@end@@after@' -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
{{%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}}
{{{{- raise_exception('unknown role ' ~ message.role) -}}}}
{{%- endif -%}}
{{{{- '@open@' ~ @role@ ~ '@name_end@' -}}}}
{{%- if message.role == 'assistant' -%}}
{{%- generation -%}}
{_ANSWER}\
{{{{- '@end@' -}}}}
{{%- endgeneration -%}}
{{%- else -%}}
{{{{- message.content -}}}}
{{{{- '@end@' -}}}}
{{%- endif -%}}
{{{{- '@after@' -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{{{{- '@open@assistant@name_end@' -}}}}
{{%- endif -%}}
"""
_BEGIN = "{{- bos_token or '' -}}\n"

_GEMMA = f"""\
{_COMPACT}\
{_BEGIN}\
{{%- set lead -%}}
{{%- if tools -%}}
{{{{- '# Tools\\n' -}}}}
{_TOOLS}\
{{{{- '\\n\\n' -}}}}
{{%- endif -%}}
{{%- if messages[0].role == 'system' -%}}
{{{{- messages[0].content ~ '\\n\\n' -}}}}
{{%- endif -%}}
{{%- endset -%}}
{{%- for message in messages -%}}
{{%- if message.role == 'assistant' -%}}
{{{{- '<start_of_turn>model\\n' -}}}}
{{%- generation -%}}
{_ANSWER}\
{{{{- '<end_of_turn>' -}}}}
{{%- endgeneration -%}}
{{{{- '\\n' -}}}}
{{%- elif message.role == 'user' -%}}
{{{{- '<start_of_turn>user\\n' -}}}}
{{{{- lead if loop.index0 == (1 if messages[0].role == 'system' else 0) else '' -}}}}
{{{{- message.content ~ '<end_of_turn>\\n' -}}}}
{{%- elif message.role == 'tool' -%}}
{{{{- '<start_of_turn>user\\n<tool_response>' ~ message.content ~ '</tool_response><end_of_turn>\\n' -}}}}
{{%- elif not loop.first -%}}
{{{{- raise_exception('a system text can only be the first message, and only a user, assistant or tool follows') -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{{{{- '<start_of_turn>model\\n' -}}}}
{{%- endif -%}}
"""

_MISTRAL = f"""\
{_COMPACT}\
{_BEGIN}\
{{%- if tools -%}}
{{{{- '[AVAILABLE_TOOLS]' -}}}}
{_TOOLS}\
{{{{- '[/AVAILABLE_TOOLS]' -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
{{%- if message.role == 'assistant' -%}}
{{%- generation -%}}
{_ANSWER}\
{{{{- '</s>' -}}}}
{{%- endgeneration -%}}
{{%- elif message.role == 'user' -%}}
{{{{- '[INST]' ~ message.content ~ '[/INST]' -}}}}
{{%- elif message.role == 'system' -%}}
{{{{- '[SYSTEM_PROMPT]' ~ message.content ~ '[/SYSTEM_PROMPT]' -}}}}
{{%- elif message.role == 'tool' -%}}
{{{{- '[TOOL_RESULTS]' ~ message.content ~ '[/TOOL_RESULTS]' -}}}}
{{%- else -%}}
{{{{- raise_exception('unknown role ' ~ message.role) -}}}}
{{%- endif -%}}
{{%- endfor -%}}
"""


@dataclass(frozen=True)
class Builtin:
    """A chat template with what a tokenizer must have for it.

    `turn_tokens` are special tokens that open and close turns, the stop token not among them. `ift` adds and trains
    those that the base lacks.
    """

    text: str
    stop_token: str
    turn_tokens: tuple[str, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        return (*self.turn_tokens, self.stop_token)


def _headers(start: str, opening: str, name_end: str, end: str, after: str, tool_role: str = "tool") -> str:
    role = "message.role"
    if tool_role != "tool":
        role = f"('{tool_role}' if message.role == 'tool' else message.role)"
    text = _HEADERS.replace("@start@", start).replace("@open@", opening).replace("@name_end@", name_end)
    text = text.replace("@end@", end).replace("@role@", role)
    return text.replace("{{- '@after@' -}}\n", "" if not after else "{{- '@after@' -}}\n").replace("@after@", after)


_ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
BUILTIN: dict[str, Builtin] = {
    "chatml": Builtin(_headers("", "<|im_start|>", r"\n", "<|im_end|>", r"\n"), "<|im_end|>", ("<|im_start|>",)),
    "llama3": Builtin(
        _headers(_BEGIN, "<|start_header_id|>", r"<|end_header_id|>\n\n", "<|eot_id|>", "", "ipython"),
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "zephyr": Builtin(_headers("", "<|", r"|>\n", "</s>", r"\n"), "</s>", _ROLE_TOKENS),
    "phi": Builtin(_headers("", "<|", r"|>\n", "<|end|>", r"\n"), "<|end|>", _ROLE_TOKENS),
    "gemma": Builtin(_GEMMA, "<end_of_turn>", ("<start_of_turn>",)),
    "mistral": Builtin(
        _MISTRAL,
        "</s>",
        tuple(
            mark
            for name in ("AVAILABLE_TOOLS", "SYSTEM_PROMPT", "INST", "TOOL_RESULTS")
            for mark in (f"[{name}]", f"[/{name}]")
        ),
    ),
}
