"""The package list, the layout and the pins hold together."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("engine", "evals", "registry", "service", "tui")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules() -> list[str]:
    """Every module that the folders hold, by import name."""
    names = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(("posttrain", *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return names


def test_the_listed_packages_are_the_folders_that_hold_modules() -> None:
    on_disk = {
        ".".join(("posttrain", *path.parent.relative_to(ROOT).parts))
        for f in FOLDERS
        for path in (ROOT / f).rglob("*.py")
    }
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(on_disk)
    missing = [package for package in on_disk if not (ROOT.joinpath(*package.split(".")[1:]) / "__init__.py").exists()]
    assert missing == []


def test_every_package_maps_to_a_folder_and_ships_its_type_marker() -> None:
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == {f"posttrain.{folder}": folder for folder in FOLDERS}
    assert all((ROOT / folder / "py.typed").exists() for folder in FOLDERS)


# alembic runs its environment itself, and tests/registry covers it
@pytest.mark.parametrize("name", [name for name in modules() if not name.endswith("migrations.env")])
def test_every_module_imports(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_no_module_is_named_with_a_bare_import() -> None:
    pattern = re.compile(r"^\s*(?:from|import) (engine|evals|registry|service|tui)\b", re.M)
    sources = [path for folder in (*FOLDERS, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in sources if pattern.search(path.read_text())] == []


def test_every_dependency_is_pinned_exactly_once() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = [
        line.split("==")[0].lower().replace("_", "-")
        for line in lines
        if re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", line)
    ]
    assert len(pinned) == len(lines) == len(set(pinned))
    project = PYPROJECT["project"]
    asked = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    assert {re.split(r"[^A-Za-z0-9_.-]", item)[0].lower() for item in asked} <= set(pinned)


LIGHT = {
    "posttrain.engine.spec": ("torch", "transformers"),
    "posttrain.engine.task": ("torch", "transformers"),
    "posttrain.engine.trackers": ("torch", "transformers", "tensorboard", "mlflow"),
    "posttrain.engine.data.validate": ("torch", "transformers"),
    "posttrain.engine.checkers": ("torch", "transformers"),
    "posttrain.evals.rows": ("torch", "transformers", "lm_eval"),
    "posttrain.evals.stats": ("torch", "transformers", "lm_eval"),
    "posttrain.evals.policy": ("torch", "transformers", "lm_eval"),
    "posttrain.evals.gate": ("torch", "transformers", "lm_eval"),
    "posttrain.registry.store": ("torch", "transformers", "lm_eval", "grpc"),
    "posttrain.registry.promotion": ("torch", "transformers", "lm_eval", "grpc"),
    "posttrain.service.client": ("torch", "transformers", "lm_eval", "sqlmodel", "sqlalchemy", "textual"),
    "posttrain.service.server": ("torch", "transformers", "lm_eval", "textual"),
    "posttrain.tui.app": ("torch", "transformers", "lm_eval", "sqlmodel", "sqlalchemy"),
}


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_module_loads_no_heavy_one(name: str) -> None:
    code = f"import sys, {name}; print(sorted(set({LIGHT[name]!r}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
