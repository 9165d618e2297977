"""From messages to token ids and a loss mask, with any chat template. Takes a tokenizer as an argument; imports no
torch.

Two rules:

1. Training sees the tokens that generation sees. The ids of a prompt are the encoding of its text alone; an answer's
   ids follow them.
   Where a tokenizer would merge across the border, the answer is encoded by itself.
2. Text is data. A special token's spelling inside a message ("<|im_end|>") is encoded as ordinary text, so no row can
   forge a turn.

Which text is the assistant's: `{% generation %}` blocks where the template has them; else the difference between the
conversation rendered up to the turn (with the generation prompt) and after it, refused where the first is no prefix
of the second.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal

from posttrain.engine.data.encoded import Group, PromptRow, Row, grow
from posttrain.engine.data.examples import Example, LabelledExample, Message, PairExample, PromptExample
from posttrain.engine.data.growing import Anchors, GrowingIds
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.errors import DataError, MaskedLabelsError, TemplateError

LossOn = Literal["all_turns", "last_turn"]

# Private-use characters stand for spellings of special tokens (and for themselves) while a template is rendered.
_FIRST, _LAST = 0xF2000, 0xF2FFF
_APPEND = "tools that run need a template to which answers can be appended: set template to a built-in one"
_RESERVED = "[\U000f1000-\U000f2fff]"


class Encoder:
    """Encodes conversations with one tokenizer and one chat template.

    `stop_ids` end a turn at generation; each trained turn must train one of them.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._stop_ids = frozenset(stop_ids)
        added = tokenizer.added_tokens_decoder
        self._special_ids = frozenset(index for index, token in added.items() if token.special)
        spellings = sorted((added[index].content for index in self._special_ids), key=len, reverse=True)
        self._forged = re.compile("|".join([*map(re.escape, spellings), _RESERVED]))
        self._sentinel = re.compile(f"([{chr(_FIRST)}-{chr(_LAST)}])")
        self._newline = self._encode("\n")
        self._spellings = spellings
        self._anchors = Anchors.of(tokenizer)
        self._opened: set[tuple[Any, ...]] = set()

    @property
    def template(self) -> ChatTemplate:
        return self._template

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Ids of the conversation up to where the assistant's next turn begins.

        Raises:
            TemplateError: the template refuses the messages.
        """
        (messages, tools), literals = self._guard((list(messages), list(tools)))
        return self._ids(self._template.render(messages, tools, add_generation_prompt=True), literals)

    def tool_turns(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_answers: int) -> list[int]:
        """Ids of what stands between the stop token of an assistant's turn and its next turn: the template's end of
        the turn, `num_answers` tools' answers, which `messages` ends with, and the beginning of a turn.

        Raises:
            TemplateError: the template writes what comes before otherwise when tools have answered, so that nothing
            can be appended; or it refuses the messages.
        """
        (kept, given), literals = self._guard((list(messages), list(tools)))
        turn = len(kept) - num_answers
        closed, _, end = self._turn(kept[:turn], given)
        whole = self._template.render(kept, given, add_generation_prompt=True)
        if not whole.startswith(closed[:end]):
            raise TemplateError("the template changes what stands before a tool's answer", hint=_APPEND)
        return self._inner(whole[end:], literals)

    def turn_text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
        """What a model has to write for the last message, an assistant's turn, without the stop token. Raises as
        `tool_turns`."""
        text, start, end = self._turn(list(messages), list(tools))
        return next(text[start:end].removesuffix(stop) for stop in self._stops() if text[:end].endswith(stop))

    def _turn(self, messages: list[Message], tools: list[dict[str, Any]]) -> tuple[str, int, int]:
        """The conversation, and from where to where its last turn is generated, the stop token included."""
        asked = self._template.render(messages[:-1], tools, add_generation_prompt=True)
        closed = self._template.render(messages, tools)
        if not closed.startswith(asked):
            raise TemplateError("the template writes an assistant's turn otherwise when it is read back", hint=_APPEND)
        ends = [place + len(stop) for stop in self._stops() if (place := closed.find(stop, len(asked))) >= 0]
        if not ends:
            raise TemplateError(f"the template ends a turn without any of {self._stop_names()}", hint=_APPEND)
        return closed, len(asked), min(ends)

    def _stops(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder
        return [added[index].content for index in sorted(self._stop_ids) if index in added]

    def plain(self, text: str) -> list[int]:
        """Ids of text outside any template, with the tokenizer's own first token if it sets one; special spellings
        stay text."""
        guarded, literals = self._guard(text)
        ids = self._ids(guarded, literals)
        start = self._tokenizer.bos_token_id
        adds_start = start is not None and self._tokenizer("a")["input_ids"][:1] == [start]
        return [start, *ids] if adds_start else ids

    def row(self, example: Example, loss_on: LossOn, source: str = "", number: int = 0) -> Row:
        """Ids and loss mask of a training row; turns after the last assistant turn are dropped.

        Raises:
            TemplateError: the template refuses the messages, hides which text is the assistant's, or never trains a
            stop token. MaskedLabelsError: no assistant turn.
        """
        last = max((i for i, message in enumerate(example.messages) if message["role"] == "assistant"), default=-1)
        first = last if loss_on == "last_turn" else 0
        return self._conversation(example.messages, example.tools, first, source, number)

    def pair(self, example: PairExample, source: str = "", number: int = 0) -> Group:
        """A preference pair, of which chosen is the first branch; all assistant turns after the prompt are trained.

        Raises:
            TemplateError, MaskedLabelsError: as `row`. DataError: the two answers are the same tokens, or no token
            stands before them.
        """
        answers = {"chosen": example.chosen, "rejected": example.rejected}
        rows = []
        for name, answer in answers.items():
            messages = [*example.prompt, *answer]
            rows.append(self._conversation(messages, example.tools, len(example.prompt), source, number, name))
        group = grow(rows, source, number, example.margin)
        chosen, rejected = group.branches
        if chosen == rejected:
            raise DataError(f"{source} row {number}: chosen and rejected are the same, so neither is preferred")
        return group

    def question(
        self, example: PromptExample, source: str = "", number: int = 0, *, keeps_talk: bool = False
    ) -> PromptRow:
        """A prompt that is to be answered, with what answers are judged by; `keeps_talk`: also as messages and tools,
        for answers of several turns.

        Raises:
            TemplateError: the template refuses the messages. DataError: no token stands before the answer.
        """
        try:
            ids = self.prompt(example.prompt, example.tools)
        except (TemplateError, DataError) as error:
            raise type(error)(f"{source} row {number}: {error}", hint=error.hint) from None
        if not ids:
            raise DataError(f"{source} row {number}: the prompt has no token")
        target = json.dumps(example.target, sort_keys=True)
        talk = json.dumps({"messages": example.prompt, "tools": example.tools}) if keeps_talk else ""
        return PromptRow(array("i", ids), example.checker, target, source, number, talk)

    def labelled(self, example: LabelledExample, source: str = "", number: int = 0) -> Group:
        """An answer with a label, as a group of one branch.

        Raises:
            TemplateError, MaskedLabelsError: as `row`. DataError: no token stands before the answer.
        """
        messages = [*example.prompt, *example.completion]
        row = self._conversation(messages, example.tools, len(example.prompt), source, number)
        return grow([row], source, number, is_desirable=example.is_desirable)

    def _conversation(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]],
        first: int,
        source: str,
        number: int,
        field: str = "",
    ) -> Row:
        """The row in which the assistant's turns among messages[first:] are trained."""
        where = f"{source} row {number}" + (f", field {field}" if field else "")
        turns = [i for i, message in enumerate(messages) if i >= first and message["role"] == "assistant"]
        if not turns:
            raise MaskedLabelsError(f"{where}: no assistant turn, so nothing is trained")
        try:
            (kept, given), literals = self._guard((messages[: turns[-1] + 1], tools))
            find = self._marked_spans if self._template.marks_generation else self._prefix_spans
            text, spans = find(kept, given, turns)
            return self._assemble(text, spans, literals, source, number)
        except (TemplateError, DataError) as error:
            raise type(error)(f"{where}: {error}", hint=error.hint) from None

    # -- spans of assistant text ---------------------------------------------------------------------------------------

    def _marked_spans(
        self, messages: list[Message], tools: list[dict[str, Any]], turns: list[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        text, spans = self._template.render_marked(messages, tools)
        num_turns = sum(message["role"] == "assistant" for message in messages)
        if len(spans) != num_turns:
            raise TemplateError(f"the template marks {len(spans)} generation blocks in {num_turns} assistant turns")
        # The marks say what is trained, not what it is asked for; conversations of the same roles are opened alike.
        shape = (*(message["role"] for message in messages), bool(tools))
        if shape not in self._opened:
            if text[: spans[-1][0]] != self._template.render(messages[:-1], tools, add_generation_prompt=True):
                raise TemplateError(
                    "the template's generation prompt is not what stands before its last generation block, so what is "
                    "trained would not be what is asked for",
                    hint="let {% generation %} begin where the generation prompt ends",
                )
            self._opened.add(shape)
        return text, spans[-len(turns) :]

    def _prefix_spans(
        self, messages: list[Message], tools: list[dict[str, Any]], turns: list[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        whole = self._template.render(messages, tools)
        spans = []
        for i in turns:
            before = self._template.render(messages[:i], tools, add_generation_prompt=True)
            after = self._template.render(messages[: i + 1], tools)
            if not whole.startswith(after):
                # Phi-3's ends each conversation with a token of its own.
                after = after.removesuffix(next(filter(after.endswith, self._spellings), ""))
            if not after.startswith(before) or not whole.startswith(after):
                raise TemplateError(
                    f"the template renders turn {i + 1} differently when it is generated than when it is read back, "
                    "so what is trained would not be what is asked for",
                    hint="set loss_on: last_turn, mark the assistant's text with {% generation %}, or use chatml",
                )
            spans.append((len(before), len(after)))
        return whole, spans

    # -- ids -----------------------------------------------------------------------------------------------------------

    def _assemble(self, text: str, spans: list[tuple[int, int]], literals: list[str], source: str, number: int) -> Row:
        growing = GrowingIds(
            text, lambda part: self._ids(part, literals), lambda part: self._inner(part, literals), self._anchors
        )
        ids = growing.ids
        is_target = bytearray()
        for start, end in spans:
            growing.extend(start)
            is_target.extend(bytes(len(ids) - len(is_target)))
            growing.extend(end)
            turn = ids[len(is_target) :]
            stops = [i for i, token in enumerate(turn) if token in self._stop_ids]
            if not stops:
                raise TemplateError(
                    f"no stop token is trained: the assistant's text ends with {text[start:end][-24:]!r}, "
                    f"and none of the stop tokens {self._stop_names()} is in it, so the model would never stop",
                    hint="put the end-of-turn token into the generation block, or use the built-in template chatml",
                )
            # What a template writes after the first stop token is never generated.
            is_target.extend(b"\1" * (stops[0] + 1) + bytes(len(turn) - stops[0] - 1))
        used = is_target.rindex(1) + 1  # what follows the last trained token need not be computed
        return Row(array("i", ids[:used]), bytes(is_target[:used]), source, number)

    def _ids(self, text: str, literals: list[str]) -> list[int]:
        if not literals:
            return self._encode(text)
        pieces = self._sentinel.split(text)
        ids = self._encode(pieces[0])
        for index, piece in enumerate(pieces[1:], start=1):
            is_literal = index % 2 == 1
            ids += (
                self._literal(literals[ord(piece) - _FIRST]) if is_literal else self._after_newline(piece, self._encode)
            )
        return ids

    def _inner(self, text: str, literals: list[str]) -> list[int]:
        if self._sentinel.search(text):
            return self._ids(text, literals)
        return self._after_newline(text, self._encode)

    def _literal(self, spelling: str) -> list[int]:
        ids = self._after_newline(spelling, self._encode_as_text)
        if self._special_ids.intersection(ids):
            raise DataError(f"the text {spelling!r} cannot be encoded as ordinary text by this tokenizer")
        return ids

    def _after_newline(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Encodes a piece from the middle: SentencePiece adds a space at the start of a text, but none after a
        newline."""
        if not text:
            return []
        ids = encode("\n" + text)
        num = len(self._newline)
        return ids[num:] if ids[:num] == self._newline else encode(text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        return ids

    def _encode_as_text(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _guard(self, value: Any) -> tuple[Any, list[str]]:
        """The value with each spelling of a special token replaced by a private character, and what these stand for."""
        literals: list[str] = []

        def stand_in(match: re.Match[str]) -> str:
            if match[0] not in literals:
                literals.append(match[0])
            index = literals.index(match[0])
            if index > _LAST - _FIRST:
                raise DataError("the row spells too many different special tokens")
            return chr(_FIRST + index)

        def walk(item: Any) -> Any:
            if isinstance(item, str):
                return self._forged.sub(stand_in, item)
            if isinstance(item, dict):
                return {walk(key): walk(inner) for key, inner in item.items()}
            if isinstance(item, list | tuple):
                return [walk(inner) for inner in item]
            return item

        return walk(value), literals

    def _stop_names(self) -> list[str]:
        return [str(self._tokenizer.convert_ids_to_tokens(index)) for index in sorted(self._stop_ids)]
