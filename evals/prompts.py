"""How a question becomes the text and the token ids that a model sees: its own template, another version's, or a plain
prompt.

A rendered prompt is a `str` that carries its token ids, so that it passes through lm-eval's task objects unchanged
while text inside a message stays text (`posttrain.engine.data.encode`): a row cannot forge a turn. Under another
version's template a model encodes with its own tokenizer; special tokens that it does not have become plain text, and
so do the stops.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Message
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.errors import SpecError, TemplateError
from posttrain.engine.models import Loaded, load_tokenizer, own_template
from posttrain.engine.spec import OwnEvalTemplate, PlainEvalTemplate, VersionEvalTemplate, canonical_json, sha256_text
from posttrain.engine.task import EvaluateTask, ModelInput
from posttrain.evals.rows import TemplateInfo
from posttrain.evals.suites.load import Shot

PLAIN_QUESTION, PLAIN_ANSWER = "Question: {content}\nAnswer:", " {content}\n\n"


class RenderedPrompt(str):
    """A prompt's text with its token ids."""

    ids: tuple[int, ...]

    def __new__(cls, text: str, ids: Sequence[int] = ()) -> RenderedPrompt:
        prompt = super().__new__(cls, text)
        prompt.ids = tuple(ids)
        return prompt

    def __getnewargs__(self) -> tuple[str, tuple[int, ...]]:  # type: ignore[override]
        return (str(self), self.ids)  # copies keep what the text carries


@dataclass(frozen=True)
class Stops:
    """What ends an answer, beside the cap."""

    token_ids: tuple[int, ...]
    strings: tuple[str, ...] = ()


class Prompter(Protocol):
    """Renders the questions of one evaluation."""

    info: TemplateInfo

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], shots: Sequence[Shot]
    ) -> RenderedPrompt:
        """The prompt up to where the answer begins.

        Raises:
            TemplateError: the template refuses the messages.
        """
        ...

    def stops(self, shots: Sequence[Shot]) -> Stops: ...


class ChatPrompter:
    """Renders with a chat template."""

    def __init__(
        self,
        tokenizer: Any,
        template: ChatTemplate,
        stop_ids: Sequence[int],
        info: TemplateInfo,
        special_tokens: Mapping[str, str],
    ) -> None:
        self.info = info
        self._template = ChatTemplate(template.text, special_tokens)
        self._encoder = Encoder(tokenizer, self._template, stop_ids)
        ids, strings = set(stop_ids), []
        turn_end, *starts = turn_marks(self._template)
        if turn_end:
            token = _single_token(tokenizer, turn_end)
            if token is None:
                # The model has no such token: it would write the mark as text, and then go on with the next turn.
                strings = [mark for mark in (turn_end, *starts) if mark]
            else:
                ids.add(token)
        self._stops = Stops(tuple(sorted(ids)), tuple(dict.fromkeys(strings)))

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], shots: Sequence[Shot]
    ) -> RenderedPrompt:
        text = self._template.render(messages, tools, add_generation_prompt=True)
        return RenderedPrompt(text, self._encoder.prompt(messages, tools))

    def stops(self, shots: Sequence[Shot]) -> Stops:
        return self._stops


class PlainPrompter:
    """Renders without any template: worked examples, then the question, as text that a base can continue."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int], num_shots: int, has_own: bool) -> None:
        digest = sha256_text(canonical_json({"format": [PLAIN_QUESTION, PLAIN_ANSWER], "num_shots": num_shots}))
        self.info = TemplateInfo(type="plain", digest=digest, source=f"plain, {num_shots} shots", has_own=has_own)
        self._encoder = Encoder(tokenizer, ChatTemplate(""), stop_ids)
        self._stop_ids = tuple(sorted(set(stop_ids)))
        self._num_shots = num_shots

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], shots: Sequence[Shot]
    ) -> RenderedPrompt:
        shown = [
            PLAIN_QUESTION.replace("{content}", shot.prompt) + PLAIN_ANSWER.replace("{content}", shot.answer)
            for shot in self._choose(shots)
        ]
        text = "".join(shown) + PLAIN_QUESTION.replace("{content}", plain_question(messages, tools))
        return RenderedPrompt(text, self._encoder.plain(text))

    def stops(self, shots: Sequence[Shot]) -> Stops:
        """A line's end, or an empty line where the worked examples show answers of several lines."""
        end = "\n\n" if any("\n" in shot.answer for shot in self._choose(shots)) else "\n"
        return Stops(self._stop_ids, (end, "Question:"))

    def _choose(self, shots: Sequence[Shot]) -> Sequence[Shot]:
        if len(shots) < self._num_shots:
            raise SpecError(
                f"template.num_shots is {self._num_shots}, but a task has {len(shots)} worked examples",
                hint="lower template.num_shots, or add shots to the suite's manifest",
            )
        return shots[: self._num_shots]


