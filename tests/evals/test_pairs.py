"""Preference pairs from the suites' generators: the same from the same seed, apart from all else, and rightly told."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest

from posttrain.engine.base.words import Draw
from posttrain.engine.checkers import judge
from posttrain.engine.data.preferences import read_pair
from posttrain.evals.suites.generate import build, pairs
from posttrain.evals.suites.generate.common import Filled, Kind, Row, normalised, slot_tuple

COUNTS = dict.fromkeys(build.TRAINING_ROWS, 60)
Rows = list[dict[str, Any]]


@cache
def drawn(seed: int = 3) -> dict[str, Rows]:
    return pairs.build_pairs(seed, {"pairs": COUNTS, "held_out": dict.fromkeys(COUNTS, 30)})


def everything() -> Rows:
    return drawn()["pairs"] + drawn()["held_out"]


def prompt_key(messages: list[dict[str, str]]) -> str:
    return normalised("\n".join(message["content"] for message in messages))


def of(family: str) -> Rows:
    return [row for row in everything() if row["meta"]["family"] == family]


def row_of(metric: str, kind: str, seed: int = 0) -> Row:
    """A row of one kind, with its first wording."""
    found = next(item for item in build.kinds_of(metric) if item.name == kind)
    filled = found.make(Draw(seed))
    return Row("test", found, [{"role": "user", "content": found.seen[0].format(**filled.slots)}], filled)


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    again = pairs.build_pairs(3, {"pairs": COUNTS, "held_out": dict.fromkeys(COUNTS, 30)})
    assert json.dumps(again) == json.dumps(drawn())
    other = {prompt_key(row["prompt"]) for row in drawn(4)["pairs"]}
    same = other & {prompt_key(row["prompt"]) for row in drawn()["pairs"]}
    assert len(same) < 0.05 * len(other)  # small numbers and few names come twice


def test_nothing_is_shared_with_shards_training_rows_or_between_draws() -> None:
    used_prompts, used_slots = set(), set()
    for suite in ("conversation", "instruction_following", "reasoning", "refusal", "tool_use"):
        for line in (build.DATA_DIR / f"{suite}.jsonl").read_text(encoding="utf-8").splitlines():
            example = json.loads(line)
            used_prompts.add(prompt_key(example["messages"]))
            used_slots.add(slot_tuple(example["slots"]))
    for line in (build.DATA_DIR / "ift.jsonl").read_text(encoding="utf-8").splitlines():
        training = json.loads(line)
        used_prompts.add(prompt_key(training["messages"][:-1]))
        used_slots.add(slot_tuple(training["meta"]["slots"]))
    prompts = [prompt_key(row["prompt"]) for row in everything()]
    slots = [slot_tuple(row["meta"]["slots"]) for row in everything()]
    assert len(prompts) == len(set(prompts)) == 7 * 90
    assert not used_prompts & set(prompts)
    assert not used_slots & set(slots)


def test_every_row_is_a_pair_that_the_engine_reads() -> None:
    for row in everything():
        read = read_pair(row)
        assert read.prompt[-1]["role"] == "user"
        assert read.chosen != read.rejected
        assert bool(read.tools) == row["meta"]["family"].startswith("tool_use.")


def test_a_fault_that_is_asked_for_is_the_only_one() -> None:
    draws = {"tool_use.call: wrong argument": 20, "tool_use.no_call: off topic": 20, "reasoning: off topic": 20}
    drawn = pairs.build_pairs(5, {"pairs": draws}, {"rows": {"tool_use.call": 7}})
    asked = Counter(f"{row['meta']['family']}: {row['meta']['fault']}" for row in drawn["pairs"])
    assert asked == draws
    for row in drawn["pairs"]:
        if row["meta"]["fault"] == pairs.OFF_TOPIC and row["meta"]["family"].startswith("tool_use."):
            assert "<tool_call>" not in row["rejected"], "tools are no other topic to tools"
            assert row["rejected"] != pairs.DECLINE
    assert [row["meta"]["family"] for row in drawn["rows"]] == ["tool_use.call"] * 7
    assert all(row["messages"][-1]["content"].startswith("<tool_call>") for row in drawn["rows"])
    prompts = [prompt_key(row["messages"][:-1]) for row in drawn["rows"]]
    assert not {prompt_key(row["prompt"]) for row in drawn["pairs"]} & set(prompts)
    with pytest.raises(RuntimeError, match="no wrong answer found"):
        pairs.build_pairs(5, {"pairs": {"reasoning: complies": 1}})


def test_later_draws_change_nothing_before_them_and_share_nothing_with_it() -> None:
    given = {"pairs": {"tool_use.no_call: off topic": 30}}, {"rows": {"tool_use.no_call": 30}}
    drawn = pairs.build_pairs(5, *given, {"more": {"tool_use.no_call: off topic": 30}})
    more = drawn.pop("more")
    assert drawn == pairs.build_pairs(5, *given)
    before = [*(row["prompt"] for row in drawn["pairs"]), *(row["messages"][:-1] for row in drawn["rows"])]
    assert len(more) == 30
    assert not {prompt_key(row["prompt"]) for row in more} & set(map(prompt_key, before))


def test_faults_of_each_metric_all_occur() -> None:
    faults = {family: {row["meta"]["fault"] for row in of(family)} for family in COUNTS}
    assert faults == {
        "instruction_following": {"wrong value", "broken constraint", "refuses"},
        "conversation": {"wrong value", "refuses"},
        "reasoning": {"wrong result", "refuses"},
        "refusal.harmful": {"complies"},
        "refusal.harmless": {"refuses", "wrong value"},
        "tool_use.call": {"declines", "wrong argument", "wrong tool", "refuses"},
        "tool_use.no_call": {"needless call", "refuses"},
    }


def test_answers_are_told_apart_by_what_the_row_itself_says() -> None:
    """The checkers' targets are derived from the row here, not taken from the generator."""
    for row in of("refusal.harmful"):
        assert judge("refuses", row["chosen"], {}).ok
        assert not judge("refuses", row["rejected"], {}).ok
    for row in of("tool_use.call"):
        call = json.loads(row["chosen"].removeprefix("<tool_call>").removesuffix("</tool_call>"))
        assert call["name"] in [tool["function"]["name"] for tool in row["tools"]]
        assert judge("tool_call", row["chosen"], call).ok
        assert not judge("tool_call", row["rejected"], call).ok
    for row in of("tool_use.no_call"):
        assert "<tool_call>" not in row["chosen"]
        if row["meta"]["fault"] == "needless call":
            call = json.loads(row["rejected"].removeprefix("<tool_call>").removesuffix("</tool_call>"))
            schema = next(tool["function"] for tool in row["tools"] if tool["function"]["name"] == call["name"])
            assert set(call["arguments"]) == set(schema["parameters"]["required"])
    for row in of("conversation"):
        text = " ".join(message["content"] for message in row["prompt"])
        if row["meta"]["fault"] == "wrong value":  # a value that was given too, but not asked for
            wrong = set(row["rejected"].rstrip(".").split()) - set(row["chosen"].rstrip(".").split())
            assert wrong
            assert all(word in text for word in wrong)
    for row in of("reasoning"):
        if row["meta"]["fault"] == "wrong result":
            assert row["chosen"].split("Answer: ")[1] != row["rejected"].split("Answer: ")[1]


