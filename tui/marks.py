"""How states and verdicts look: a glyph, a word and a colour, so that each tells them apart without the other two.

Colours are the Okabe-Ito set, which stays distinct for all common kinds of colour blindness.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text
from textual.color import Color
from textual.theme import Theme

from posttrain.service.proto import gates_pb2 as gates
from posttrain.service.proto import jobs_pb2 as jobs
from posttrain.tui.text import one_line

DARK = Theme(
    name="posttrain-dark",
    primary="#56B4E9",
    secondary="#0072B2",
    accent="#CC79A7",
    success="#2BB98A",
    warning="#E69F00",
    error="#F0703C",
    foreground="#D9E0E8",
    background="#0E1318",
    surface="#121920",
    panel="#1B252F",
    dark=True,
    variables={
        "block-cursor-background": "#23445A",
        "block-cursor-foreground": "#FFFFFF",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#1B2E3C",
        "footer-key-foreground": "#56B4E9",
        "footer-background": "#121920",
        "border": "#56B4E9",
        "border-blurred": "#2A3947",
    },
)
LIGHT = Theme(
    name="posttrain-light",
    primary="#0072B2",
    secondary="#56B4E9",
    accent="#A23B7A",
    success="#00795A",
    warning="#9A5B00",
    error="#B84300",
    foreground="#1C242C",
    background="#F4F6F8",
    surface="#FFFFFF",
    panel="#E4E9EE",
    dark=False,
    variables={
        "block-cursor-background": "#BBDDF2",
        "block-cursor-foreground": "#0B1620",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#DCEBF5",
        "footer-key-foreground": "#0072B2",
        "border": "#0072B2",
        "border-blurred": "#C3CCD5",
    },
)


@dataclass(frozen=True)
class Mark:
    """A glyph, the glyph for terminals without Unicode, a word, and the name of a theme colour (see `Palette`)."""

    glyph: str
    ascii: str
    word: str
    colour: str


_STATES: dict[int, Mark] = {
    jobs.JOB_STATE_UNSPECIFIED: Mark("?", "?", "unknown", "muted"),
    jobs.VALIDATING: Mark("◌", ".", "validating", "muted"),
    jobs.QUEUED: Mark("○", "o", "queued", "muted"),
    jobs.STARTING: Mark("◔", ">", "starting", "primary"),
    jobs.RUNNING: Mark("●", "*", "running", "primary"),
    jobs.PAUSING: Mark("◑", "(", "pausing", "warning"),
    jobs.PAUSED: Mark("‖", "=", "paused", "warning"),
    jobs.RECOVERING: Mark("↻", "~", "recovering", "warning"),
    jobs.CANCELLING: Mark("◐", ")", "cancelling", "warning"),
    jobs.SUCCEEDED: Mark("✓", "+", "succeeded", "success"),
    jobs.FAILED: Mark("✗", "x", "failed", "error"),
    jobs.CANCELLED: Mark("⊘", "-", "cancelled", "muted"),
}
TERMINAL = frozenset({jobs.SUCCEEDED, jobs.FAILED, jobs.CANCELLED})

_VERDICTS: dict[int, Mark] = {
    gates.VERDICT_UNSPECIFIED: Mark("·", ".", "none", "muted"),
    gates.PASS: Mark("✓", "+", "PASS", "success"),
    gates.FAIL: Mark("✗", "x", "FAIL", "error"),
    gates.INCONCLUSIVE: Mark("?", "?", "INCONCLUSIVE", "warning"),
}

CHAIN = (
    (jobs.TRAIN, "train"),
    (jobs.REGISTER, "register"),
    (jobs.EVALUATE, "evaluate"),
    (jobs.GATE, "gate"),
    (jobs.PROMOTE, "promote"),
)
DONE = Mark("✓", "+", "done", "success")
NOW = Mark("●", "*", "now", "primary")
NEXT = Mark("○", "o", "next", "muted")
STOPPED = Mark("✗", "x", "stopped", "error")
BLOCKED = Mark("⊘", "-", "blocked", "warning")


def state_mark(state: int) -> Mark:
    """The mark of a job's state; one that a newer server invented is shown as unknown."""
    return _STATES.get(state, _STATES[jobs.JOB_STATE_UNSPECIFIED])


def verdict_mark(verdict: int) -> Mark:
    return _VERDICTS.get(verdict, _VERDICTS[gates.VERDICT_UNSPECIFIED])


def verdict_from_word(word: str) -> int:
    """The verdict that ModelVersion.gate_verdict names; unspecified for anything else."""
    return next((verdict for verdict, mark in _VERDICTS.items() if mark.word == word), gates.VERDICT_UNSPECIFIED)


@dataclass(frozen=True)
class Palette:
    """The running theme's colours as rich understands them, and whether glyphs must be ASCII."""

    primary: str
    success: str
    warning: str
    error: str
    accent: str
    foreground: str
    background: str
    muted: str
    track: str
    is_ascii: bool = False

    @classmethod
    def of(cls, theme: Theme, is_ascii: bool) -> Palette:
        ours = DARK if theme.dark else LIGHT
        names = ("primary", "success", "warning", "error", "accent", "foreground", "background")
        colours = {name: Color.parse(getattr(theme, name) or getattr(ours, name)).hex6 for name in names}
        muted, track = ("#8493A1", "#22303C") if theme.dark else ("#5B6874", "#D5DCE3")
        return cls(**colours, muted=muted, track=track, is_ascii=is_ascii)

    def colour(self, name: str) -> str:
        colour: str = getattr(self, name)
        return colour

    def glyph(self, mark: Mark) -> str:
        return mark.ascii if self.is_ascii else mark.glyph

    def mark(self, mark: Mark, word: str | None = None) -> Text:
        """Glyph and word in the mark's colour."""
        shown = one_line(mark.word if word is None else word, 40)
        return Text(f"{self.glyph(mark)} {shown}".rstrip(), style=self.colour(mark.colour), no_wrap=True)

    def chips(self, names: list[str]) -> Text:
        """Aliases: bracketed, so that they stay chips without colour."""
        text = Text(no_wrap=True)
        for name in names:
            text.append(f"[{one_line(name, 30)}]", style=f"bold {self.background} on {self.accent}")
            text.append(" ")
        text.rstrip()
        return text

    def bar(self, done: int, total: int, width: int) -> Text:
        """A progress bar in halves of a cell."""
        share = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
        text = Text(no_wrap=True)
        if self.is_ascii:
            full = round(share * width)
            return text.append("#" * full, self.primary).append("." * (width - full), self.muted)
        full, half = divmod(round(share * width * 2), 2)
        return text.append("━" * full + "╸" * half, self.primary).append("─" * (width - full - half), self.muted)
