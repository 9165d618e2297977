"""The example of tools that run: its rows can be used, its specs are specs, and the same seed makes the same bytes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.engine.checkers import judge
from posttrain.engine.data.prompts import read_prompt
from posttrain.engine.environments.episodes import with_tools
from posttrain.engine.environments.tools import Toolbox
from posttrain.engine.spec import GrpoSpec, parse_spec

FOLDER = Path(__file__).parents[2] / "examples" / "grpo"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    place = importlib.util.spec_from_file_location("make_tools_data", FOLDER / "make_tools_data.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    found: dict[str, bytes] = module.build_files(3, 20, 10, 5)
    assert module.build_files(3, 20, 10, 5) == found
    assert module.build_files(4, 20, 10, 5) != found
    return found


def rows(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines()]


def test_a_look_up_answers_every_question(files: dict[str, bytes]) -> None:
    spec = parse_spec(yaml.safe_load((FOLDER / "tools.yaml").read_text("utf-8")))
    assert isinstance(spec, GrpoSpec)
    options: Any = spec.environment
    toolbox = Toolbox(options)
    for row in [*rows(files["prompts.jsonl"]), *rows(files["held_out.jsonl"])]:
        example = with_tools(read_prompt(row), options, "row")
        (key,) = [key for key in example.target["table"] if key in example.prompt[0]["content"]]
        found = toolbox.call("lookup", {"key": key}, example.target["table"])
        assert found not in example.prompt[0]["content"]
        assert judge(example.checker, f"The number is {found}.", example.target).ok
        assert not judge(example.checker, "The number is 7.", example.target).ok
    asked = {row["messages"][0]["content"] for row in rows(files["prompts.jsonl"])}
    assert not asked & {row["messages"][0]["content"] for row in rows(files["held_out.jsonl"])}


def test_the_start_shows_look_ups(files: dict[str, bytes]) -> None:
    assert parse_spec(yaml.safe_load((FOLDER / "tools-start.yaml").read_text("utf-8"))).kind == "ift"
    talks = [row for row in rows(files["start.jsonl"]) if len(row["messages"]) == 4]
    assert (len(talks), len(rows(files["start.jsonl"]))) == (10, 15)
    for row in talks:
        assert row["messages"][1]["tool_calls"][0]["name"] == "lookup"
        assert row["messages"][2]["content"] in row["messages"][3]["content"]
