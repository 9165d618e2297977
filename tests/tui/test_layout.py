"""Sizes, and terminals without colour or Unicode."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from posttrain.tui import app as app_module
from tests.tui import records
from tests.tui.fake_server import FakeServer


@pytest.mark.parametrize(
    "way", [(), ("j", "enter"), ("2",), ("2", "enter"), ("3",), ("3", "j", "p"), ("j", "x"), ("question_mark",)]
)
async def test_every_screen_survives_any_size(open_ui: Any, way: tuple[str, ...]) -> None:
    async with open_ui(size=(140, 40)) as ui:
        for key in way:
            await ui.press(key)
            await ui.pilot.pause(0.1)
        if "enter" in way and "j" in way:
            await ui.shows("line 299")
        before = type(ui.app.screen)
        wide = ui.text()
        for width, height in ((60, 15), (20, 5), (1, 1), (80, 24), (119, 30), (120, 12), (140, 40)):
            await ui.pilot.resize_terminal(width, height)
            await ui.pilot.pause()
            lines = ui.text().split("\n")
            assert len(lines) == height
            is_small = width < 40 or height < 12
            assert ("40x12" in " ".join(lines).replace("\n", " ")) == is_small or width < 20
        assert type(ui.app.screen) is before
        gist = re.sub(r"\d+s|\d\d:\d\d:\d\d", "", ui.text())
        assert gist == re.sub(r"\d+s|\d\d:\d\d:\d\d", "", wide), "back at the old size all is as it was"


async def test_narrow_medium_and_wide_show_what_fits(open_ui: Any) -> None:
    async with open_ui(size=(60, 20)) as ui:
        await ui.shows("State", "Step", "● running")
        await ui.press("j")
        assert "Loss" not in ui.text()
        await ui.pilot.resize_terminal(90, 24)
        await ui.shows("Loss", "Chain", "120 of 400")
        assert "Tok/s" not in ui.text()
        await ui.pilot.resize_terminal(140, 40)
        await ui.shows("Tok/s", "Age", "min ")


async def test_panels_are_shown_one_by_one(open_ui: Any) -> None:
    async with open_ui(size=(90, 30)) as ui:
        await ui.open("j", "enter", screen="JobScreen")
        await ui.shows("line 299", "min ")
        await ui.press("v")
        await ui.until(lambda: "line 299" not in ui.text() and "min " in ui.text(), "charts alone")
        await ui.press("v")
        await ui.until(lambda: "line 280" in ui.text() and "min " not in ui.text(), "log alone")
        await ui.press("v")
        await ui.until(lambda: "validating" in ui.text() and "line 299" not in ui.text(), "events alone")
        await ui.press("v")
        await ui.shows("line 299", "min ")


async def test_without_colour_states_differ_by_glyph_and_word(
    open_ui: Any, monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with open_ui() as ui:
        assert ui.app.no_color
        await ui.shows("○ queued", "● running", "✓ succeeded", "✗ failed")
        await ui.press("3")
        await ui.shows("✓ PASS", "✗ FAIL", "[production]")


@pytest.mark.parametrize("size", [(140, 40), (90, 24), (60, 20)])
@pytest.mark.parametrize(
    "way",
    [
        (),
        ("slash",),
        ("question_mark",),
        ("ctrl+p",),
        ("j", "enter"),
        ("j", "x"),
        ("2",),
        ("2", "enter"),
        ("2", "enter", "G", "k", "k"),
        ("3",),
        ("3", "j", "j", "j", "p"),
    ],
)
async def test_ascii_only_is_ascii_only(open_ui: Any, way: tuple[str, ...], size: tuple[int, int]) -> None:
    async with open_ui(size=size, ascii_only=True) as ui:
        await ui.shows("o queued", "* running", "+ succeeded", "x failed")
        for key in way:
            await ui.press(key)
            await ui.pilot.pause(0.2)
        left = set(re.sub(r"[\x00-\x7f]", "", ui.text()))
        assert not left, f"{left}\n{ui.text()}"


async def test_ascii_only_leaves_foreign_text_alone(open_ui: Any, server: FakeServer) -> None:
    await server.put(records.job("five", display_name="日本 naïve"))
    async with open_ui(ascii_only=True) as ui:
        await ui.shows("日本 naïve")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "C"}, True),
        ({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"}, True),
        ({"LANG": "de_DE.utf8"}, False),
        ({}, False),
    ],
)
def test_the_locale_decides_about_ascii(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert app_module._wants_ascii() is expected


async def test_every_theme_draws(open_ui: Any) -> None:
    async with open_ui(size=(100, 30)) as ui:
        for theme in ui.app.available_themes:
            ui.app.theme = theme
            await ui.pilot.pause()
        ui.app.theme = "posttrain-light"
        await ui.shows("● running")


async def test_a_click_opens_what_is_clicked(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.pilot.click(ui.app.screen.query("ModeTab")[2])
        await ui.until(lambda: ui.app.current_mode == "registry", "the mode")
        await ui.pilot.click(ui.app.screen.query("ModeTab")[0])
        await ui.until(lambda: ui.app.current_mode == "jobs", "the mode")
        await ui.pilot.click("LiveTable", offset=(20, 2))
        await ui.pilot.click("LiveTable", offset=(20, 2))
        await ui.until(lambda: type(ui.app.screen).__name__ == "JobScreen", "the job")


def test_the_tui_loads_neither_torch_nor_the_database() -> None:
    code = """if True:
        import sys, posttrain.tui.app
        loaded = set(sys.modules)
        heavy = {"torch", "transformers", "sqlmodel", "sqlalchemy", "pydantic", "lm_eval", "numpy"} & loaded
        ours = {n for n in loaded if n.startswith(("posttrain.evals", "posttrain.registry", "posttrain.engine.m"))}
        sys.exit(repr(heavy | ours) if heavy | ours else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
