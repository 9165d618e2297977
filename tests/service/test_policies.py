"""Which policies a service takes."""

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


@pytest.mark.parametrize(
    "option",
    [
        "",
        "sequential: {looks: 4}",
        "improve_any: {over: champion}",
        "attempts: {budget: 5}",
        "noise_floor: {of: parent}",
    ],
)
def test_every_option_is_taken(tmp_path: Path, option: str) -> None:
    assert in_force(tmp_path, option) == "mine"
    assert in_force(tmp_path, "ancestor: bot@1", "ancestor") == "mine"


def test_a_search_of_the_training_data_is_refused_and_not_forgotten(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"mine: contamination: this server searches no training data"):
        in_force(tmp_path, "contamination: {action: warn}")


def test_a_file_with_another_name_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(TEXT.replace("OPTION", "").replace("BASELINE", "parent"), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"other\.yaml holds a policy named 'mine'"):
        policy_in_force(tmp_path, "other")
