"""Semi-structured text for the base corpus: lists, tables, records, signatures, logs, look-ups, arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw, join_and

CATEGORIES = {
    "fruits": w.FRUITS, "animals": w.ANIMALS, "tools": w.TOOLS, "foods": w.FOODS, "drinks": w.DRINKS,
    "clothes": w.CLOTHES, "colours": w.COLOURS, "days": w.DAYS, "months": w.MONTHS, "instruments": w.INSTRUMENTS,
    "sports": w.SPORTS, "furniture": w.FURNITURE,
}  # fmt: skip
PARAMETERS = w.listed(
    "city name title item amount day time room person email topic number text code date place song "
    "language colour quantity user file path query level unit size price"
)
ACTIONS = w.listed(
    "get set find send play open close book make add remove start stop order call check count translate "
    "convert lock print save share show list rent mail paint clean sort mark pay track"
)
SUBJECTS = w.listed(
    "weather song light door room table taxi message note alarm order file ticket list price time map "
    "mail photo report account lamp heater window task event flight meal pizza book text money parcel"
)


def item_lists(d: Draw) -> str:
    kind = d.pick(list(CATEGORIES))
    num = d.num(2, 5)
    items = d.some(CATEGORIES[kind], num) if d.chance(0.6) else d.words(num)
    sep = d.pick((", ", "; ", " | ", " - ", " / ", " + ", " > ", " ", " and ", "\n", "\n* ", "\n- ", "#"))
    name = {", ": "commas", "; ": "semicolons", " | ": "bars", " - ": "dashes", " / ": "slashes", " + ": "plus signs",
            " > ": "arrows", " ": "spaces", " and ": "and", "#": "hashes"}.get(sep, "lines")  # fmt: skip
    joined = sep.join(items)
    if sep.startswith("\n") and len(sep) > 1:
        joined = sep[1:] + joined
    numbered = "\n".join(f"{i}. {x}" for i, x in enumerate(items, 1))
    who = d.name()
    head = kind if items[0] in CATEGORIES[kind] else "words"
    return d.pick(
        (
            f"{who} bought {join_and(items)}. With {name} between them: {joined}",
            f"{w.NUMBER_WORDS[num]} {head}, {name}: {joined}",
            f"{head}: {', '.join(items)}\n{joined}",
            f"{who}'s {head}\n{numbered}",
            f"{join_and(items)} became a numbered list.\n{numbered}",
            f"{who} had {num} {head}: {joined}",
            f"{', '.join(items)} turned around is {', '.join(items[::-1])}. "
            f"The first is {items[0]}, the last is {items[-1]}.",
            f"{head} of {who}: {joined}\nfirst: {items[0]}\nlast: {items[-1]}",
            f"{joined}\n{json.dumps({head: items})}",
        )
    )


def _value(d: Draw, key: str) -> str | int:
    if key in ("amount", "number", "quantity", "level", "size", "price"):
        return d.num(1, 99)
    if key in ("city", "place"):
        return d.place()
    if key in ("name", "person", "user"):
        return d.name()
    if key == "day":
        return d.pick(w.DAYS)
    if key == "code":
        return d.code()
    return d.word()


def record(d: Draw) -> str:
    """The same values as JSON, as lines and as prose."""
    keys = d.some(PARAMETERS, d.num(1, 3)) if d.chance(0.6) else d.words(d.num(1, 3))
    values = {k: _value(d, k) for k in keys}
    as_json = json.dumps(values)
    lines = "\n".join(f"{k}: {v}" for k, v in values.items())
    flat = ", ".join(f"{k} {v}" for k, v in values.items())
    prose = join_and([f"the {k} is {v}" for k, v in values.items()])
    return d.pick((f"{lines}\n{as_json}", f"{prose}\n{as_json}", f"{flat} -> {as_json}", f"{as_json}\n{lines}",
                   f"{as_json} says that {prose}.", f"saved {prose} as {as_json}"))  # fmt: skip


def _function(d: Draw) -> tuple[str, list[str]]:
    name = f"{d.pick(ACTIONS)}_{d.pick(SUBJECTS)}"
    return name, d.some(PARAMETERS, d.num(1, 2))


def signature(d: Draw) -> str:
    """Functions with their schema, and records of calls that use their names."""
    functions = [_function(d) for _ in range(d.num(1, 3))]
    docs = []
    style = d.num(0, 3)
    for name, keys in functions:
        about = name.replace("_", " ")
        kinds = {k: {"type": "integer" if isinstance(_value(d, k), int) else "string"} for k in keys}
        schema = {"type": "object", "properties": kinds, "required": keys}
        if style <= 1:
            function = {"name": name, "description": f"{about.capitalize()}.", "parameters": schema}
            docs.append(json.dumps(function, separators=(",", ":") if style else None))
        elif style == 2:
            docs.append(f"{name}({', '.join(keys)}): {about}")
        else:
            docs.append(f"def {name}({', '.join(keys)}):\n    # {about}")
    calls = []
    for _ in range(d.num(1, 2)):
        name, keys = functions[d.num(0, len(functions) - 1)]
        values = {k: _value(d, k) for k in keys}
        who = d.name()
        flat = " and ".join(f"{k} {v}" for k, v in values.items())
        call = json.dumps({"name": name, "arguments": values})
        calls.append(
            d.pick(
                (
                    f"{who} needed to {name.replace('_', ' ')} with {flat}: {call}",
                    f"log: {name.replace('_', ' ')}, {flat}\n{call}",
                    f"{call}\n{name.replace('_', ' ')} done for {flat}",
                    f"{name}({', '.join(repr(v) for v in values.values())})",
                )
            )
        )
    return "\n".join(docs + calls)


def missing_function(d: Draw) -> str:
    """A tool box and what it lacks, in prose."""
    names = d.distinct(lambda: f"{d.pick(ACTIONS)} {d.pick(SUBJECTS)}", d.num(2, 4))
    wanted, offered = names[0], names[1:]
    who = d.name()
    return d.pick(
        (
            f"The box can {join_and(offered)}. It cannot {wanted}, so {who} did it by hand.",
            f"{who} wanted to {wanted}. There were buttons to {join_and(offered)}, and none of them would {wanted}.",
            f"buttons: {'; '.join(offered)}\nwanted: {wanted}\nresult: no such button",
            f"buttons: {'; '.join(d.shuffled(names))}\nwanted: {wanted}\nresult: found {wanted}",
        )
    )


def table(d: Draw) -> str:
    heads = d.some(["name", "city", "colour", "day", "number", "code", "item"], d.num(2, 3))
    rows = []
    for _ in range(d.num(2, 4)):
        rows.append([d.pick(w.COLOURS) if h == "colour" else str(_value(d, h)) for h in heads])
    sep = d.pick((" | ", ", ", "\t", " ; "))
    body = "\n".join(sep.join(r) for r in [heads, *rows])
    row = rows[d.num(0, len(rows) - 1)]
    return f"{body}\n" + d.pick((f"The row with {heads[0]} {row[0]} has {heads[1]} {row[1]}.", f"{row[0]}: {row[1]}",
                                 f"{heads[1]} of {row[0]}: {row[1]}"))  # fmt: skip


def lookup(d: Draw) -> str:
    """Pairs, then some of them again: the plainest exercise in recall."""
    num = d.num(3, 7)
    keys = d.distinct(lambda: d.pick((d.name(), d.word(), d.code())), num)
    values = [d.pick((d.name(), d.word(), d.code(), d.place(), str(d.num(1, 99)))) for _ in keys]
    arrow = d.pick((": ", " = ", " -> ", " is ", " has "))
    pairs = list(zip(keys, values, strict=True))
    again = [pairs[d.num(0, num - 1)] for _ in range(d.num(2, 5))]
    sep = d.pick(("\n", "; ", ". "))
    return sep.join(k + arrow + v for k, v in pairs + again)


def copies(d: Draw) -> str:
    """Made-up strings that appear again, whole or in part."""
    items = d.distinct(lambda: d.pick((d.nonce(), d.name(), d.code(), d.word())), d.num(2, 8))
    text = " ".join(items)
    return d.pick(
        (
            f"{text}\n{text}",
            f"copy: {text} | {text}",
            f"{text} . {' '.join(items[-3:])} . {' '.join(items[:3])}",
            f"{text}\n{text}\n{text}",
            "\n".join(f"{x} {x}" for x in items),
            "\n".join(f"{x.capitalize()} {x}" for x in items),
            "\n".join(f"{x.upper()} {x.lower()}" for x in items),
            "\n".join(f'"{x}" {x}' for x in items),
        )
    )


def log(d: Draw) -> str:
    out = []
    user, pid = d.name().lower(), str(d.num(100, 9999))
    file = f"{d.nonce()}.{d.pick(('py', 'txt', 'log', 'csv', 'sh'))}"
    bank = (
        f"user {user} opened {file}", f"process {pid} started by {user}", f"kill {pid}", f"process {pid} ended",
        f"python {file}", f"rm {file}", f"file {file} removed by {user}", f"job {pid} of {user} ended", f"ls {file}",
        f"lock on {file} held by process {pid}",
    )  # fmt: skip
    for line in d.some(bank, d.num(2, 5)):
        out.append(f"{d.num(0, 23):02d}:{d.num(0, 59):02d} {line}" if d.chance(0.4) else line)
    return "\n".join(out)


def sums(d: Draw) -> str:
    out = []
    for _ in range(d.num(3, 8)):
        a, b = d.num(0, 40), d.num(0, 30)
        small, times = d.num(2, 12), d.num(2, 9)
        out.append(
            d.pick(
                (
                    f"{a} + {b} = {a + b}",
                    f"{a + b} - {b} = {a}",
                    f"{a + b} - {a} = {b}",
                    f"{small} x {times} = {small * times}",
                    f"{small * times} / {times} = {small}",
                    f"{a} and {b} make {a + b}",
                    f"{a + b} without {b} leaves {a}",
                )
            )
        )
    return d.pick(("\n", ". ", "; ")).join(out)


def counting_story(d: Draw) -> str:
    out = []
    for _ in range(d.num(1, 3)):
        n, m = d.names(2)
        o = d.pick(w.OBJECTS)
        a, b, c = d.num(1, 30), d.num(1, 20), d.num(2, 9)
        small = d.num(2, 9)
        out.append(
            d.pick(
                (
                    f"{n} had {a} {o} and got {b} more. {a} + {b} = {a + b}, so {n} had {a + b} {o}.",
                    f"{n} had {a + b} {o} and lost {b}. {a + b} - {b} = {a}, so {a} {o} were left.",
                    f"{n} gave {b} of {a + b} {o} to {m}. {a + b} - {b} = {a}: {n} kept {a}.",
                    f"{c} bags with {small} {o} each: {c} x {small} = {c * small} {o}.",
                    f"{c * small} {o} went into {c} equal piles. "
                    f"{c * small} / {c} = {small}, so each pile had {small}.",
                    f"{n} has {a} {o}, {m} has {b}. Together {a} + {b} = {a + b} {o}.",
                    f"{n} has {b} more {o} than {m}, who has {a}. {a} + {b} = {a + b}, so {n} has {a + b}.",
                    f"Twice {a} is {2 * a}. Half of {2 * a} is {a}.",
                )
            )
        )
    return " ".join(out)


def comparison(d: Draw) -> str:
    out = []
    for _ in range(d.num(1, 3)):
        n, m, k = d.names(3)
        x, y, z = d.rng.sample(range(2, 99), 3)
        (low, a), (mid, b), (top, c) = sorted([(x, n), (y, m), (z, k)])
        unit, more, most, least = d.pick(
            ("years|older|oldest|youngest", "kilos|heavier|heaviest|lightest", "points|ahead|best|worst",
             "coins|richer|richest|poorest", "metres|taller|tallest|shortest", "minutes|slower|slowest|fastest")
        ).split("|")  # fmt: skip
        bigger, smaller = max(x, y), min(x, y)
        who = n if x > y else m
        out.append(
            d.pick(
                (
                    f"{n}: {x} {unit}, {m}: {y} {unit}. {bigger} is more than {smaller}, so {who} is {more}.",
                    f"{n} has {x}, {m} has {y} and {k} has {z}. {top} is the most, so {c} is {most}. "
                    f"{a} with {low} is {least}.",
                    f"{bigger} > {smaller}. {smaller} < {bigger}.",
                    f"{x}, {y}, {z} sorted: {low}, {mid}, {top}. The largest is {top}, the smallest is {low}.",
                    f"{n} with {x} {unit} and {m} with {y} {unit}: {who} is {more}, since {bigger} > {smaller}.",
                    f"From small to large: {a} {low}, {b} {mid}, {c} {top}.",
                )
            )
        )
    return d.pick((" ", "\n")).join(out)


def calendar(d: Draw) -> str:
    i, k = d.num(0, 6), d.num(1, 5)
    j = d.num(0, 11)
    day, after, before = w.DAYS[i], w.DAYS[(i + k) % 7], w.DAYS[(i - 1) % 7]
    start = d.num(1, 11)
    hours = d.num(1, 12)
    num = d.num(2, 60)
    lines = [
        f"{k} days after {day} comes {after}.",
        f"The day before {day} is {before}, and the day after it is {w.DAYS[(i + 1) % 7]}.",
        f"After {w.MONTHS[j]} comes {w.MONTHS[(j + 1) % 12]}.",
        f"From {start} o'clock, {hours} hours later it is {(start + hours - 1) % 12 + 1} o'clock.",
        f"{num} is {'even' if num % 2 == 0 else 'odd'}, and {num + 1} is {'odd' if num % 2 == 0 else 'even'}.",
        f"{num}, {num + 1}, {num + 2}, {num + 3}. After {num} comes {num + 1}.",
        f"{d.name()} leaves on {day} and comes back {k} days later, on {after}.",
        f"{start}, {start + k}, {start + 2 * k}, {start + 3 * k}: each is {k} more than the one before.",
    ]
    return " ".join(d.some(lines, d.num(2, 4)))


Family = Callable[[Draw], str]
FAMILIES: tuple[tuple[Family, float], ...] = (
    (item_lists, 2.5), (record, 2.0), (signature, 2.5), (missing_function, 1.0), (table, 1.0), (lookup, 2.0),
    (copies, 2.0), (log, 1.0), (sums, 2.0), (counting_story, 2.5), (comparison, 2.0), (calendar, 1.2),
)  # fmt: skip
