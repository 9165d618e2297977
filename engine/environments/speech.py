"""How a model calls: the format that its chat template writes calls in, and whether answers can be appended to it."""

from __future__ import annotations

from typing import Any, NamedTuple

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Message
from posttrain.engine.data.tool_calls import FORMATS, CallSyntaxError, read_answer
from posttrain.engine.errors import TemplateError

_CALLS: list[dict[str, Any]] = [
    {"name": "probe", "arguments": {"x": "1", "y": 2}},
    {"name": "other", "arguments": {"x": "3", "y": 4}},
]
_HINT = "train the base with kind: tool_use, whose call_format teaches its template one"
_ANSWER = "probed"


class CallSpeech(NamedTuple):
    """A call format by its name, and whether the template takes several calls in a turn."""

    name: str
    has_several: bool


def calls_of(encoder: Encoder, tokenizer: Any) -> CallSpeech:
    """What the encoder's template speaks, found by rendering two rounds of calls and answers.

    Raises:
        TemplateError: calls are written in no format that can be read, answers of tools cannot be appended, or are not
            shown.
    """
    talk: list[Message] = [{"role": "user", "content": "x"}]
    try:
        said = encoder.turn_text([*talk, {"role": "assistant", "content": "", "tool_calls": _CALLS[:1]}])
        name = _format_of(said)
        for _ in range(2):
            talk += [
                {"role": "assistant", "content": "", "tool_calls": _CALLS[:1]},
                {"role": "tool", "content": _ANSWER},
            ]
            if _ANSWER not in tokenizer.decode(encoder.tool_turns(talk, [], 1)):
                raise TemplateError("the template does not show what a tool answers", hint=_HINT)
    except TemplateError as error:
        hint = error.hint or _HINT
        raise TemplateError(f"environment: tools cannot run with this chat template: {error}", hint=hint) from None
    answers: list[Message] = [{"role": "tool", "content": _ANSWER}] * 2
    try:
        encoder.tool_turns([talk[0], {"role": "assistant", "content": "", "tool_calls": _CALLS}, *answers], [], 2)
    except TemplateError:
        return CallSpeech(name, has_several=False)
    return CallSpeech(name, has_several=True)


def _format_of(said: str) -> str:
    for name in FORMATS:
        try:
            text, calls = read_answer(name, said)
        except CallSyntaxError:
            continue
        if calls == _CALLS[:1] and not text.strip():
            return name
    known = ", ".join(FORMATS)
    raise TemplateError(f"it writes calls in none of the formats that are read ({known}): {said[:80]!r}", hint=_HINT)
