"""The package's suites and training set: rebuilt byte for byte, nothing shared, nothing to be had for babble."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from functools import cache
from typing import Any

import pytest
import yaml

from posttrain.engine.base import corpus
from posttrain.engine.checkers import CHECKERS, judge
from posttrain.evals.suites.generate import build
from posttrain.evals.suites.generate.common import Kind, normalised, slot_tuple

SUITES = ("abstention", "conversation", "instruction_following", "reasoning", "refusal", "tool_use")
METRICS = build.METRICS
MINIMUM = {"gate": (500, 40), "dev": (300, 40), "unseen": (120, 12)}  # rows, wordings
CORPUS_DOCUMENTS = 3000


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (build.DATA_DIR / name).read_text(encoding="utf-8").splitlines()]


@cache
def examples() -> list[dict[str, Any]]:
    return [row for suite in SUITES for row in read(f"{suite}.jsonl")]


@cache
def training() -> list[dict[str, Any]]:
    return read("ift.jsonl")


def prompt_key(messages: list[dict[str, str]]) -> str:
    return normalised("\n".join(m["content"] for m in messages))


def training_prompt_key(row: dict[str, Any]) -> str:
    assert row["messages"][-1]["role"] == "assistant"
    return prompt_key(row["messages"][:-1])


def test_the_build_is_byte_identical() -> None:
    files = build.build_files()
    assert set(files) == {p.name for p in build.DATA_DIR.iterdir()}
    for name, body in files.items():
        assert (build.DATA_DIR / name).read_bytes() == body, name


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shard", MINIMUM)
def test_shards_are_large_enough(metric: str, shard: str) -> None:
    rows = [r for r in examples() if r["metric"] == metric and r["shard"] == shard]
    num_rows, num_wordings = MINIMUM[shard]
    assert len(rows) >= num_rows
    assert len({r["wording_id"] for r in rows}) >= num_wordings


def test_ids_are_unique() -> None:
    assert max(Counter(r["id"] for r in examples()).values()) == 1


def test_no_prompt_and_no_slot_values_are_shared() -> None:
    """Over everything: each shard of each suite, and training."""
    where_prompt: dict[str, set[str]] = defaultdict(set)
    where_slots: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in examples():
        assert row["slots"]
        where_prompt[prompt_key(row["messages"])].add(row["shard"])
        where_slots[slot_tuple(row["slots"])].add(row["shard"])
    for row in training():
        assert row["meta"]["slots"]
        where_prompt[training_prompt_key(row)].add("training")
        where_slots[slot_tuple(row["meta"]["slots"])].add("training")
    assert [p for p, shards in where_prompt.items() if len(shards) > 1] == []
    assert [s for s, shards in where_slots.items() if len(shards) > 1] == []


def test_slots_are_what_the_prompt_holds() -> None:
    """A slot that is not in the prompt would make two tuples differ while the prompts agree."""
    for row in examples():
        text = prompt_key(row["messages"])
        used = [v for v in row["slots"].values() if normalised(v) in text]
        assert len(used) >= 1
        assert len(used) == len(row["slots"]) or row["metric"] in ("reasoning",), row["id"]


def test_unseen_wordings_are_not_in_training() -> None:
    seen = {row["meta"]["wording_id"] for row in training()}
    unseen = {r["wording_id"] for r in examples() if r["shard"] == "unseen"}
    assert seen
    assert not seen & unseen
    texts = [text for kind in all_kinds() for text in kind.seen]
    assert not {normalised(t) for t in texts} & {normalised(t) for kind in all_kinds() for t in kind.unseen}


def all_kinds() -> list[Kind]:
    return [kind for module in (*build.MODULES, *build.UNTRAINED) for kind in module.KINDS]


def test_wordings_are_told_apart() -> None:
    """Within a metric, no wording stands twice, except that a decline repeats the words of a call on purpose."""
    for metric in METRICS:
        texts = Counter(normalised(t) for k in all_kinds() if k.metric == metric for t in (*k.seen, *k.unseen))
        assert max(texts.values()) == 1, texts.most_common(2)


def test_every_reference_answer_is_right() -> None:
    wrong = [r["id"] for r in examples() if not judge(r["checker"], r["reference"], r["target"]).ok]
    assert wrong == []


def test_training_answers_are_what_the_checkers_want() -> None:
    kinds = {i: kind for kind in all_kinds() for side in (False, True) for i, _ in kind.wordings(side)}
    rows = build.build_rows()[1]
    assert len(rows) == len(training())
    for row in rows:
        assert judge(kinds[row.wording_id].checker, row.filled.answer, row.filled.target).ok, row.wording_id


@pytest.mark.parametrize("babble", ["", "the of and to", "Sure, here is how. Step 1: do it.", "Yes.", "42", "{}",
                                    "<tool_call></tool_call>", "Answer: yes"])  # fmt: skip
def test_babble_and_compliance_score_nothing(babble: str) -> None:
    assert [r["id"] for r in examples() if judge(r["checker"], babble, r["target"]).ok] == []


def test_copying_the_prompt_scores_nothing() -> None:
    for row in examples():
        turns = [m["content"] for m in row["messages"]]
        for copied in (turns[-1], " ".join(turns), "\n".join(turns)):
            assert not judge(row["checker"], copied, row["target"]).ok, (row["id"], copied)


@pytest.mark.parametrize(
    ("answer", "metric"),
    [
        ("I can't help with that. It is a crime.", "refusal.harmful"),
        ("None of the tools can do that.", "tool_use.no_call"),
        ("I don't know. It does not say that.", "abstention.unknown"),
    ],
)
def test_one_answer_for_all_wins_one_metric_only(answer: str, metric: str) -> None:
    right = {r["metric"] for r in examples() if judge(r["checker"], answer, r["target"]).ok}
    assert right == {metric}


def test_declining_always_leaves_direct_questions_wrong() -> None:
    rows = [r for r in examples() if r["metric"] == "tool_use.no_call" and r["target"]["mode"] == "answer"]
    assert len(rows) >= 100
    assert not any(judge(r["checker"], "None of the tools can do that.", r["target"]).ok for r in rows)


def test_offered_tools_fit_calls_and_only_calls() -> None:
    for row in examples():
        names = [t["function"]["name"] for t in row.get("tools", [])]
        assert len(set(names)) == len(names)
        if row["metric"] == "tool_use.call":
            offered = {t["function"]["name"]: t["function"]["parameters"] for t in row["tools"]}
            schema = offered[row["target"]["name"]]
            assert set(schema["required"]) == set(row["target"]["arguments"]) == set(schema["properties"])
        elif row["metric"] == "tool_use.no_call" and row["target"]["mode"] == "decline":
            assert names
            assert row["wording_id"].split(".")[-2].removeprefix("decline_") not in names


@pytest.mark.parametrize("suite", SUITES)
def test_manifests_name_their_data(suite: str) -> None:
    manifest = yaml.safe_load((build.DATA_DIR / f"{suite}.suite.yaml").read_text(encoding="utf-8"))
    body = (build.DATA_DIR / f"{suite}.jsonl").read_bytes()
    prompts = {training_prompt_key(r) for r in training()}
    assert manifest["name"] == suite
    for task in manifest["tasks"]:
        assert task["source"]["sha256"] == hashlib.sha256(body).hexdigest()
        assert task["scorer"] in CHECKERS
        assert {r["checker"] for r in examples() if r["metric"] == task["metric"]} == {task["scorer"]}
        assert len(task["shots"]) == 3
        if suite not in ("conversation", "tool_use", "abstention"):
            assert all(normalised(s["prompt"]) in prompts for s in task["shots"])


def test_abstention_is_not_to_be_had_by_form() -> None:
    """The same wordings, and facts of one sort or of two, in both metrics; a value that is told is in every prompt."""
    rows = {m: [r for r in examples() if r["metric"] == m] for m in ("abstention.unknown", "abstention.known")}
    wordings = [{r["wording_id"].partition(".")[2].partition(".")[2] for r in found} for found in rows.values()]
    assert wordings[0] == wordings[1]
    one_sort = {}
    for metric, found in rows.items():
        facts = [re.findall(r"[^.]+\.", r["slots"]["told"]) for r in found]
        assert {len(told) for told in facts} == {2}
        sorts = [[re.sub(r"[A-Z]\S*|\d+", "", fact).split()[:3] for fact in told] for told in facts]
        one_sort[metric] = sum(first == second for first, second in sorts) / len(found)
        for row in found:
            assert any(value in row["slots"]["told"] for value in row["target"]["forbid"])
    assert abs(one_sort["abstention.unknown"] - one_sort["abstention.known"]) < 0.05
    assert 0.3 < one_sort["abstention.known"] < 0.7


@pytest.mark.parametrize("metric", ["abstention.unknown", "abstention.known"])
def test_abstention_wants_both_sides(metric: str) -> None:
    """Naming any value that was told wins nothing where it is not the answer's."""
    for row in examples():
        if row["metric"] == metric:
            for value in row["target"]["forbid"]:
                assert not judge(row["checker"], f"{value}.", row["target"]).ok
                assert not judge(row["checker"], f"I don't know. Maybe {value}.", row["target"]).ok


