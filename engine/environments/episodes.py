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
from posttrain.engine.rollout import Reply, ToolResult

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


@dataclass
class ToolEpisode:
    """One completion: the conversation so far, in which the model's turns are bare calls."""

    name: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [str(tool["name"]) for tool in self.tools]


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
        table = json.loads(row.target).get(TABLE) or {}  # null, as a table of mixed rows has it
        return ToolEpisode(row.name, talk["messages"], talk["tools"], table)

    def replies(self, asked: Sequence[tuple[ToolEpisode, Sequence[int], bool]]) -> list[Reply]:
        """See `rollout.Environment`.

        Raises:
            TemplateError: the template cannot go on; names the row.
        """
        read = [self._read(ids) for _, ids, _ in asked]
        # Tools alone run beside each other: neither tokenizers nor templates may be used by several threads.
        jobs = [
            (call, episode)
            for (episode, _, runs), calls in zip(asked, read, strict=True)
            if runs and isinstance(calls, list)
            for call in calls
        ]
        if self._toolbox.is_slow and len(jobs) > 1:
            with ThreadPoolExecutor(MAX_THREADS) as threads:
                outcomes = iter(list(threads.map(self._run, jobs)))
        else:
            outcomes = map(self._run, jobs)
        replies = []
        for (episode, _, runs), calls in zip(asked, read, strict=True):
            if isinstance(calls, str):
                replies.append(self._told(episode, calls, runs))
            elif not calls or not runs:
                replies.append(Reply(bool(calls)))
            else:
                replies.append(self._answered(episode, [next(outcomes) for _ in calls]))
        return replies

    # -- of one turn ---------------------------------------------------------------------------------------------------

    def _read(self, answer_ids: Sequence[int]) -> list[dict[str, Any]] | str:
        """The calls in a turn, or why one cannot be read."""
        text = self._tokenizer.decode(list(answer_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        try:
            _, calls = read_answer(self._speech.name, text)
            json.dumps(calls)
        except CallSyntaxError as error:
            return str(error)
        except RecursionError:
            return "nested too deeply"
        if len(calls) > 1 and not self._speech.has_several:
            return "only one call can be made at a time"
        return calls if len(calls) <= MAX_CALLS else f"more than {MAX_CALLS} calls at a time"

    def _run(self, job: tuple[Mapping[str, Any], ToolEpisode]) -> ToolResult:
        """With all that the tool says."""
        call, episode = job
        name, arguments = call["name"], json.dumps(call["arguments"])
        try:
            return ToolResult(
                name, arguments, self._toolbox.call(name, call["arguments"], episode.table, episode.names)
            )
        except ToolError as error:
            return ToolResult(name, arguments, ERROR + printable(str(error)), is_error=True)

    def _told(self, episode: ToolEpisode, reason: str, runs: bool) -> Reply:
        result = ToolResult("", "", self.cut(ERROR + printable(reason)), is_error=True, is_malformed=True)
        if not runs or self._options.on_bad_call == "end":
            return Reply(True, (result,), ends=self._options.on_bad_call == "end")
        return self._followed(episode, ["unreadable"], [result])

    def _answered(self, episode: ToolEpisode, results: Sequence[ToolResult]) -> Reply:
        names = [result.name if result.name in SCHEMAS else "unknown" for result in results]
        return self._followed(episode, names, [replace(result, text=self.cut(result.text)) for result in results])

    def _followed(self, episode: ToolEpisode, names: Sequence[str], results: Sequence[ToolResult]) -> Reply:
        calls = [{"name": name, "arguments": {}} for name in names]
        episode.messages += [{"role": "assistant", "content": "", "tool_calls": calls}]
        episode.messages += [{"role": "tool", "content": result.text} for result in results]
        try:
            ids = self._encoder.tool_turns(episode.messages, episode.tools, len(results))
        except (TemplateError, DataError) as error:
            raise type(error)(f"{episode.name}: {error}", hint=error.hint) from None
        return Reply(True, tuple(results), ids)

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

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids
