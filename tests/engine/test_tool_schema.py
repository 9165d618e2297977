"""Calls are checked against their tool's schema by field; a hostile schema neither hangs, nor fetches, nor fails."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.engine.data import schemas
from posttrain.engine.data.examples import Example
from posttrain.engine.data.patterns import UncheckableError, size_of
from posttrain.engine.data.tool_schema import check_calls


def findings(parameters: dict[str, Any], arguments: dict[str, Any], name: str = "f") -> list[tuple[str, str]]:
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": name, "arguments": arguments}]},
    ]
    return check_calls(Example(messages, [{"name": "f", "description": "", "parameters": parameters}]))


def objects(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


WEATHER = {
    **objects(
        city={"type": "string", "maxLength": 99},
        days={"type": "integer", "minimum": 1},
        unit={"enum": ["C", "F"]},
        spots={"type": "array", "items": objects(lat={"type": "number"})},
    ),
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("arguments", "field", "reason"),
    [
        ({"days": 2}, "", "lacks city"),
        ({"city": 5}, ".city", "must be string, not a number"),
        ({"city": "Rome", "days": "2"}, ".days", "must be integer, not text"),
        ({"city": "Rome", "days": True}, ".days", "must be integer, not a boolean"),
        ({"city": "Rome", "days": 0}, ".days", "0 is less than the minimum of 1"),
        ({"city": "Rome" * 99}, ".city", "breaks maxLength: 99"),
        ({"city": "Rome", "unit": "K"}, ".unit", """must be one of ["C", "F"], not 'K'"""),
        ({"city": "Rome", "spots": [{}, {"lat": "5"}]}, ".spots[1].lat", "must be number, not text"),
        (
            {"city": "Rome", "a, b\n\x1b[1m": 1},
            "",
            r"has 'a, b\n\x1b[1m', which the tool does not take (city, days, unit, spots)",
        ),
        ({"city": "Rome", "when": 1}, "", "has when, which the tool does not take (city, days, unit, spots)"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], field: str, reason: str) -> None:
    assert findings(WEATHER, arguments) == [(f"messages[1].tool_calls[0].arguments{field}", reason)]


def test_what_a_schema_forbids_itself_is_named() -> None:
    nested = objects(a={**objects(b={}), "additionalProperties": False})
    assert findings(nested, {"a": {"c": 1}}) == [
        ("messages[1].tool_calls[0].arguments.a", "has c, which the tool does not take (b)")
    ]


def test_right_calls() -> None:
    assert findings(WEATHER, {"city": "Rome", "days": 2.0, "unit": "C", "spots": [{"lat": 1}]}) == []
    assert findings({}, {"anything": 1}) == []
    assert findings({"type": "object"}, {"anything": 1}) == []
    assert findings({**objects(a={}), "additionalProperties": True}, {"b": 1}) == []
    assert findings({**objects(a={}), "patternProperties": {"^x": {"type": "integer"}}}, {"xy": 1}) == []
    assert findings({"$schema": "http://json-schema.org/draft-07/schema#", **objects(a={})}, {"a": 1}) == []
    assert findings(objects(a={"$ref": "#/$defs/n"}) | {"$defs": {"n": {"type": "integer"}}}, {"a": 1}) == []


def test_an_unknown_tool_and_an_answer_without_a_call() -> None:
    assert findings({}, {}, "g") == [("messages[1].tool_calls[0].name", "no tool 'g' is on offer (f)")]
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    tool, user, tools = (
        {"role": "tool", "content": "1"},
        {"role": "user", "content": "x"},
        [{"name": "f", "parameters": {}}],
    )
    lonely = ("messages[{}]", "a tool's answer without a call that it answers")
    assert check_calls(Example([user, call, tool], tools)) == []
    assert check_calls(Example([user, call, tool, tool], tools)) == [(lonely[0].format(3), lonely[1])]
    assert check_calls(Example([user, call, user, tool], tools)) == [(lonely[0].format(3), lonely[1])]
    assert check_calls(Example([user, call], [])) == [
        ("messages[1].tool_calls[0].name", "no tool 'f' is on offer (none)")
    ]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "dict"}, "is no JSON schema: type: 'dict' is not valid"),
        (objects(a={"type": "str"}), "is no JSON schema: properties.a.type: 'str'"),
        ({"required": "a"}, "is no JSON schema: required"),
        (objects(a={"$ref": "https://example.com/a.json"}), "refers to 'https://example.com/a.json'"),
        (objects(a={"$ref": "other.json#/a"}), "refers to 'other.json#/a'"),
        (objects(a={"$ref": "#/$defs/none"}), "its schema has no '/$defs/none'"),
        (
            {"$schema": "http://json-schema.org/draft-03/schema#"},
            "is of a dialect ($schema) that is not known: 'http://json-schema.org/draft-03/schema#'; draft-04,",
        ),
        ({"$schema": "https://json-schema.org/draft-03/schema"}, "json-schema.org/draft-03/schema"),
        ({"$schema": "https://example.com/mine"}, "($schema) that is not known: 'https://example.com/mine'"),
        ({"$schema": ""}, "($schema) that is not known: ''"),
        ({"unevaluatedProperties": False}, "uses unevaluatedProperties"),
        (objects(a={"enum": list(range(5000))}), "has more than 2048 values"),
        (objects(a={"pattern": "(?=x)"}), "the pattern '(?=x)' cannot be matched in bounded time"),
        ({"$schema": ["x"]}, "names its dialect ($schema) by a list, not text"),
        ({"$schema": {}}, "names its dialect ($schema) by an object, not text"),
        ({"$schema": 7}, "names its dialect ($schema) by a number, not text"),
        ({"$schema": "http://[x"}, "($schema) that is not known: 'http://[x'"),
        (objects(a={"pattern": "(?x)a"}), "has the flag x"),
        (objects(a={"pattern": r"(\pL{1,200})0_i$"}), "repeats too much"),
        (objects(a={"pattern": r"((a{20}){20}){20}"}), "repeats too much"),
        (objects(a={"pattern": "("}), "the pattern '(' cannot be matched in bounded time"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_named(schema: dict[str, Any], reason: str) -> None:
    ((field, said),) = findings(schema, {"a": "x"})
    assert field in ("tools[0].parameters", "messages[1].tool_calls[0].arguments")
    assert reason in said


@pytest.mark.parametrize(
    "dialect",
    [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema#",
    ],
)
def test_known_dialects_are_taken_at_their_word(dialect: str) -> None:
    schema = {"$schema": dialect, **objects(a={"type": "string"})}
    assert findings(schema, {"a": "x"}) == []
    ((field, said),) = findings(schema, {"a": 1})
    assert field == "messages[1].tool_calls[0].arguments.a"
    assert "string" in said


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        (r"a{3}b?", 4),
        (r"a{2,5}?", 5),
        (r"a{7,}", 7),
        (r"(ab{3}){2}", 10),  # each group is one more
        (r"(?P<x>a){2}(?:b){3}(?i)", 11),
        (r"[a-z]{9}", 9),
        (r"[]a]{9}", 9),
        (r"[^]a]{9}", 9 * 5),
        (r"[a[b]]{9}", 9 * 6),
        (r"\w{2}", 2 * 42),
        (r"\pL{2}", 2 * 43),
        (r"\{3}", 3),  # no repeat: an escaped brace
        (r"x\x{41}{3}", 1 + 3 * 7),
        (r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", 38),
    ],
)
def test_the_size_of_a_pattern(pattern: str, size: int) -> None:
    assert size_of(pattern) == size


@given(st.text("ab(){}[]^\\\\pxw,?*+|.5é", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_pattern_has_a_size(pattern: str) -> None:
    try:
        size = size_of(pattern)
    except UncheckableError:
        assert "x" in pattern
    else:
        assert size >= 0


def test_a_row_pays_once_for_a_pattern_and_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there are more of them than are kept from row to row."""
    made: list[str] = []
    plain = schemas.validator_of

    def record(text: str) -> Any:
        made.append(text)
        return plain(text)

    monkeypatch.setattr(schemas, "validator_of", record)
    num = 3 * schemas.KEPT
    tools = [{"name": f"f{i}", "parameters": objects(a={"pattern": f"^{i}$" if i else "("})} for i in range(num)]
    calls = [{"name": f"f{i}", "arguments": {"a": str(i)}} for _ in range(3) for i in range(num)]
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    found = check_calls(Example(messages, tools))
    assert [field for field, _ in found] == [f"messages[1].tool_calls[{i}].arguments" for i in (0, num, 2 * num)]
    assert len(made) == num


