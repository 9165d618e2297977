"""examples/preferences: rows, specs and policies can be used as they are, and the tables say what the records do."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from posttrain.engine.spec import parse_spec
from posttrain.evals.policy import load_policy
from posttrain.evals.suites.generate import build

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "preferences"
STAGES = ("start", "tools", "preferences", "reward")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"preferences_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_the_same_from_the_same_seed_and_leave_room_above() -> None:
    make_data = script("make_data")
    files = make_data.build_files(1)
    assert make_data.build_files(1) == files
    rows = {name: [json.loads(line) for line in body.decode().splitlines()] for name, body in files.items()}
    assert {name for stage in STAGES for name in sources_of(stage)} <= {name.removesuffix(".jsonl") for name in rows}
    start = Counter(row["meta"]["family"] for row in rows["start.jsonl"])
    for family, num in build.TRAINING_ROWS.items():
        one_in = 6 if family == "refusal.harmful" else 4 if family.startswith("tool_use.") else 1
        assert start[family] == num // one_in, family
    parts = [rows[f"{name}.jsonl"] for name in ("calls", "abstentions", "harmful", "rehearsal")]
    families = [{row["meta"]["family"] for row in part} for part in parts]
    assert families[:3] == [{"tool_use.call"}, {"tool_use.no_call"}, {"refusal.harmful"}]
    assert families[3] == set(build.TRAINING_ROWS) - set.union(*families[:3])
    tools = Counter(row["meta"]["family"] for row in [*parts[0], *parts[1]])
    for family, num in tools.items():
        assert num == build.TRAINING_ROWS[family] + sum(more.get(family, 0) for more in make_data.MORE_ROWS.values())
    assert len(rows["held_out.jsonl"]) == 100 * len(build.TRAINING_ROWS)


def test_pairs_rehearse_what_is_to_stay_by_answers_of_another_topic() -> None:
    make_data = script("make_data")
    pairs = [json.loads(line) for line in make_data.build_files(1)["pairs.jsonl"].decode().splitlines()]
    found = Counter((row["meta"]["family"], row["meta"]["fault"]) for row in pairs)
    both = Counter(make_data.PAIRS) + Counter(make_data.MORE_PAIRS)
    wanted = {tuple(name.split(": ")): num for name, num in both.items() if ": " in name}
    assert wanted.items() <= found.items()
    assert found["refusal.harmful", "complies"] == make_data.PAIRS["refusal.harmful"]
    assert sum(found.values()) == sum(both.values())


def test_reward_pairs_hold_more_of_the_faults_that_are_missed_most() -> None:
    make_data = script("make_data")
    pairs = [json.loads(line) for line in make_data.build_files(1)["reward_pairs.jsonl"].decode().splitlines()]
    found = Counter(f"{row['meta']['family']}: {row['meta']['fault']}" for row in pairs)
    assert all(found[name] >= num for name, num in make_data.MORE_REWARD_PAIRS.items())
    assert sum(found.values()) == sum(make_data.REWARD_PAIRS.values()) + sum(make_data.MORE_REWARD_PAIRS.values())


def spec_of(stage: str) -> dict[str, Any]:
    plain = yaml.safe_load((FOLDER / f"{stage}.yaml").read_text(encoding="utf-8"))
    assert isinstance(plain, dict)
    return plain


def sources_of(stage: str) -> list[str]:
    return [source["dataset"].partition("@")[0] for source in spec_of(stage)["data"]]


@pytest.mark.parametrize("stage", STAGES)
def test_specs_are_specs(stage: str) -> None:
    assert parse_spec(spec_of(stage)).kind == spec_of(stage)["kind"]


def test_policies_judge_every_metric_and_differ_from_the_default_only_in_what_is_to_improve() -> None:
    default = {metric.metric: metric for metric in load_policy("default").metrics}
    for name, risen in (("preferences", {"refusal.harmful"}), ("tools", {"tool_use.call", "tool_use.no_call"})):
        policy = load_policy(FOLDER / "policies" / f"{name}.yaml")
        assert policy.name == name
        assert policy.shard == "gate"
        assert {metric.metric for metric in policy.metrics} == set(default)
        for metric in policy.metrics:
            (rule,) = metric.rules
            theirs = default[metric.metric]
            assert (metric.min_rows, metric.min_clusters) == (theirs.min_rows, theirs.min_clusters)
            assert rule.type == ("improve" if metric.metric in risen else "noninferior")
            assert rule in theirs.rules or rule.type == "improve"


def test_tables_by_hand() -> None:
    metric = {"rule": "improve", "verdict": "PASS", "n": 520, "baseline": 0.0, "candidate": 0.875, "difference": 0.875}
    blocked = {**metric, "rule": "noninferior", "verdict": "INCONCLUSIVE", "baseline": 0.5, "candidate": 0.45}
    judged = {
        "verdict": "INCONCLUSIVE", "steps": 95, "seconds": 60.4,
        "metrics": {"up": {**metric, "low": 0.8, "high": 0.9}, "kept": {**blocked, "low": -0.09, "high": -0.01}},
    }  # fmt: skip
    held_out = {"all": {"n": 700, "accuracy": 0.9}, "reasoning": {"n": 100, "accuracy": 0.625}}
    seed = {"seed": 3, "preferences": judged, "tools": {**judged, "verdict": "PASS"}, "reward": {"held_out": held_out}}
    lines = script("table").markdown([seed]).splitlines()
    assert "### DPO: PASS on 0 of 1 seeds" in lines
    assert "### Tool use: PASS on 1 of 1 seeds" in lines
    assert (
        "| 3 | INCONCLUSIVE | 0.0 -> 87.5 [+80.0, +90.0] | 50.0 -> 45.0 [-9.0, -1.0] INCONCLUSIVE | 95, 60 |" in lines
    )
    assert "### Reward model: 90% or more on 1 of 1 seeds" in lines
    assert "| reasoning | 100 | 62.5 |" in lines
