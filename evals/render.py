"""A gate's report as Markdown and as one HTML file, with intervals drawn and flips listed. Imports no torch.

Ids, messages and answers come from users and models: all of it is shown as text and never as markup. In Markdown it
stands in code spans, in HTML it is escaped; control, invisible and reordering characters become a visible mark. The
HTML has no script and loads nothing, and its content policy forbids both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from posttrain.evals.flips import Flip, FlipList
from posttrain.evals.policy import Ceiling, Floor, NonInferior, Policy, baseline_of
from posttrain.evals.report import GateReport, RuleResult, percent

_SHOWN_CHARACTERS = 300  # of an answer or a message
_SHOWN_FLIPS = 50  # of one list
_WIDTH, _HEIGHT = 320, 22  # of a drawn interval

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #d8dee4;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.PASS{color:#116329}.FAIL{color:#a40e26}.INCONCLUSIVE{color:#7d4e00}.SKIPPED{color:#57606a}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:12px/1.4 ui-monospace,monospace}
summary{cursor:pointer}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def visible(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """The text on one line, cut, with each control, invisible or reordering character as a visible mark."""
    line = " ".join(text.split())
    if len(line) > limit:
        line = f"{line[:limit]} ... ({len(line) - limit} more characters)"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def code(text: str) -> str:
    """Foreign text as a code span that it cannot end, also in a table's cell."""
    shown = visible(text) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    shown = shown.replace("|", "\\|")
    return f"{fence} {shown} {fence}"


def to_markdown(report: GateReport, flips: Sequence[FlipList] = ()) -> str:
    """The report for a pull request or a wiki."""
    lines = [f"# Gate: {report.verdict}", ""]
    lines += [f"- {name}: {code(text)}" for name, text in _facts(report)]
    if report.reasons:
        lines += ["", "## Why not", ""]
        for reason in report.reasons:
            place = _place(reason.suite, reason.metric)
            where = f"{code(place)} " if place else ""
            lines.append(f"- **{reason.code}** ({reason.verdict}) {where}{code(reason.message)}")
    lines += ["", f"## Rules (two-sided intervals of {_level(report)}, points)", ""]
    lines += ["| verdict | metric | rule | baseline | candidate | difference | interval | n | clusters |"]
    lines += ["|---|---|---|---:|---:|---:|---|---:|---:|"]
    for result in report.results:
        cells = [f"**{result.verdict}**", code(f"{result.suite}/{result.metric}"), code(result.text), *_numbers(result)]
        lines.append(f"| {' | '.join(cells)} |")
    for part in flips:
        lines += ["", f"## {code(f'{part.suite}/{part.metric}')} against the {part.baseline}", ""]
        lines.append(f"{len(part.better)} better, {len(part.worse)} worse of {part.n}.")
        for title, items in (("Worse", part.worse), ("Better", part.better)):
            if items:
                lines += ["", f"**{title}**", ""]
            for flip in items[:_SHOWN_FLIPS]:
                lines.append(f"- {code(flip.example_id)}")
                lines += [f"    - {name}: {code(side)}" for name, side in _sides(flip, part.baseline)]
            if len(items) > _SHOWN_FLIPS:
                lines.append(f"- and {len(items) - _SHOWN_FLIPS} more")
    return "\n".join(lines) + "\n"


# -- HTML --------------------------------------------------------------------------------------------------------------


def to_html(report: GateReport, policy: Policy, flips: Sequence[FlipList] = ()) -> str:
    """The report under its policy as one file: no script, nothing loaded."""
    bounds = _thresholds(policy)
    rows = "".join(
        _html_rule(result, bounds.get((result.suite, result.metric, result.rule, result.baseline)))
        for result in report.results
    )
    reasons = "".join(
        f'<tr><td class="{reason.verdict}"><b>{reason.code}</b></td>'
        f"<td>{_text(_place(reason.suite, reason.metric))}</td><td>{_text(reason.message)}</td></tr>"
        for reason in report.reasons
    )
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{_text(text)}</td></tr>" for name, text in _facts(report))
    why = f"<h2>Why not</h2><table>{reasons}</table>" if reasons else ""
    heads = "".join(f"<th>{name}</th>" for name in _HEADS)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>Gate: {report.verdict}</title><style>{_STYLE}</style></head><body>"
        f'<h1>Gate: <span class="{report.verdict}">{report.verdict}</span></h1><table>{facts}</table>{why}'
        f"<h2>Rules</h2><p>Two-sided intervals of {_level(report)}, points; the grey line is the threshold.</p>"
        f"<table><tr>{heads}</tr>{rows}</table>{''.join(_html_flips(part) for part in flips)}</body></html>\n"
    )


_HEADS = ("verdict", "metric", "rule", "baseline", "candidate", "difference", "interval", "n", "clusters", "")


def _html_rule(result: RuleResult, threshold: float | None) -> str:
    cells = "".join(f'<td class="n">{escape(cell)}</td>' for cell in _numbers(result))
    drawn = "" if result.verdict == "SKIPPED" else _svg(result, threshold)
    names = f"<td>{_text(_place(result.suite, result.metric))}</td><td>{_text(result.text)}</td>"
    return f'<tr><td class="{result.verdict}"><b>{result.verdict}</b></td>{names}{cells}<td>{drawn}</td></tr>'


