"""`--ascii`: what this project and Textual draw, in ASCII of the same width. Foreign text keeps its letters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_DRAWN: Final = {
    "…": "~",
    "–—─━═╌┄┈╸╺": "-",
    "│┃║┊┆▏▎▍▌▋▊▉": "|",
    "└┗╚┌┏╔┐┓╗┘┛╝├┣╠┤┫╣┬┴┼╭╮╯╰": "+",
    "▼▾": "v",
    "▲▴": "^",
    "▶▸→": ">",
    "◀◂←": "<",
    "×✖": "x",
    "●•·": "*",
    "▁▂▃▄▅▆▇█▀▔▐": " ",  # ends of scroll bars, edges of boxes: their colour is left
    "🔎": "> ",
}
_TABLE: Final = str.maketrans({glyph: plain for glyphs, plain in _DRAWN.items() for glyph in glyphs})


class AsciiFilter(LineFilter):
    """Replaces drawn glyphs in every line on its way to the terminal."""

    def apply(self, segments: Iterable[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.text.isascii()
            else Segment(segment.text.translate(_TABLE), segment.style, segment.control)
            for segment in segments
        ]
