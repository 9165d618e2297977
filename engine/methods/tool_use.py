"""Tool-use tuning: supervised fine-tuning on conversations with tools.

The loss is SFT's, on what the assistant writes: calls and final answers, never a tool's answer. What is added is care
for the rows. Each call is checked against the tools on offer (`data/tool_schema.py`). A call that stands as text, in
Hermes tags, is read as a call. A chat template that would drop calls is an error; `call_format` teaches it one
(`data/tool_calls.py`). Rows that offer tools and call none teach a model to abstain; a note says how many there are.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Row
from posttrain.engine.data.examples import AnyExample, Example, Message
from posttrain.engine.data.rows import Problem
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.data.tool_calls import OPEN, CallSyntaxError, check_speaks, read_answer, teach
from posttrain.engine.errors import DataError
from posttrain.engine.events import Note
from posttrain.engine.methods.sft import SftMethod
from posttrain.engine.spec import ToolUseSpec

MAX_PROBLEMS = 10
Finding = tuple[str, str]  # field and reason


class ToolUseMethod(SftMethod):
    """Checks calls, and trains as SFT does."""

    _spec: ToolUseSpec

    def __init__(self, spec: ToolUseSpec) -> None:
        from posttrain.engine.data.tool_schema import check_calls  # importing jsonschema takes a tenth of a second

        super().__init__(spec)
        self._check_calls = check_calls
        self._template: ChatTemplate | None = None
        self._speaks = False
        self._counts: Counter[str] = Counter()
        self._problems: list[Problem] = []

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """As SFT's; with a call format that is named, the template is taught it and saved so."""
        template, row_ids = super().prepare_tokenizer(tokenizer)
        if self._spec.call_format != "template":
            template = teach(template, self._spec.call_format)
            tokenizer.chat_template = template.text
        self._template = template
        return template, row_ids

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> Row | None:
        """The row, or None if it has a wrong call.

        Raises:
            TemplateError: the row has tools or calls, and the template writes none.
        """
        assert isinstance(example, Example)
        example, found = _with_calls(example)
        if self._spec.require_tools and not example.tools:
            found.append(("tools", "no tools are on offer (require_tools: false allows that)"))
        found += self._check_calls(example)
        self._counts["rows"] += 1
        if found:
            self._counts["bad"] += 1
            if len(self._problems) < MAX_PROBLEMS:
                self._problems.append(Problem(number, *found[0]))
            return None
        num_calls = [len(message.get("tool_calls") or []) for message in example.messages]
        if (example.tools or any(num_calls)) and not self._speaks:
            assert self._template is not None
            check_speaks(self._template)
            self._speaks = True
        self._counts["calling"] += any(num_calls)
        self._counts["parallel"] += max(num_calls) > 1
        self._counts["abstaining"] += bool(example.tools) and not any(num_calls)
        return super().encode(example, encoder, source, number)

    def report(self, source: str) -> list[Note]:
        """Shares of rows that call and that abstain, and how many were left out.

        Raises:
            DataError: rows with wrong calls, and on_bad_call is fail.
        """
        counts, self._counts = self._counts, Counter()
        problems, self._problems = self._problems, []
        shown = "; ".join(map(str, problems))
        more = f"; and {counts['bad'] - len(problems)} more" if counts["bad"] > len(problems) else ""
        if counts["bad"] and self._spec.on_bad_call == "fail":
            raise DataError(
                f"{source}: {counts['bad']} of {counts['rows']} rows cannot be used for tool use: {shown}{more}",
                hint="mend the rows and add the dataset again, or set on_bad_call to skip",
            )
        used = counts["rows"] - counts["bad"]
        notes = [
            Note(
                message=f"{source}: {_share(counts['calling'], used)} of {used} rows call a tool "
                f"({_share(counts['parallel'], used)} several at once), "
                f"{_share(counts['abstaining'], used)} are offered tools and call none"
            )
        ]
        if counts["bad"]:
            notes.append(Note(message=f"{source}: {counts['bad']} rows were left out: {shown}{more}", level="warning"))
        return notes


def _share(count: int, of: int) -> str:
    return f"{count / max(of, 1):.0%}"


def _with_calls(example: Example) -> tuple[Example, list[Finding]]:
    """The conversation with calls that stand as text, in Hermes tags, as calls; and what is wrong with such text."""
    messages: list[Message] = []
    found: list[Finding] = []
    for index, message in enumerate(example.messages):
        if message["role"] == "assistant" and OPEN in message["content"]:
            where = f"messages[{index}].content"
            if message.get("tool_calls"):  # it would be trained beside them, and checked by nobody
                found.append((where, f"has a call as text ({OPEN}) beside tool_calls: give each call once"))
            else:
                try:
                    text, calls = read_answer("hermes", message["content"])
                    message = {**message, "content": text, "tool_calls": calls}
                except CallSyntaxError as error:
                    found.append((where, str(error)))
        messages.append(message)
    return Example(messages, example.tools), found
