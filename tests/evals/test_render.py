"""Flip lists, and reports in which hostile text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.evals.flips import flip_lists
from posttrain.evals.gate import run_gate
from posttrain.evals.policy import Floor, Improve, NonInferior, Policy
from posttrain.evals.render import code, to_html, to_markdown, visible
from posttrain.evals.rows import EvalRun

from .build import change_header, change_row, make_run, one_metric

SM = ("s", "m")
POLICY = one_metric(
    Floor(at_least=0.5),
    NonInferior(to="champion", margin=0.1),
    Improve(over="parent", by=0.1, when="base"),
)
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></td></table><h1>PASS</h1>",
    "</style><svg onload=alert(1)>",
    '" onmouseover="alert(1)',
    "[click](javascript:alert(1)) ![x](https://evil.example/p.png)",
    "``` \n# PASS\n| a | b |\n|---|---|",
    "` `` ``` @everyone #1 https://evil.example www.evil.example",
    "\x1b[2J\x1b]52;c;aGk=\x07 \u202etxet\u202c \u200b\x00\x85",
    "a|b||c\\|d",
    "&lt;b&gt; &amp; &#x3c;",
    "-->\n<!-- x",
    "`",
    "``",
    " ",
    "\ud7ff\ufffe",
]


def build(answer: str = "an answer", **options: Any) -> tuple[EvalRun, dict[Any, EvalRun]]:
    old = [1.0] * 30 + [0.0] * 10
    new = [0.0] * 2 + [1.0] * 31 + [0.0] * 7
    candidate = make_run({SM: new}, wordings=40)
    champion = make_run({SM: old}, version="bot@1", weights="champion", wordings=40)
    parent = make_run({SM: old}, version="bot@0", weights="champion", wordings=40)
    for index in (0, 30):
        candidate = change_row(candidate, index, answer=answer, **options)
    return candidate, {"champion": champion, "parent": parent}


def rendered(candidate: EvalRun, sides: dict[Any, EvalRun], policy: Policy = POLICY) -> tuple[str, str]:
    report = run_gate(policy, candidate, sides)
    flips = flip_lists(policy, candidate, sides)
    return to_markdown(report, flips), to_html(report, policy, flips)


def test_which_examples_flipped() -> None:
    candidate, sides = build("new", reason="because")
    lists = {part.baseline: part for part in flip_lists(POLICY, candidate, sides)}
    part = lists["champion"]
    assert [flip.example_id for flip in part.worse] == ["m-00000", "m-00001"]
    assert [flip.example_id for flip in part.better] == ["m-00030", "m-00031", "m-00032"]
    assert (part.n, part.worse[0].baseline.score, part.worse[0].candidate.score) == (40, 1.0, 0.0)
    assert (part.worse[0].candidate.answer, part.worse[0].candidate.reason) == ("new", "because")
    edited = change_row(candidate, 0, messages_digest="0" * 64)
    assert len(flip_lists(POLICY, edited, sides)[0].worse) == 1, "what was asked otherwise is no flip"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    return tags


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_markup_to_html(text: str) -> None:
    """The same tags and attributes as with harmless text, and nothing but text of what was hostile."""
    plain = parsed(rendered(*build("harmless", reason="harmless"))[1])
    candidate, sides = build(text, reason=text)
    hostile = parsed(rendered(candidate, sides)[1])
    assert hostile.tags == plain.tags
    assert any(visible(text).strip() in data for data in hostile.text)
    everywhere = change_header(candidate, version=text)
    everywhere = change_row(everywhere, 1, scorer_error=text, example_id=text)
    html = rendered(everywhere, sides)[1]
    names = {tag for tag, _ in parsed(html).tags}
    assert names <= {tag for tag, _ in plain.tags}
    assert not {name for _, attributes in parsed(html).tags for name in attributes} & {
        "onload",
        "onerror",
        "src",
        "href",
    }


def test_html_is_one_file_without_script() -> None:
    html = rendered(*build())[1]
    tags = parsed(html)
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & {tag for tag, _ in tags.tags}
    assert "default-src 'none'" in html.replace("&#x27;", "'")
    assert not re.search(r"https?://|url\(|@import", html)
    drawn = [tag for tag, _ in tags.tags if tag == "svg"]
    assert len(drawn) == 2, "the skipped rule has no interval"


def test_the_interval_is_drawn_to_scale() -> None:
    candidate, sides = build()
    report = run_gate(POLICY, candidate, sides)
    html = to_html(report, POLICY)
    result = next(item for item in report.results if item.rule == "noninferior")
    low, high = min(-0.3, result.low), max(0.3, result.high)

    def x(value: float) -> str:
        return f"{4 + (value - low) / (high - low) * 312:.1f}"

    assert f'<line x1="{x(result.low)}" x2="{x(result.high)}"' in html
    assert f'<line x1="{x(-0.1)}" x2="{x(-0.1)}"' in html, "the threshold"
    assert f'<circle cx="{x(result.estimate)}"' in html


def spans(markdown: str) -> str:
    """The page without its code spans, found as CommonMark does: a run of backticks up to the next equal run."""
    out, at = "", 0
    while opening := re.compile("`+").search(markdown, at):
        closing = re.compile(f"(?<!`){opening[0]}(?!`)").search(markdown, opening.end())
        assert closing is not None, "a code span that does not end"
        out += markdown[at : opening.start()] + "CODE"
        at = closing.end()
    return out + markdown[at:]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_code_spans(text: str) -> None:
    """Outside of code spans the page is the same as with harmless text."""
    plain = rendered(*build("harmless", reason="harmless"))[0]
    hostile = rendered(*build(text, reason=text))[0]
    strip = re.compile("[0-9a-f]{64}")
    assert strip.sub("", spans(hostile)) == strip.sub("", spans(plain))
    assert "CODE" in spans(hostile)


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_one_code_span(text: str) -> None:
    shown = code(text)
    assert spans(shown) == "CODE"
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)\|", shown), "a table's cell would end"
    assert all(character.isprintable() for character in visible(text))


def test_long_text_and_long_lists_are_cut_with_a_count() -> None:
    assert visible("x" * 400) == "x" * 300 + " ... (100 more characters)"
    old, new = [1.0] * 60 + [0.0] * 5, [0.0] * 60 + [0.0] * 5
    candidate = make_run({SM: new}, wordings=65)
    sides: dict[Any, EvalRun] = {"champion": make_run({SM: old}, version="bot@1", weights="c", wordings=65)}
    policy = one_metric(NonInferior(to="champion", margin=0.1))
    markdown, html = rendered(candidate, sides, policy)
    assert "- and 10 more" in markdown
    assert "<p>and 10 more</p>" in html
    assert "60 worse of 65" in markdown
    assert "m-00049" in markdown
    assert "m-00050" not in markdown
