"""Preference pairs for the suites' metrics: chosen is the reference answer, rejected breaks what the prompt asks for.

Their prompts come from the suites' own generators, drawn after all shards and training rows are: pairs share no prompt
and no tuple of slot values with any of them, nor with each other. Both answers of each pair are judged by the metric's
checker before the pair is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw
from posttrain.engine.checkers import judge
from posttrain.evals.suites.generate import refusal, tool_use
from posttrain.evals.suites.generate.build import build_rows, kinds_of
from posttrain.evals.suites.generate.common import Row, Taken, draw_rows

Fault = tuple[str, str]  # name of the fault, rejected answer

DECLINE = "None of the tools can do that."
# What a model says that was never shown a refusal: it agrees, or answers as it would a look-alike.
COMPLIANCE = (
    "All right.", "Noted.", "Thanks for telling me.", "Sure, here is how to do that.", "Practise {n} every day.",
    "Play the {r} with joy.", "Run kill {n}.", "Switch off the lights in {p}.", "Cut the {r} with a knife.",
    "Your {r} is {n}.", "Do it in {p} when {n} is alone.", "It is not {n}. Answer: {p}",
)  # fmt: skip
REASONS = tuple(dict.fromkeys(reason for reason, _, _ in refusal.HARMFUL.values()))
# Slots that hold the possible answers, by kind; only one of them is right.
CHOICES = {
    "compare": ("n", "m"), "least": ("n", "m"), "syllogism": ("x", "y"), "either": ("n", "m"),
    "middle": ("a", "b", "c"),
}  # fmt: skip


def _complies(row: Row, d: Draw) -> Fault:
    return "complies", d.pick(COMPLIANCE).format(**row.filled.slots)


def _refuses(row: Row, d: Draw) -> Fault:
    reason = d.pick(REASONS).format(n=row.filled.slots.get("n") or d.name())
    return "refuses", f"I can't help with that. {reason}"


def _other_draw(row: Row, d: Draw) -> Fault:
    """The answer to the same wording with other values."""
    return "wrong value", row.kind.make(d).answer


def _distractor(row: Row, d: Draw) -> Fault:
    """The other value of the prompt in place of the right one."""
    target = row.filled.target
    return "wrong value", row.filled.answer.replace(target["all"][0], target["forbid"][0])


def _wrong_result(row: Row, d: Draw) -> Fault:
    """Another number, or another of those that the prompt names, both in the last step and as the answer."""
    right = row.filled.target["answer"]
    if right.isdigit():
        wrong = str(max(0, int(right) + d.rng.choice((-3, -2, -1, 1, 2, 3))))
        return "wrong result", re.sub(rf"(= |Answer: ){right}\b", rf"\g<1>{wrong}", row.filled.answer)
    if row.kind.name == "days":
        others: list[str] = list(w.DAYS)
    elif row.kind.name == "chain":
        others = row.filled.answer.partition(".")[0].removeprefix("In order: ").split(", ")
    else:
        others = [row.filled.slots[slot] for slot in CHOICES[row.kind.name]]
    wrong = d.pick([other for other in others if other != right])
    return "wrong result", f"{row.filled.answer.rpartition(' Answer: ')[0]} Answer: {wrong}"


def _broken(row: Row, d: Draw) -> Fault:
    """The right answer with its case, its marks or its words changed."""
    answer = row.filled.answer
    parts = answer.split(" ")
    changed = [answer.swapcase(), re.sub(r"[^\w\s]", "", answer), answer + " " + answer, " ".join(parts[1:]),
               " ".join(parts[:-1]), " ".join(parts[::-1])]  # fmt: skip
    return "broken constraint", d.pick(changed)


def _called(name: str, arguments: Mapping[str, Any]) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def _needless_call(row: Row, d: Draw) -> Fault:
    """A call of a tool on offer, with values of the prompt where it has enough of them."""
    name = d.pick([tool["function"]["name"] for tool in row.filled.tools])
    tool = next(tool for tool in tool_use.TOOLS if tool.name == name)
    slots, values = tool.draw(d), d.shuffled(list(row.filled.slots.values()))
    texts = [slot for slot, (kind, _) in tool.parameters.items() if kind == tool_use.TEXT]
    return "needless call", _called(name, tool.call(slots | dict(zip(texts, values, strict=False)))["arguments"])


def _wrong_argument(row: Row, d: Draw) -> Fault:
    return "wrong argument", _called(row.kind.name, json.loads(row.kind.make(d).answer[11:-12])["arguments"])


def _wrong_tool(row: Row, d: Draw) -> Fault:
    return "wrong tool", _called(d.pick([tool.name for tool in tool_use.TOOLS]), row.filled.target["arguments"])


def _declines(row: Row, d: Draw) -> Fault:
    return "declines", DECLINE


def _off_topic(row: Row, d: Draw) -> Fault:
    """What another metric's question is answered by. Tools are no other topic to tools."""
    family = row.kind.metric.partition(".")[0]
    others = [metric for metric in FAULTS if metric.partition(".")[0] not in (family, "refusal")]
    return OFF_TOPIC, d.rng.choice(kinds_of(d.pick(others))).make(d).answer


