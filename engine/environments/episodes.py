"""Completions of several turns: calls are read from a turn's text, run, and answered in the chat template's words.

Only these words are encoded. The model's own tokens stay as they were sampled: its turns are rendered as calls with
nothing but a name, to find out what follows them, and what is rendered of them is thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import PromptRow
from posttrain.engine.data.examples import Message, PromptExample
from posttrain.engine.data.tool_calls import CallSyntaxError, read_answer
from posttrain.engine.environments.speech import CallSpeech
from posttrain.engine.environments.tools import ARGUMENT, SCHEMAS, TABLE, Toolbox, ToolError, printable
from posttrain.engine.errors import DataError, TemplateError
from posttrain.engine.policy_options import ToolEnvironment
from posttrain.engine.rollout import Episode, Reply, ToolResult

MAX_CALLS = 8  # of a turn
MAX_THREADS = 4
CUT = " ... (cut)"
ERROR = "error: "


def with_tools(example: PromptExample, options: ToolEnvironment, name: str) -> PromptExample:
    """The prompt with the tools that it is offered: its own, if it brings any, else all that can be used on it.

    Raises:
        DataError: it brings one that does not run, or whose argument has another name; or none can be used. Names the
            row.
    """
    table = example.target.get(TABLE)
    if table is not None and not isinstance(table, dict):
        raise DataError(f"{name}, field target.{TABLE}: must be an object of keys and values")
    usable = [tool for tool in options.tools if tool != "lookup" or table]
    if not usable:
        raise DataError(f"{name}: it has no target.{TABLE} for lookup, the only tool of the environment")
    for index, tool in enumerate(example.tools):
        place, own = f"{name}, field tools[{index}]", tool["name"]
        if own not in usable:
            why = f"needs target.{TABLE}" if own in options.tools else f"does not run ({', '.join(options.tools)} do)"
            raise DataError(f"{place}: {own!r} {why}", hint="leave tools out of the rows: those that run are offered")
        properties = tool["parameters"].get("properties")
        if not isinstance(properties, dict) or ARGUMENT[own] not in properties:
            raise DataError(f"{place}: {own} is called with {ARGUMENT[own]!r}, which its parameters lack")
    return example if example.tools else replace(example, tools=[SCHEMAS[tool] for tool in usable])


class ToolEpisodes:
    """The environment of some prompts (`rollout.Environment`). `rows` were encoded with their talk.

    What an episode answers is a function of its row and its turns: it may run at any time, beside any other.
    """

    def __init__(
        self,
        rows: Sequence[PromptRow],
        encoder: Encoder,
        tokenizer: Any,
        speech: CallSpeech,
        toolbox: Toolbox,
        options: ToolEnvironment,
    ) -> None:
        self._rows = rows
        self._encoder, self._tokenizer, self._speech = encoder, tokenizer, speech
        self._toolbox, self._options = toolbox, options

    @property
    def max_turns(self) -> int:
        return self._options.max_turns

    def episode(self, prompt: int) -> ToolEpisode:
        row = self._rows[prompt]
        talk = json.loads(row.talk)
        table = json.loads(row.target).get(TABLE, {})
        return ToolEpisode(self, row.name, talk["messages"], talk["tools"], table)

    def replies(self, asked: Sequence[tuple[Episode, Sequence[int], bool]]) -> list[Reply]:
        if not self._toolbox.is_slow or len(asked) < 2:
            return [episode.reply(ids, runs) for episode, ids, runs in asked]
        with ThreadPoolExecutor(MAX_THREADS) as threads:
            return list(threads.map(lambda each: each[0].reply(each[1], each[2]), asked))

    # -- of one episode ------------------------------------------------------------------------------------------------

    def calls(self, answer_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The calls in a turn. Raises CallSyntaxError: one cannot be read, or there are too many."""
        text = self._tokenizer.decode(list(answer_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        _, calls = read_answer(self._speech.name, text)
        if len(calls) > 1 and not self._speech.has_several:
            raise CallSyntaxError("only one call can be made at a time")
        if len(calls) > MAX_CALLS:
            raise CallSyntaxError(f"more than {MAX_CALLS} calls at a time")
        return calls

    @property
    def ends_at_bad_call(self) -> bool:
        return self._options.on_bad_call == "end"

    def run(self, call: Mapping[str, Any], table: Mapping[str, Any]) -> ToolResult:
        name, arguments = call["name"], json.dumps(call["arguments"])
        try:
            return ToolResult(name, arguments, self.cut(self._toolbox.call(name, call["arguments"], table)))
        except ToolError as error:
            return ToolResult(name, arguments, self.cut(ERROR + printable(str(error))), is_error=True)

    def cut(self, text: str) -> str:
        """At most `max_result_tokens` of it, and a sign that it was more."""
        limit = self._options.max_result_tokens
        kept = self._ids(text)
        if len(kept) <= limit:
            return text
        room = limit - len(self._ids(CUT))
        while room > 0:
            # Half a character decodes to a sign that has more tokens than it.
            found = str(self._tokenizer.decode(kept[:room], clean_up_tokenization_spaces=False)).rstrip("\ufffd") + CUT
            if len(self._ids(found)) <= limit:
                return found
            room -= 1
        return ""

    def follow(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_answers: int) -> list[int]:
        return self._encoder.tool_turns(messages, tools, num_answers)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


@dataclass
class ToolEpisode:
    """One completion: the conversation so far, the model's turns as bare calls."""

    environment: ToolEpisodes
    name: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    table: Mapping[str, Any] = field(default_factory=dict)

    def reply(self, answer_ids: Sequence[int], runs: bool) -> Reply:
        """See `rollout.Episode`.

        Raises:
            TemplateError: the template cannot go on; names the row.
        """
        try:
            calls = self.environment.calls(answer_ids)
        except CallSyntaxError as error:
            text = self.environment.cut(ERROR + printable(str(error)))
            results = [ToolResult("", "", text, is_error=True, is_malformed=True)]
            names = ["unreadable"]
            if not runs or self.environment.ends_at_bad_call:
                return Reply(True, tuple(results), ends=self.environment.ends_at_bad_call)
        else:
            if not calls or not runs:
                return Reply(bool(calls))
            results = [self.environment.run(call, self.table) for call in calls]
            names = [call["name"] if call["name"] in SCHEMAS else "unknown" for call in calls]
        turn: Message = {"role": "assistant", "content": "", "tool_calls": [_bare(name) for name in names]}
        answers: list[Message] = [{"role": "tool", "content": result.text} for result in results]
        self.messages = [*self.messages, turn, *answers]
        try:
            return Reply(True, tuple(results), self.environment.follow(self.messages, self.tools, len(answers)))
        except (TemplateError, DataError) as error:
            raise type(error)(f"{self.name}: {error}", hint=error.hint) from None


def _bare(name: str) -> dict[str, Any]:
    return {"name": name, "arguments": {}}
