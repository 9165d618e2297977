"""The base model that ships with the package, and the scripts that made it."""

from __future__ import annotations

from pathlib import Path

BASE_DIR: Path = Path(__file__).resolve().parent / "model"