def _svg(result: RuleResult, threshold: float | None) -> str:
    """The interval and the estimate on the scale of the whole range, the threshold as a line."""
    low, high = (-0.3, 0.3) if result.baseline else (0.0, 1.0)
    low, high = min(low, result.low), max(high, result.high)
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)

    def x(value: float) -> str:
        return f"{4 + (value - low) / (high - low) * (_WIDTH - 8):.1f}"

    middle = _HEIGHT / 2
    colour = {"PASS": "#1a7f37", "FAIL": "#cf222e"}.get(result.verdict, "#9a6700")
    marks = [f'<line x1="4" x2="{_WIDTH - 4}" y1="{middle}" y2="{middle}" stroke="#d8dee4"/>']
    if result.baseline:
        marks.append(f'<line x1="{x(0)}" x2="{x(0)}" y1="5" y2="{_HEIGHT - 5}" stroke="#d8dee4"/>')
    if threshold is not None:
        at = x(threshold)
        marks.append(f'<line x1="{at}" x2="{at}" y1="1" y2="{_HEIGHT - 1}" stroke="#57606a" stroke-width="2"/>')
    ends = f'x1="{x(result.low)}" x2="{x(result.high)}" y1="{middle}" y2="{middle}"'
    marks.append(f'<line {ends} stroke="{colour}" stroke-width="3"/>')
    marks.append(f'<circle cx="{x(result.estimate)}" cy="{middle}" r="4" fill="{colour}"/>')
    label = f"{percent(result.low)} to {percent(result.high)}, estimate {percent(result.estimate)}"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"<title>{escape(label)}</title>{''.join(marks)}</svg>"
    )


def _thresholds(policy: Policy) -> dict[tuple[str, str, str, str], float]:
    """Where each rule's bound is compared, by suite, metric, type and baseline."""
    found: dict[tuple[str, str, str, str], float] = {}
    for metric in policy.metrics:
        for rule in metric.rules:
            value = (
                rule.at_least
                if isinstance(rule, Floor)
                else rule.at_most
                if isinstance(rule, Ceiling)
                else -rule.margin
                if isinstance(rule, NonInferior)
                else rule.by
            )
            found[metric.suite, metric.metric, rule.type, baseline_of(rule)] = value
    return found


def _html_flips(part: FlipList) -> str:
    title = f"<h2>{_text(_place(part.suite, part.metric))} against the {part.baseline}</h2>"
    blocks = ""
    for name, items in (("worse", part.worse), ("better", part.better)):
        rows = "".join(_html_flip(flip, part.baseline) for flip in items[:_SHOWN_FLIPS])
        more = f"<p>and {len(items) - _SHOWN_FLIPS} more</p>" if len(items) > _SHOWN_FLIPS else ""
        blocks += f"<details><summary>{len(items)} {name} of {part.n}</summary><table>{rows}</table>{more}</details>"
    return title + blocks


def _html_flip(flip: Flip, baseline: str) -> str:
    cells = "".join(
        f"<td>{escape(name)}<pre dir='auto'>{escape(visible(side))}</pre></td>" for name, side in _sides(flip, baseline)
    )
    return f"<tr><td>{_text(flip.example_id)}</td>{cells}</tr>"


def _text(text: str) -> str:
    return f"<bdi>{escape(visible(text))}</bdi>"


# -- both --------------------------------------------------------------------------------------------------------------


def _facts(report: GateReport) -> list[tuple[str, str]]:
    policy = report.policy
    facts = [("policy", f"{policy.name} version {policy.version}, sha256 {policy.digest}")]
    sides = {"candidate": report.candidate, **{str(name): run for name, run in sorted(report.baselines.items())}}
    for name, run in sides.items():
        facts.append((name, f"{run.version}, {run.rows} rows, evidence sha256 {run.evidence_digest}"))
    if report.attempt:
        facts.append(("attempt", f"{report.attempt.number or 'not counted'} of {report.attempt.budget}"))
    if report.improved_metrics is not None:
        facts.append(("better", ", ".join(report.improved_metrics) or "no metric"))
    facts.append(("report", f"sha256 {report.digest}"))
    return facts


def _level(report: GateReport) -> str:
    return f"{round(100 * report.level, 2):g}%"


def _place(suite: str, metric: str) -> str:
    return "/".join(part for part in (suite, metric) if part)


def _numbers(result: RuleResult) -> list[str]:
    """Baseline, candidate, difference, interval, n, clusters; of a rule that was skipped nothing."""
    if result.verdict == "SKIPPED":
        return ["-"] * 6
    has_baseline = bool(result.baseline)
    look = f" (look {result.look} of {result.looks})" if result.looks else ""
    return [
        percent(result.baseline_score) if has_baseline else "-",
        percent(result.candidate_score),
        f"{100 * result.estimate:+.1f}" if has_baseline else "-",
        f"[{percent(result.low)}, {percent(result.high)}]",
        f"{result.n}{look}",
        str(result.clusters),
    ]


def _sides(flip: Flip, baseline: str) -> list[tuple[str, str]]:
    """Each version's answer with how it ended and what the scorer said."""
    return [
        (name, f"{side.answer or '(empty)'} [{side.stop_reason}{'; ' + side.reason if side.reason else ''}]")
        for name, side in ((baseline, flip.baseline), ("candidate", flip.candidate))
    ]
