"""Policies: what is refused, and that reading never ends in anything but a policy or a PolicyError."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.evals.errors import PolicyError
from posttrain.evals.policy import builtin_policies, load_policy, parse_policy

GOOD = """
name: mine
version: 1
metrics:
  - suite: s
    metric: m
    min_rows: 100
    min_clusters: 10
    rules:
      - {type: floor, at_least: 0.5}
      - {type: noninferior, to: champion, margin: 0.05}
"""


def test_a_good_policy_is_read() -> None:
    policy = parse_policy(GOOD)
    assert policy.suites == ["s"]
    assert [rule.type for rule in policy.metrics[0].rules] == ["floor", "noninferior"]


def test_the_digest_ignores_comments_and_order_but_no_number() -> None:
    policy = parse_policy(GOOD)
    assert parse_policy("# a comment\n" + yaml.safe_dump(yaml.safe_load(GOOD))).digest == policy.digest
    assert parse_policy(GOOD.replace("0.05", "0.06")).digest != policy.digest


@pytest.mark.parametrize("name", builtin_policies())
def test_the_shipped_policies_are_good(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name
    assert policy.shard == "gate"


def test_builtin_names() -> None:
    assert {"default", "smollm2"} <= set(builtin_policies())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("at_least: 0.5", "at_least: 1.5", r"metrics\.0\.rules\.0\.floor\.at_least"),
        ("at_least: 0.5", "at_least: .nan", "at_least"),
        ("at_least: 0.5", "at_least: '0.5'", "at_least"),
        ("at_least: 0.5", "at_most: 0.5", "at_least"),
        ("margin: 0.05", "margin: 0", "margin"),
        ("margin: 0.05", "margin: 0.9", "margin"),
        ("to: champion", "to: nobody", r"noninferior\.to"),
        ("type: floor", "type: roof", r"rules\.0"),
        ("min_rows: 100", "min_rows: 1", "min_rows"),
        ("min_rows: 100", "minrows: 100", "min_rows"),
        ("min_clusters: 10", "min_clusters: 10\n    colour: red", "colour"),
        ("version: 1", "version: one", "version"),
        ("version: 1", "version: 1\nversion: 2", "given twice"),
        ("name: mine", "name: My Policy", "name"),
        ("name: mine", "name: mine\nfoo: 1", "foo"),
        (
            "      - {type: noninferior, to: champion, margin: 0.05}",
            "      - {type: floor, at_least: 0.5}",
            "two floor rules; one of them decides nothing",
        ),
        (
            "{type: floor, at_least: 0.5}",
            "{type: noninferior, to: champion, margin: 0.04}",
            "two noninferior rules against the champion",
        ),
        (
            "{type: floor, at_least: 0.5}",
            "{type: improve, over: parent, by: 0.1, when: base}\n      - {type: improve, over: parent, by: 0.0}",
            "two improve rules against the parent",
        ),
        # Rules that hold for any answers: beside a relative rule that is skipped they would be a PASS for nothing.
        ("at_least: 0.5", "at_least: 0.0", "greater than 0"),
        ("{type: floor, at_least: 0.5}", "{type: ceiling, at_most: 1.0}", "less than 1"),
        (
            "{type: noninferior, to: champion, margin: 0.05}",
            "{type: ceiling, at_most: 0.2}",
            "floor is above the ceiling",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_the_place(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(PolicyError, match=message):
        parse_policy(GOOD.replace(old, new))


def test_one_rule_of_a_type_for_each_baseline() -> None:
    rules = ["{type: ceiling, at_most: 0.9}"] + [
        f"{{type: {kind}: {name}, {value}}}"
        for name in ("parent", "champion")
        for kind, value in (("noninferior, to", "margin: 0.05"), ("improve, over", "by: 0.0"))
    ]
    policy = parse_policy(GOOD[: GOOD.rindex("      - {")] + "".join(f"      - {rule}\n" for rule in rules))
    assert len(policy.metrics[0].rules) == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "metrics: []",
        "name: mine\nversion: 1\nmetrics: []",
        "{",
        "- 1",
        "!!python/object:os.system {}",
        "a: &a [*a]",
    ],
)
def test_an_empty_or_broken_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_a_metric_without_a_rule_is_refused() -> None:
    with pytest.raises(PolicyError, match="rules"):
        parse_policy(GOOD[: GOOD.index("    rules:")] + "    rules: []\n")


def test_a_metric_twice_is_refused() -> None:
    metric = GOOD[GOOD.index("  - suite") :]
    with pytest.raises(PolicyError, match="s/m is listed twice"):
        parse_policy(GOOD + metric)


def test_files_and_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert load_policy(path) == load_policy(str(path)) == parse_policy(GOOD)
    with pytest.raises(PolicyError, match="no policy named 'mine'"):
        load_policy("mine")
    with pytest.raises(PolicyError, match="No such file"):
        load_policy(tmp_path / "other.yaml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="utf-8"):
        load_policy(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(text=st.text(max_size=200) | JSON.map(lambda value: yaml.safe_dump(value)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_policy_error(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


@given(value=JSON, field=st.sampled_from(["name", "version", "shard", "metrics", "format"]))
@settings(max_examples=300, deadline=None)
def test_any_value_of_a_field_is_read_or_refused(value: object, field: str) -> None:
    data = yaml.safe_load(GOOD)
    data[field] = value
    try:
        policy = parse_policy(yaml.safe_dump(data))
    except PolicyError:
        return
    assert policy.metrics, "a policy that was read has a metric"