OFF_TOPIC = "off topic"
FAULTS: dict[str, tuple[Callable[[Row, Draw], Fault], ...]] = {
    "instruction_following": (_other_draw, _broken, _broken, _refuses),
    "conversation": (_distractor, _distractor, _refuses),
    "reasoning": (_wrong_result, _wrong_result, _refuses),
    "refusal.harmful": (_complies,),
    "refusal.harmless": (_refuses, _refuses, _other_draw),
    "tool_use.call": (_declines, _wrong_argument, _wrong_tool, _refuses),
    "tool_use.no_call": (_needless_call, _needless_call, _refuses),
}


def make_pair(row: Row, d: Draw, only: str = "") -> dict[str, Any]:
    """The row as a preference pair, in the format that kinds dpo and reward read; with `only` that fault.

    Raises:
        RuntimeError: the reference answer is judged wrong, or no fault was found that is.
    """
    metric, checker, target = row.kind.metric, row.kind.checker, row.filled.target
    chosen = row.filled.answer
    if not judge(checker, chosen, target).ok:
        raise RuntimeError(f"{row.wording_id}: the reference {chosen!r} is judged wrong")
    makers = (_off_topic,) if only == OFF_TOPIC else FAULTS[metric]
    for _ in range(100):
        fault, rejected = d.rng.choice(makers)(row, d)
        if fault == (only or fault) and rejected.strip() and not judge(checker, rejected, target).ok:
            break
    else:
        raise RuntimeError(f"{row.wording_id}: no wrong answer found")
    out: dict[str, Any] = {"prompt": row.messages, "chosen": chosen, "rejected": rejected}
    if row.filled.tools:
        out["tools"] = row.filled.tools
    return out | {"meta": {"family": metric, "fault": fault, "wording_id": row.wording_id, "slots": row.filled.slots}}


def build_pairs(
    seed: int,
    draws: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Mapping[str, int]] | None = None,
    later: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Pairs by the name of the draw, shuffled; `draws` says how many of each "metric", with any of its faults, or of a
    "metric: fault". Same arguments, same pairs.

    `rows` does the same for training rows, which are drawn after the pairs and come with them. `later` are more draws
    of pairs, after these rows: they change nothing before.

    Raises:
        RuntimeError: a wording's slots have too few values for so many pairs.
    """
    taken = Taken()
    build_rows(taken)
    found: dict[str, list[dict[str, Any]]] = {}

    def draw(name: str, counts: Mapping[str, int], make: Callable[[Row, Draw, str], dict[str, Any]]) -> None:
        found[name] = made = []
        for wanted, num in counts.items():
            metric, _, fault = wanted.partition(": ")
            d = Draw(f"{seed}:{wanted}:{name}")
            made += [make(row, d, fault) for row in draw_rows(kinds_of(metric), num, False, taken, d)]
        Draw(f"{seed}:{name}:order").rng.shuffle(made)

    for name, counts in draws.items():
        draw(name, counts, make_pair)
    for name, counts in (rows or {}).items():
        draw(name, counts, lambda row, *_: row.training())
    for name, counts in (later or {}).items():
        draw(name, counts, make_pair)
    return found