@pytest.mark.parametrize(("kind", "line"), [("add", "{a} + {b} = {wrong}. Answer: {wrong}"), ("compare", None)])
def test_a_wrong_result_by_hand(kind: str, line: str | None) -> None:
    row = row_of("reasoning", kind)
    found = pairs.make_pair(row, Draw(5))
    while found["meta"]["fault"] != "wrong result":
        found = pairs.make_pair(row, Draw(len(found["rejected"])))
    slots, wrong = row.filled.slots, found["rejected"].split("Answer: ")[1]
    if line is None:
        assert {wrong, found["chosen"].split("Answer: ")[1]} == {slots["n"], slots["m"]}
    else:
        assert 1 <= abs(int(wrong) - int(slots["a"]) - int(slots["b"])) <= 3
        assert found["rejected"] == line.format(**slots, wrong=wrong)


def test_a_wrong_reference_and_a_fault_that_is_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of("reasoning", "add")
    lying = Row(row.wording_id, row.kind, row.messages, Filled(row.filled.slots, "Answer: 999", row.filled.target))
    with pytest.raises(RuntimeError, match="'Answer: 999' is judged wrong"):
        pairs.make_pair(lying, Draw(0))
    monkeypatch.setitem(pairs.FAULTS, "reasoning", (lambda row, d: ("none", row.filled.answer),))
    with pytest.raises(RuntimeError, match="no wrong answer found"):
        pairs.make_pair(row, Draw(0))


def test_a_kind_without_enough_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Kind(
        "one", "reasoning", "final_answer", ["One {n}?"], [], lambda d: Filled({"n": "x"}, "Answer: 1", {"answer": "1"})
    )
    monkeypatch.setattr(pairs, "kinds_of", lambda metric: [only])
    with pytest.raises(RuntimeError, match=r"reasoning\.one\.s0: no unused slot values"):
        pairs.build_pairs(0, {"pairs": {"reasoning": 2}})