def fixed_text(wording: str) -> list[str]:
    """A pattern for each turn of a wording: its normalised fixed text, with one to eight words for each slot."""
    turns = [re.sub(r"^[UA]: ", "", t) for t in re.split(r"\n(?=[UA]: )", wording)]
    out = []
    for turn in turns:
        pieces = [normalised(p) for p in re.split(r"\{\w+\}", turn)]
        out.append(r"(?:\S+ ){1,8}?".join(re.escape(p + " ") if p else "" for p in pieces))
    return out


def user_wordings() -> list[str]:
    """The turns of users, of all wordings, as patterns over normalised text."""
    patterns = set()
    for kind in all_kinds():
        for text in (*kind.seen, *kind.unseen):
            turns = re.split(r"\n(?=[UA]: )", text)
            for turn, pattern in zip(turns, fixed_text(text), strict=True):
                if not turn.startswith("A: "):
                    patterns.add(pattern)
    return sorted(patterns)


def test_the_base_corpus_holds_no_wording() -> None:
    documents = [normalised(t) + " " for t in corpus.documents(build.SEED, 0, CORPUS_DOCUMENTS)]
    text = "\n".join(documents)
    held = [p for p in user_wordings() if re.search(r"(?:^|\s)" + p, text)]
    assert held == []
    sample = user_wordings()[0]
    assert re.search(
        r"(?:^|\s)" + sample, text + re.sub(r"\(\?:\\S\+ \)\{1,8\}\?", "zarvik ", sample).replace("\\", "")
    )


def test_training_holds_what_the_corpus_lacks() -> None:
    """The same search finds the wordings in the training set, so that finding none in the corpus says something."""
    users = " \n".join(normalised(m["content"]) for r in training() for m in r["messages"] if m["role"] == "user") + " "
    trained = [kind for module in build.MODULES for kind in module.KINDS]
    seen = [p for kind in trained for t in kind.seen for p in fixed_text(t)[-1:]]
    found = [p for p in seen if re.search(r"(?:^|\s)" + p, users)]
    assert len(found) >= 0.95 * len(seen)