def doubling(depth: int) -> dict[str, Any]:
    inner = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {**objects(a={"$ref": "#/$defs/d0"}), "$defs": {**inner, f"d{depth}": {"type": "integer"}}}


HOSTILE: dict[str, tuple[dict[str, Any], Any]] = {
    "a pattern that backtracks": (objects(a={"pattern": "^(a+)+$"}), "a" * 4000 + "!"),
    "a pattern that grows": (objects(a={"pattern": r"(\w{900}){900}"}), "a"),
    "a pattern against much text": (objects(a={"pattern": "(a?){1000}a{1000}"}), "a" * 2**20),
    "itself": ({"$ref": "#"}, 1),
    "itself in a property": (objects(a={"$ref": "#/properties/a"}), 1),
    "two to the power of 30": (doubling(30), "x"),
    "much text, many alternatives": (objects(a={"anyOf": [{"type": "integer"}] * 600}), "x" * 2**21),
    "many items, many alternatives": (
        objects(a={"contains": {"anyOf": [{"const": "x" * 999}] * 200}}),
        ["y" * 999] * 1500,
    ),
    "many items": (objects(a={"items": {"type": "integer"}}), [0] * 100_000),
    "deep arguments": (objects(a={"items": {"$ref": "#/properties/a"}}), __import__("json").loads("[" * 60 + "]" * 60)),
    "many patterns": (
        objects(a={"patternProperties": {f"^k{i}.*z": {} for i in range(900)}}),
        {f"k{i}": 1 for i in range(900)},
    ),
    "numbers beyond floats": (objects(a={"multipleOf": 1.5}), 10**400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_ends_soon_and_the_same_each_time(name: str) -> None:
    schema, value = HOSTILE[name]
    started = time.process_time()
    found = findings(schema, {"a": value})
    assert time.process_time() - started < 5.0
    assert found == findings(schema, {"a": value})
    assert all(len(reason) < 500 for _, reason in found)
    assert found or name == "deep arguments"


def test_many_calls_of_a_row_share_one_budget() -> None:
    schema = objects(a={"anyOf": [{"type": "integer"}] * 600})
    call = {"name": "f", "arguments": {"a": "x" * 1000}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call] * 500}]
    found = check_calls(Example(messages, [{"name": "f", "parameters": schema}]))
    assert "alternatives of anyOf" in found[0][1]
    assert "more than 50000 steps" in found[-1][1]


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import urllib.request

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for schema in (
        objects(a={"$ref": "http://127.0.0.1:9/x"}),
        {"$id": "http://127.0.0.1:9/", **objects(a={"$ref": "#/x"})},
        {"$schema": "http://127.0.0.1:9/x", **objects(a={"type": "integer"})},
        {"$id": "http://127.0.0.1:9/", **objects(a={"$id": "b/", "$ref": "#frag"})},
    ):
        assert findings(schema, {"a": "x"}) != []


KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["string", "integer", "number", "boolean", "null", "array", "object", ["string", "null"]]
        ),
        "enum": st.lists(st.sampled_from([1, 1.0, True, "a", None, [1]]), max_size=3),
        "const": st.sampled_from([1, True, "a"]),
        "minimum": st.integers(-2, 3),
        "maxLength": st.integers(0, 3),
        "pattern": st.sampled_from(["^a", "b$", "[0-9]"]),
        "uniqueItems": st.booleans(),
        "required": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
        "additionalProperties": st.booleans() | st.just({"type": "integer"}),
        "patternProperties": st.just({"^a": {"type": "string"}}),
    },
)
SCHEMAS = st.recursive(
    KEYWORDS,
    lambda inner: st.builds(
        lambda own, **more: {**own, **more},
        KEYWORDS,
        properties=st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        items=inner,
        anyOf=st.lists(inner, min_size=1, max_size=2),
    ),
    max_leaves=4,
)
VALUES = st.recursive(
    st.sampled_from([0, 1, 1.0, 2, True, False, None, "", "a", "ab", "b7"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ab"]), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, VALUES)
def test_agrees_with_jsonschema_itself(schema: dict[str, Any], value: Any) -> None:
    """The keywords that are ours (patterns, additional properties, unique items) and the others, one level down."""
    ours = findings(objects(a=schema), {"a": value})
    assert bool(ours) != jsonschema.Draft202012Validator(schema).is_valid(value)
