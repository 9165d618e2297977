"""Prompts that the trained model answers itself, each with what its answers are judged by. Imports no torch.

The prompt is given as in preference rows (`preferences.py`) or as `messages`. A suite's own rows have this form, too,
but those of a gate's shard are refused: no gate could judge a model that was trained on them.
"""

from __future__ import annotations

from typing import Any

from posttrain.engine.checkers import CHECKERS, FIELDS, TIMED_CHECKERS, judge
from posttrain.engine.data.examples import Message, PromptExample
from posttrain.engine.data.messages import read_messages
from posttrain.engine.data.preferences import PROMPT_FIELDS, prompt_of
from posttrain.engine.data.rows import RowError, check_texts, kind_of, optional_text, required, text_of
from posttrain.engine.data.tools import read_tools

MAX_SHOWN = 80
NO_CHECKER = "none"  # of a row whose answers are judged by other parts of the reward, such as a reward model


def read_prompt(row: dict[str, Any]) -> PromptExample:
    """A prompt, its checker's name and target. `reference` is an answer that has to be right.

    Raises:
        RowError: something is missing or of a wrong type; the prompt ends with an assistant's turn; a checker that is
            not known; a target that lacks what the checker needs; a reference that the checker judges wrong.
    """
    if row.get("shard") == "gate":
        raise RowError("shard", "is gate: a model that is trained on rows of a gate cannot be judged by it; take dev")
    messages = _messages(row)
    if messages[-1]["role"] not in ("user", "tool"):
        raise RowError("prompt", f"must end with the user's turn, not the {messages[-1]['role']}'s: it is answered")
    checker = text_of(required(row, "checker"), "checker")
    known = sorted({*CHECKERS, *TIMED_CHECKERS, NO_CHECKER})
    if checker not in known:
        raise RowError("checker", f"no checker {checker!r:.{MAX_SHOWN}} (known: {', '.join(known)})")
    target = _target(row.get("target"))
    if checker == NO_CHECKER:
        if optional_text(row, "reference", "reference"):
            raise RowError("reference", "is given, but there is no checker to judge it by")
        return PromptExample(messages, checker, target, read_tools(row.get("tools")))
    lacking = [name for name in FIELDS[checker] if target.get(name) is None]
    if lacking:
        raise RowError(f"target.{lacking[0]}", f"is missing: the checker {checker} needs it")
    _try(row, checker, target)
    return PromptExample(messages, checker, target, read_tools(row.get("tools")))


def _messages(row: dict[str, Any]) -> list[Message]:
    if row.get("messages") is None:
        found = prompt_of(row)
        if found is None:
            raise RowError("prompt", "is missing")
        return found
    beside = [name for name in PROMPT_FIELDS if row.get(name) is not None]
    if beside:
        raise RowError(beside[0], "is given beside messages: which is the prompt?")
    return read_messages(row["messages"], "messages")


def _target(value: Any) -> dict[str, Any]:
    """Text or a number alone is the answer."""
    if value is None:
        return {}
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return {"answer": text_of(str(value), "target")}
    if not isinstance(value, dict):
        raise RowError("target", f"must be an object, text or a number, not {kind_of(value)}")
    check_texts(value, "target")
    found: dict[str, Any] = _without_null(value)
    return found


def _without_null(value: Any) -> Any:
    """Without fields that are null: in a table every row's object has the fields of all rows'."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _try(row: dict[str, Any], checker: str, target: dict[str, Any]) -> None:
    """Judges the reference, or else an empty answer: a target that the checker cannot use is told now, not in the
    middle of a rollout."""
    reference = optional_text(row, "reference", "reference")
    if checker in TIMED_CHECKERS:
        _try_timed(checker, reference, target)
        return
    try:
        judged = judge(checker, reference, target)
    except Exception as error:  # whatever a target from a file makes a checker stumble over
        raise RowError("target", f"the checker {checker} cannot use it: {type(error).__name__}: {error}") from None
    if reference and not judged.ok:
        raise RowError("reference", f"is judged wrong by its checker {checker}: {judged.reason}")


def _try_timed(checker: str, reference: str, target: dict[str, Any]) -> None:
    from posttrain.engine.rewards.timed import TIMED  # a process, which few rows need

    scored = TIMED.judge(checker, reference, target)
    if scored.failure:
        raise RowError("target", f"the checker {checker} cannot use it: {scored.failure.removeprefix('checker: ')}")
    if reference and not scored.parts["checker"]:
        raise RowError("reference", f"is judged wrong by its checker {checker}")
