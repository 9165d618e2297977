"""Which policies a service takes: those whose every option something reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.evals.errors import PolicyError
from posttrain.service.policies import policy_in_force

TEXT = """
name: mine
version: 1
OPTION
metrics:
  - suite: s
    metric: m
    min_rows: 2
    min_clusters: 2
    rules:
      - {type: noninferior, to: BASELINE, margin: 0.08}
"""


def in_force(folder: Path, option: str, baseline: str = "parent") -> str:
    (folder / "mine.yaml").write_text(TEXT.replace("OPTION", option).replace("BASELINE", baseline), encoding="utf-8")
    return policy_in_force(folder, "mine").name


@pytest.mark.parametrize("option", ["", "sequential: {looks: 4}", "improve_any: {over: champion}"])
def test_options_of_rows_alone_are_taken(tmp_path: Path, option: str) -> None:
    assert in_force(tmp_path, option) == "mine"


def test_a_pinned_ancestor_and_a_budget_are_taken(tmp_path: Path) -> None:
    assert in_force(tmp_path, "ancestor: bot@1", "ancestor") == "mine"
    assert in_force(tmp_path, "attempts: {budget: 5}") == "mine"


@pytest.mark.parametrize(
    ("option", "baseline", "name"),
    [
        ("noise_floor: {of: parent}", "parent", "noise_floor"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(tmp_path: Path, option: str, baseline: str, name: str) -> None:
    with pytest.raises(PolicyError, match=f"mine.yaml: {name}: the service cannot give"):
        in_force(tmp_path, option, baseline)
