"""Questions of suites in training rows: found however they are dressed, and nothing else found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.evals.contamination import Match, QuestionIndex, Report, scan
from posttrain.evals.contamination.index import LEAST, LONG, SHARE, SHORT, TEMPLATE_QUESTIONS
from posttrain.evals.contamination.words import words_of
from posttrain.evals.suites.load import Manifest, Suite, SuiteTask, TaskManifest
from posttrain.evals.suites.sources import Example

JANET = "Janet's ducks lay 16 eggs per day, and she eats three of them for breakfast every single morning."


def suite(*questions: str | Sequence[str], shard: Any = "gate") -> Suite:
    """A suite of these questions; several texts are the turns of a conversation."""
    examples = tuple(
        Example(
            id=f"q{number}",
            metric="m",
            shard=shard,
            messages=[
                {"role": "system", "content": "You answer in one word and no more than that, whatever you are asked."},
                *(
                    {"role": ("user", "assistant")[turn % 2], "content": text}
                    for turn, text in enumerate([asked] if isinstance(asked, str) else asked)
                ),
            ],
            tools=[],
            checker="exact",
            target={},
            wording_id=str(number),
            cluster_id=str(number),
        )
        for number, asked in enumerate(questions, 1)
    )
    task = TaskManifest.model_construct(name="t", metric="m")
    manifest = Manifest.model_construct(name="s", version="1.0", tasks=[task], root_variable="")
    return Suite(manifest, Path(), {}, (SuiteTask("s", task, examples),))


def row(prompt: str, **more: Any) -> bytes:
    return json.dumps({"prompt": prompt, "completion": "Yes."} | more).encode()


def found(rows: Iterable[bytes], *questions: str | Sequence[str]) -> Report:
    return scan(rows, QuestionIndex([suite(*questions)]))


def kinds(report: Report) -> list[tuple[int, str, str]]:
    return [(match.row, match.question, match.kind) for match in report.matches]


@pytest.mark.parametrize(
    "dressed",
    [
        JANET,
        JANET.upper(),
        f"### Instruction:\n{JANET}\n\n### Response:",
        JANET.replace(" ", "  \n"),
        JANET.replace("'", "\u2019").replace(",", " --"),
        JANET.replace("eggs", "e\u200bg\u00adgs"),
        JANET.replace("ducks", "\uff44\uff55\uff43\uff4b\uff53"),  # full-width letters
        JANET.replace("three of", "**three** _of_"),
    ],
)
def test_a_question_is_found_however_it_is_dressed(dressed: str) -> None:
    report = found([row("What is the time?"), row(dressed)], JANET)
    assert kinds(report) == [(2, "q1", "whole")]
    assert (report.rows, report.questions, report.metrics) == ([2], {"s/q1": 1}, {"s/m": 1})
    assert report.matches[0].words.startswith("janet s ducks lay 16 eggs per day and she")


def test_a_question_is_found_in_whatever_field_a_job_reads_and_across_them() -> None:
    first, second = JANET.split(", ")
    rows = [
        json.dumps({"instruction": first, "input": second, "output": "No."}).encode(),
        json.dumps({"prompt": "Hello.", "chosen": "Yes.", "rejected": JANET}).encode(),
        json.dumps(
            {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": JANET}]}
        ).encode(),
        row("Hello.", note=JANET),  # a column that no job reads
    ]
    assert kinds(found(rows, JANET)) == [(1, "q1", "whole"), (2, "q1", "whole"), (3, "q1", "whole")]


def test_thirteen_words_in_a_row_are_a_match_and_twelve_are_not() -> None:
    words = [f"w{number}" for number in range(40)]
    question = " ".join(words)
    rows = [row(f"so {' '.join(words[5:18])} it is"), row(f"so {' '.join(words[5:17])} it is")]
    report = found(rows, question)
    assert kinds(report) == [(1, "q1", "13 words")]
    assert report.matches[0].words == " ".join(words[5:18])
    assert report.matches[0].share == round(6 / 33, 4)


def test_seven_tenths_of_the_runs_of_eight_words_are_a_match() -> None:
    """A question of 17 words has 10 runs of 8."""
    words = [f"w{number}" for number in range(17)]
    six = [*words[:10], "x", *words[7:17]]  # runs 0..2 and 7..9
    seven = [*words[:11], "x", *words[7:17]]  # runs 0..3 and 7..9
    report = found([row(" ".join(six)), row(" ".join(seven))], " ".join(words))
    assert kinds(report) == [(2, "q1", "8 words")]
    assert report.matches[0].share == 0.7 == SHARE


def test_the_form_of_a_suite_is_no_question_of_it() -> None:
    form = "Answer the following question with exactly one word and then stop writing anything at all: who is {}?"
    rows = [row(form.format("somebody else"))]
    two = [form.format(name) for name in ("ann", "bob")]
    assert len(kinds(found(rows, *two))) == 2
    assert TEMPLATE_QUESTIONS == 3
    three = [*two, form.format("cid")]
    assert kinds(found(rows, *three)) == []
    assert kinds(found([row(three[1])], *three)) == [(1, "q2", "whole")], "a whole question is one, template or not"
    again = found(rows, two[0], two[0], two[0])
    assert len(kinds(again)) == 3, "a question that stands three times is one form of nothing"


def test_a_short_question_counts_where_it_is_the_whole_message() -> None:
    rows = [row("How are you?"), row("And how are you today?"), row("how   ARE you")]
    assert kinds(found(rows, "How are you?")) == [(1, "q1", "whole"), (3, "q1", "whole")]
    assert LEAST == 5
    five = "how can i rob casinos"
    assert kinds(found([row(f"Please, {five} in Rome?")], five)) == [(1, "q1", "whole")]


def test_a_conversation_counts_when_all_its_turns_stand_in_one_row() -> None:
    """What the model is given as said before is part of the question."""
    turns = ["Give me two words.", "Ocean and feather.", "Which one did you say first?"]

    def talk(*texts: str) -> bytes:
        roles = ["user", "assistant"] * 3
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        return json.dumps({"messages": messages}).encode()

    rows = [talk(*turns, "Ocean."), talk(turns[0], "Garden and door.", turns[2], "Garden."), talk(turns[1], turns[2])]
    assert kinds(found(rows, turns)) == [(1, "q1", "whole")]


def test_scripts_without_spaces_are_compared_by_character() -> None:
    question = "请把下面的句子翻译成英文并且解释每一个词语的意思"
    assert kinds(found([row(f"好的。{question}谢谢")], question)) == [(1, "q1", "whole")]
    assert words_of("東京 Tokyo_2024") == ["東", "京", "tokyo", "2024"]


def test_what_cannot_be_searched_or_read_is_said() -> None:
    report = found([b"{}", row("?!"), b"[1]", row("Hello")], "?!...", "Hello there, my old friend")
    assert report.unsearchable == ["q1"]
    assert report.unread == [1, 3]
    assert (report.num_rows, report.num_questions, report.num_matches) == (4, 1, 0)
    empty = found([], "Hello there, my old friend")
    assert (empty.num_rows, empty.rows) == (0, [])


def test_other_shards_count_only_if_they_are_asked_for() -> None:
    dev = suite(JANET, shard="dev")
    assert len(scan([row(JANET)], QuestionIndex([dev])).matches) == 1
    assert scan([row(JANET)], QuestionIndex([dev], ["gate"])).matches == []


def test_equal_hashes_are_no_match() -> None:
    index = QuestionIndex([suite(JANET)])
    index.codes = np.ones_like(index.codes)
    index.hashes = {size: index._hashes(size) for size in index.hashes}
    shuffled = " ".join(sorted(words_of(JANET)))
    assert scan([row(shuffled)], index).matches == []
    assert len(scan([row(JANET)], index).matches) == 1


def test_all_are_counted_and_the_first_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = sys.modules["posttrain.evals.contamination.scan"]
    monkeypatch.setattr(module, "MAX_MATCHES", 2)
    monkeypatch.setattr(module, "_BATCH_WORDS", 30)
    seen: list[int] = []
    report = scan([row(JANET) for _ in range(5)], QuestionIndex([suite(JANET)]), seen.append)
    assert (report.num_matches, report.rows, len(report.matches)) == (5, [1, 2, 3, 4, 5], 2)
    assert report.questions == {"s/q1": 5}
    assert seen[-1] == 5
    assert len(seen) > 1


def reference(rows: Sequence[str], questions: Sequence[str]) -> set[tuple[int, str, str]]:
    """The same by sets of tuples, one pair at a time."""

    def runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}

    asked = [words_of(question) for question in questions]
    different = {tuple(words) for words in asked}
    found = set()
    for number, text in enumerate(rows, 1):
        given, whole = [*words_of(text), "yes"], words_of(text)
        for place, words in enumerate(asked, 1):
            if not words:
                continue
            own = {
                size: {
                    run
                    for run in runs(words, size)
                    if sum(run in runs(other, size) for other in different) < TEMPLATE_QUESTIONS
                }
                for size in (SHORT, LONG)
            }
            share = len(own[SHORT] & runs(given, SHORT)) / max(1, len(own[SHORT]))
            if whole == words or (len(words) >= LEAST and tuple(words) in runs(given, len(words))):
                found.add((number, f"q{place}", "whole"))
            elif own[LONG] & runs(given, LONG):
                found.add((number, f"q{place}", "13 words"))
            elif share >= SHARE:
                found.add((number, f"q{place}", "8 words"))
    return found


texts = st.lists(st.sampled_from("abc"), min_size=1, max_size=30).map(" ".join)


@given(st.lists(texts, min_size=1, max_size=6), st.lists(texts, min_size=1, max_size=6))
def test_equals_a_search_by_sets_of_tuples(rows: list[str], questions: list[str]) -> None:
    report = found([row(text) for text in rows], *questions)
    assert set(kinds(report)) == reference(rows, questions)
    assert report.matches == sorted(report.matches, key=lambda match: match.row)
    assert all(isinstance(match, Match) for match in report.matches)
