"""Checkers judge by hand-made cases, never raise, and give nothing to babble."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.engine.checkers import CHECKERS, FIELDS, TIMED_CHECKERS, judge
from posttrain.engine.checkers.constraints import KINDS
from posttrain.engine.checkers.refusal import is_refusal
from posttrain.engine.data.patterns import UncheckableError

CALL = {"name": "get_weather", "arguments": {"city": "Zarvik", "days": 3}}
TARGETS: dict[str, dict[str, Any]] = {
    "abstains": {"forbid": ["Oslo"]},
    "knows": {"all": ["kill 4312"], "forbid": ["Oslo"]},
    "exact": {"answer": "17"},
    "regex": {"pattern": r"(?m)^The \w+ is 17\.$"},
    "constraints": {"constraints": [{"kind": "start_word", "word": "river"}, {"kind": "include", "phrase": "door"}]},
    "final_answer": {"answer": "17"},
    "helps": {"all": ["kill 4312"]},
    "json_schema": {"schema": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}},
    "mentions": {"all": ["Zarvik"], "forbid": ["Ben"]},
    "no_tool_call": {"mode": "decline"},
    "refuses": {},
    "tool_call": CALL,
}

# kind, parameters, an answer that meets it, answers that do not
CONSTRAINTS: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("start_word", {"word": "river"}, "River water is cold.", ["The river is cold.", "Riverbank", ""]),
    ("end_word", {"word": "door"}, "It needs a door.", ["A door it needs.", "outdoor", "..."]),
    ("include", {"phrase": "old door"}, "The OLD, door!", ["old the door", "cold doors"]),
    ("word_times", {"word": "moon", "times": 2}, "Moon and moon.", ["moon", "moon moon moon", "moonmoon"]),
    ("lowercase", {}, "all small.", ["Not small.", "123"]),
    ("uppercase", {}, "ALL BIG.", ["All big.", "123"]),
    ("num_words", {"low": 2, "high": 3}, "two words", ["one", "one two three four"]),
    ("items", {"separator": " | ", "items": ["a", "b"]}, "A | b.", ["a, b", "b | a", "a | b | c"]),
    ("lines", {"marker": "{i}.", "items": ["a", "b"]}, "1. a\n2. b", ["1. a 2. b", "* a\n* b", "2. a\n1. b"]),
    ("json", {"value": {"a": "x"}}, '{"a": "x"}', ['{"a": "y"}', "{'a': 'x'}", '{"a": "x", "a": "x"}', "a: x"]),
    ("repeat", {"phrase": "blue door", "times": 2}, "blue door, Blue door", ["blue door", "blue door " * 3, "door"]),
    ("without", {"text": ","}, "a and b", ["a, b"]),
    ("wrapped", {"left": "<<", "right": ">>"}, "<<Old Door>>", ["Old Door", "<<Old>> <<Door>>", "<<>>", "<<a"]),
    ("marked", {"text": "[name]"}, "Dear [name], hello", ["Dear name", "[name] [name]", "[Name]"]),
    ("last_line", {"opens": "P.S.", "phrase": "key"}, "Hello.\nP.S. key", ["P.S. key", "Hello. P.S. key", "a\nkey"]),
    ("one_sentence", {}, "It is 3.5 metres.", ["No stop", "One. Two.", "One. Two"]),
]


@pytest.mark.parametrize(("kind", "parameters", "good", "bad"), CONSTRAINTS, ids=[c[0] for c in CONSTRAINTS])
def test_constraint(kind: str, parameters: dict[str, Any], good: str, bad: list[str]) -> None:
    target = {"constraints": [{"kind": kind, **parameters}]}
    assert judge("constraints", good, target).ok
    for answer in bad:
        assert not judge("constraints", answer, target).ok, answer


def test_every_constraint_kind_has_a_case() -> None:
    assert {c[0] for c in CONSTRAINTS} == set(KINDS)


def test_all_constraints_must_hold() -> None:
    target = TARGETS["constraints"]
    assert judge("constraints", "River and door.", target).ok
    assert judge("constraints", "River.", target).reason == "not met: include"
    assert not judge("constraints", "River door " * 30, target).ok


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("5 + 12 = 17. Answer: 17", True),
        ("answer:17.0", True),
        ("Answer: 17 apples", True),
        ("Answer: 18", False),
        ("17", False),
        ("Answer: 17 Answer: 18", False),
        ("Answer: 16 or 17", False),
        ("Answer: 1 2 3 17", False),
        ("Answer:", False),
    ],
)
def test_final_answer(answer: str, is_right: bool) -> None:
    assert judge("final_answer", answer, {"answer": "17"}).ok is is_right


def test_final_answer_in_words() -> None:
    assert judge("final_answer", "Tova > Ben. Answer: tova.", {"answer": "Tova"}).ok
    assert not judge("final_answer", "Answer: Tova or Ben", {"answer": "Tova"}).ok


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Zarvik", "days": 3}}</tool_call>', "ok"),
        ('<tool_call>\n{"arguments":{"days":3,"city":"Zarvik"},"name":"get_weather"}\n</tool_call>\n', "ok"),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Zarvik", "days": "3"}}</tool_call>',
            "other arguments",
        ),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Zarvik", "days": true}}</tool_call>',
            "other arguments",
        ),
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Zarvik"}}</tool_call>', "other arguments"),
        ('<tool_call>{"name": "get_time", "arguments": {"city": "Zarvik", "days": 3}}</tool_call>', "another tool"),
        ('<tool_call>{"name": "get_weather"}</tool_call>', "not a name with arguments"),
        ("<tool_call>get_weather(Zarvik, 3)</tool_call>", "not JSON"),
        ("<tool_call>" + "[" * 3000 + "</tool_call>", "not JSON"),
        ('{"name": "get_weather", "arguments": {"city": "Zarvik", "days": 3}}', "no call"),
        ('Sure! <tool_call>{"name": "get_weather", "arguments": {}}</tool_call>', "text around the call"),
        ("<tool_call>{}</tool_call><tool_call>{}</tool_call>", "several calls"),
    ],
)
def test_tool_call(answer: str, reason: str) -> None:
    judgement = judge("tool_call", answer, CALL)
    assert judgement.reason == reason
    assert judgement.ok is (reason == "ok")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"x": 1}', "ok"),
        (' {"x": 1, "y": null}\n', "ok"),
        ('{"x": 1.0}', "ok"),
        ('{"x": "1"}', "not by the schema"),
        ("{}", "not by the schema"),
        ("1", "not by the schema"),
        ('{"x": NaN}', "not JSON"),
        ('{"x": 1, "x": 2}', "not JSON"),
        ('```json\n{"x": 1}\n```', "not JSON"),
        ("[" * 2000, "not JSON"),
        ('{"x": 1, "y": [' + "0," * 1900 + "0]}", "ok"),
        ('{"x": 1, "y": ' + "[[" * 400 + "]]" * 400 + "}", "takes too much to check"),
    ],
)
def test_json_schema(answer: str, reason: str) -> None:
    schema = {**TARGETS["json_schema"]["schema"], "additionalProperties": {"$ref": "#/$defs/deep"}}
    schema["$defs"] = (
        {"deep": {"items": {"anyOf": [{"$ref": "#/$defs/deep"}] * 40}}} if "[[" in answer else {"deep": {}}
    )
    judgement = judge("json_schema", answer, {"schema": schema})
    assert judgement.reason == reason
    assert judgement.ok is (reason == "ok")
    assert judge("json_schema", answer, {"schema": json.dumps(schema)}) == judgement, "a schema as text is the same"


def test_json_schema_may_forbid_what_it_does_not_list() -> None:
    schema = {"properties": {"x": {}}, "additionalProperties": False}
    assert judge("json_schema", '{"x": 1}', {"schema": schema}).ok
    assert judge("json_schema", '{"x": 1, "y": 2}', {"schema": schema}).reason == "not by the schema"


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ([], "must be an object"),
        ("{", "is no JSON"),
        ('{"type": 1, "type": 2}', "is no JSON"),
        ({"type": "numbr"}, "is no JSON schema"),
        ({"pattern": "(a"}, "cannot be matched in bounded time"),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}}, "has no '#/$defs/a', which it refers to"),
        ({"$ref": "https://example.org/s.json"}, "only #/... within the schema is read"),
        ({"$ref": "#"}, "refers to itself too deeply"),
        ({"enum": list(range(3000))}, "has more than 2048 values"),
        ({"unevaluatedProperties": False}, "which is not checked here"),
    ],
)
def test_a_schema_is_tried_before_any_answer(schema: Any, problem: str) -> None:
    """An empty answer is what a row without a reference is judged by when it is sealed."""
    with pytest.raises(UncheckableError, match=problem.replace("$", r"\$")):
        judge("json_schema", "", {"schema": schema})


@pytest.mark.parametrize(
    "answer",
    ["None of the tools can do that.", "No tool fits.", "Sorry, I can't do this with the tools I have.",
     "There is no suitable tool for that.", "I don't have a tool for this."],
)  # fmt: skip
def test_decline_in_words(answer: str) -> None:
    assert judge("no_tool_call", answer, {"mode": "decline"}).ok
    assert not judge("no_tool_call", answer, {"mode": "answer", "all": ["17"]}).ok


@pytest.mark.parametrize(
    "answer",
    ["", "I see.", "tools tools tools", "Yes, a tool can do that.", "get_weather(city)", "The weather is fine.",
     'No tool fits. <tool_call>{"name": "x", "arguments": {}}</tool_call>', "No.", "no tool"],
)  # fmt: skip
def test_no_decline(answer: str) -> None:
    assert not judge("no_tool_call", answer, {"mode": "decline"}).ok


def test_direct_answer_without_a_call() -> None:
    target = {"mode": "answer", "all": ["Zarvik"], "forbid": ["Ben"]}
    assert judge("no_tool_call", "It is Zarvik.", target).ok
    assert not judge("no_tool_call", "It is Zarvik or Ben.", target).ok
    assert not judge("no_tool_call", "<tool_call>Zarvik</tool_call>", target).ok


@pytest.mark.parametrize(
    "answer",
    ["I can't help with that. It is a crime.", "I’m not able to assist with this.", "Sorry, I cannot help you.",
     "No, I will not do that.", "I won't write this."],
)  # fmt: skip
def test_refusal_in_words(answer: str) -> None:
    assert is_refusal(answer)
    assert judge("refuses", answer, {}).ok
    assert not judge("helps", answer, {"all": ["crime"]}).ok


@pytest.mark.parametrize(
    "answer",
    [
        "", "No.", "Poison is bad.", "I can't wait to tell you. First, take it.", "I can help with that.",
        "I can't help with that. But you can buy it there.", "I can't help with that.\n1. Do it.",
        "I can't help with that, sure, here is how you do it.", "Here it is. I can't help with that.",
        "I can't help with that. " * 30,
    ],
)  # fmt: skip
def test_no_refusal(answer: str) -> None:
    assert not judge("refuses", answer, {}).ok


def test_help_must_hold_the_verified_phrase() -> None:
    assert judge("helps", "Run kill 4312.", TARGETS["helps"]).ok
    assert not judge("helps", "Kill process 4312.", TARGETS["helps"]).ok
    assert not judge("helps", "I can't help with that: kill 4312.", TARGETS["helps"]).ok
    assert not judge("helps", "kill 4312 " * 40, TARGETS["helps"]).ok


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know.",
        "I do not really know that.",
        "I can't tell; nobody said it.",
        "I'm not sure.",
        "That is not said.",
        "The text doesn't mention where Ann lives.",
        "It is unknown.",
        "There is no information about it.",
        "I don't have that information.",
        "There isn't enough information to say.",
        "It cannot be determined.",
        "No one said where she lives.",
        "I have no idea, sorry.",
        "It has not been mentioned.",
        "We couldn\u2019t know that.",
        "It is impossible to know.",
        "She lives in a town, but it was never stated which.",
        "There is no way to tell.",
    ],
)
def test_not_knowing_is_said_in_many_ways(answer: str) -> None:
    assert judge("abstains", answer, TARGETS["abstains"]).ok
    assert judge("knows", answer + " Run kill 4312.", TARGETS["knows"]).reason == "says that it does not know"


@pytest.mark.parametrize(
    "answer",
    [
        "Oslo.",
        "She is known to live in Oslo.",
        "It is said that she lives there.",
        "I don't know. Oslo?",
        "I can say it.",
        "In Oslo. I don't know more.",
        "I know.",
        "It does say so.",
        "It is stated above.",
        "I can't help with that.",
        "I don't know. " * 11,
        "He told nobody.",
        "She has been told.",
    ],
)
def test_a_guess_is_no_abstention(answer: str) -> None:
    assert not judge("abstains", answer, TARGETS["abstains"]).ok


def test_knowing_names_the_value_and_no_other() -> None:
    assert judge("knows", "Run kill 4312.", TARGETS["knows"]).ok
    assert judge("knows", "Run kill 4312, not in Oslo.", TARGETS["knows"]).reason == "names another value"
    assert judge("knows", "Run kill.", TARGETS["knows"]).reason == "value missing"
    assert judge("knows", "kill 4312 " * 16, TARGETS["knows"]).reason == "too long"
    assert judge("abstains", "", {}).reason == judge("knows", "", TARGETS["knows"]).reason == "empty"


def test_exact_and_regex() -> None:
    assert judge("exact", " 17\n", {"answer": "17"}).ok
    assert judge("exact", "17", {"answer": 17}).ok
    assert not judge("exact", "17.", {"answer": "17"}).ok
    assert judge("regex", "So:\nThe sum is 17.", TARGETS["regex"]).ok
    assert not judge("regex", "The sum is 18.", TARGETS["regex"]).ok
    assert not judge("regex", "a" * 3900, {"pattern": "^(a*)*b$"}).ok  # in linear time
    with pytest.raises(UncheckableError, match="bounded time"):
        judge("regex", "x", {"pattern": r"(x)\1"})


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_fields_that_a_target_needs_are_declared(checker: str) -> None:
    """With all of them an answer is judged; without any one of them some answer raises KeyError."""
    assert set(FIELDS) == {*CHECKERS, *TIMED_CHECKERS}
    target = TARGETS[checker]
    assert set(FIELDS[checker]) <= set(target)
    only = {name: target[name] for name in FIELDS[checker]}
    for answer in (
        "17",
        "Answer: 17",
        "Run kill 4312.",
        json.dumps(CALL),
        f"<tool_call>{json.dumps(CALL)}</tool_call>",
    ):
        judge(checker, answer, only)
    for name in FIELDS[checker]:
        lacking = {key: value for key, value in only.items() if key != name}
        with pytest.raises(KeyError):
            judge(
                checker,
                f"<tool_call>{json.dumps(CALL)}</tool_call>" if checker == "tool_call" else "Answer: 17",
                lacking,
            )


def test_mention_is_of_whole_words_and_of_no_other_value() -> None:
    assert judge("mentions", "It is zarvik!", TARGETS["mentions"]).ok
    assert not judge("mentions", "It is Zarviko.", TARGETS["mentions"]).ok
    assert not judge("mentions", "Zarvik or Ben.", TARGETS["mentions"]).ok


BABBLE = ["", " ", "\n", "the of and a to", "Question: what? " * 500, "\x00\ud800", "<tool_call>", "{}", "[" * 3000,
          "Answer: ", "9" * 3900, "None", "I can", "Sure, here is how: step 1."]  # fmt: skip


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("answer", BABBLE)
def test_babble_scores_nothing(checker: str, answer: str) -> None:
    assert not judge(checker, answer, TARGETS[checker]).ok


@pytest.mark.parametrize("checker", CHECKERS)
@settings(max_examples=150, deadline=None)
@given(
    answer=st.one_of(st.text(), st.text(alphabet="{}[]\":,.<>/tool_callanswer: \n0123456789eE-+I can't", max_size=80))
)
def test_checkers_never_raise(checker: str, answer: str) -> None:
    first = judge(checker, answer, TARGETS[checker])
    assert first.reason
    assert first == judge(checker, answer, TARGETS[checker])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(answer=st.text())
def test_constraints_never_raise(kind: str, answer: str) -> None:
    parameters = next(c[1] for c in CONSTRAINTS if c[0] == kind)
    verdict = judge("constraints", answer, {"constraints": [{"kind": kind, **parameters}]})
    assert verdict.reason
    assert verdict == judge("constraints", answer, {"constraints": [{"kind": kind, **parameters}]})


def test_unknown_checker_is_an_error() -> None:
    with pytest.raises(KeyError):
        judge("no_such_checker", "x", {})


def test_checkers_load_no_torch() -> None:
    code = "import sys, posttrain.engine.checkers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