def turn_marks(template: ChatTemplate) -> list[str]:
    """What a template writes at the end of an assistant's turn, before the next user's, and before an assistant's.

    Empty texts where the template does not show them.

    Raises:
        TemplateError: the template refuses a plain conversation.
    """
    user, answer, again = "\ue100", "\ue101", "\ue102"
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    opening = template.render(messages[:1], add_generation_prompt=True)
    whole = template.render([*messages, {"role": "user", "content": again}])
    if user not in opening or answer not in whole or again not in whole:
        return ["", "", ""]
    between = whole[whole.index(answer) + 1 : whole.index(again)]
    tail = template.render(messages)
    end = tail[tail.index(answer) + 1 :].strip() if answer in tail else ""
    start = between.strip().removeprefix(end).strip()
    ask = opening[opening.index(user) + 1 :].strip().removeprefix(end).strip()
    return [end, start, ask]


def _single_token(tokenizer: Any, text: str) -> int | None:
    """The id of a text that is one of the tokenizer's special tokens, or None."""
    found = [
        index for index, token in tokenizer.added_tokens_decoder.items() if token.content == text and token.special
    ]
    return found[0] if found else None


def plain_question(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
    """A conversation as one question: the tools a line each, then the turns; a user's alone stands without a label."""
    lines = [json.dumps(tool, separators=(",", ":"), ensure_ascii=False) for tool in tools]
    if len(messages) == 1:
        return "\n".join([*lines, str(messages[0]["content"])])
    for message in messages:
        calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or []]
        parts = [str(message.get("content") or ""), *(f"<tool_call>{call}</tool_call>" for call in calls)]
        lines.append(f"{message['role']}: " + "\n".join(part for part in parts if part))
    return "\n".join(lines)


def require_template(template: ChatTemplate | None, ref: str) -> ChatTemplate:
    """The template, which has to be there.

    Raises:
        TemplateError: it is not.
    """
    if template is None:
        raise TemplateError(
            f"{ref} has no chat template of its own",
            hint="name another: template: {type: version, version: NAME@NUMBER}, or template: {type: plain}",
        )
    return template


def make_prompter(task: EvaluateTask, loaded: Loaded) -> Prompter:
    """How this evaluation renders its questions.

    Raises: TemplateError: `own` for a model without a template; `version` without a folder to take it from, or one
    without a template.
    """
    spec, tokenizer = task.spec.template, loaded.tokenizer
    has_own = loaded.template is not None
    if isinstance(spec, PlainEvalTemplate):
        return PlainPrompter(tokenizer, loaded.stop_ids, spec.num_shots, has_own)
    if isinstance(spec, VersionEvalTemplate):
        if not task.template_from:
            raise TemplateError(f"no folder was given to take the template of {spec.version} from")
        source = ModelInput(ref=spec.version, path=task.template_from, digest="", weights_digest="")
        template = require_template(own_template(load_tokenizer(source)), spec.version)
    else:
        assert isinstance(spec, OwnEvalTemplate)
        template = require_template(loaded.template, task.model.ref)
    info = TemplateInfo(
        type=spec.type,
        digest=template.digest,
        source=spec.version if isinstance(spec, VersionEvalTemplate) else task.model.ref,
        has_own=has_own,
    )
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return ChatPrompter(tokenizer, template, loaded.stop_ids, info, special)
