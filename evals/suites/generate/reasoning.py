"""reasoning: small sums, comparisons, orders and deductions with one verifiable answer behind `Answer:`."""

from __future__ import annotations

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw
from posttrain.evals.suites.generate.common import Filled, Kind

RELATIONS = (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"),
             ("heavier", "heaviest", "lightest"), ("richer", "richest", "poorest"))  # fmt: skip


def _filled(slots: dict[str, str | int], steps: str, answer: str | int) -> Filled:
    return Filled({k: str(v) for k, v in slots.items()}, f"{steps} Answer: {answer}", {"answer": str(answer)})


def add(d: Draw) -> Filled:
    a, b = d.num(2, 12), d.num(2, 9)
    return _filled({"n": d.name(), "o": d.pick(w.OBJECTS), "a": a, "b": b}, f"{a} + {b} = {a + b}.", a + b)


def subtract(d: Draw) -> Filled:
    a, b = d.num(2, 12), d.num(2, 9)
    return _filled({"n": d.name(), "o": d.pick(w.OBJECTS), "a": a + b, "b": b}, f"{a + b} - {b} = {a}.", a)


def together(d: Draw) -> Filled:
    a, b = d.num(2, 12), d.num(2, 9)
    n, m = d.names(2)
    return _filled({"n": n, "m": m, "o": d.pick(w.OBJECTS), "a": a, "b": b}, f"{a} + {b} = {a + b}.", a + b)


def multiply(d: Draw) -> Filled:
    a, b = d.num(2, 6), d.num(2, 5)
    return _filled({"n": d.name(), "o": d.pick(w.OBJECTS), "a": a, "b": b}, f"{a} x {b} = {a * b}.", a * b)


def share(d: Draw) -> Filled:
    a, b = d.num(2, 6), d.num(2, 5)
    return _filled({"n": d.name(), "o": d.pick(w.OBJECTS), "a": a * b, "b": b}, f"{a * b} / {b} = {a}.", a)


def compare(d: Draw) -> Filled:
    n, m = d.names(2)
    x, y = d.rng.sample(range(2, 99), 2)
    who = n if x > y else m
    slots: dict[str, str | int] = {"n": n, "m": m, "x": x, "y": y, "o": d.pick(w.OBJECTS)}
    return _filled(slots, f"{max(x, y)} > {min(x, y)}.", who)


def least(d: Draw) -> Filled:
    n, m = d.names(2)
    x, y = d.rng.sample(range(2, 99), 2)
    who = n if x < y else m
    slots: dict[str, str | int] = {"n": n, "m": m, "x": x, "y": y, "o": d.pick(w.OBJECTS)}
    return _filled(slots, f"{min(x, y)} < {max(x, y)}.", who)


def chain(d: Draw) -> Filled:
    n, m, k = d.names(3)
    more, most, fewest = RELATIONS[d.num(0, len(RELATIONS) - 1)]
    facts = d.shuffled([f"{n} is {more} than {m}.", f"{m} is {more} than {k}."])
    ask, who = (most, n) if d.chance(0.5) else (fewest, k)
    return _filled({"facts": " ".join(facts), "ask": ask}, f"In order: {n}, {m}, {k}.", who)


def syllogism(d: Draw) -> Filled:
    kind, other, name = d.nonce() + "s", d.nonce() + "s", d.name()
    x, y = d.some(w.COLOURS, 2)
    pick, colour = (kind, x) if d.chance(0.5) else (other, y)
    slots: dict[str, str | int] = {"k": kind, "j": other, "n": name, "x": x, "y": y, "pick": pick}
    return _filled(slots, f"All {pick} are {colour}.", colour)


def either(d: Draw) -> Filled:
    n, m = d.names(2)
    without, who = d.shuffled([n, m])
    slots: dict[str, str | int] = {"n": n, "m": m, "no": without, "t": d.pick(w.THINGS)}
    return _filled(slots, f"It is not {without}.", who)


def days(d: Draw) -> Filled:
    i, k = d.num(0, 6), d.num(1, 3)
    path = [w.DAYS[(i + j) % 7] for j in range(k + 1)]
    slots: dict[str, str | int] = {"n": d.name(), "p": d.place(), "day": path[0], "k": w.NUMBER_WORDS[k]}
    return _filled(slots, f"{', '.join(path)}.", path[-1])


def middle(d: Draw) -> Filled:
    a, b, c = d.names(3)
    place, who = [("first", a), ("second", b), ("last", c)][d.num(0, 2)]
    return _filled({"a": a, "b": b, "c": c, "place": place}, f"The {place} is {who}.", who)


def sequence(d: Draw) -> Filled:
    start, step = d.num(1, 9), d.num(1, 4)
    values = [start + step * i for i in range(4)]
    slots: dict[str, str | int] = {"n": d.name(), "a": values[0], "b": values[1], "c": values[2]}
    return _filled(slots, f"{values[2]} + {step} = {values[3]}.", values[3])


_WORDINGS = (
    (add, ("{n} has {a} {o} and gets {b} more. How many {o} does {n} have now?",
           "There are {a} {o} in a box. {n} puts in {b} others. How many are in the box?",
           "{n} collected {a} {o} on one day and {b} on the next. How many in total?",
           "A shop sold {n} {a} {o}, then another {b}. How many {o} did it sell?"),
     ("If {n} owns {a} {o} and finds {b} extra ones, what is the new count?",)),
    (subtract, ("{n} has {a} {o} and gives away {b}. How many {o} are left?",
                "There were {a} {o} on the table. {n} took {b} of them. How many remain?",
                "Out of {a} {o}, {n} lost {b}. How many {o} does {n} still have?",
                "{n} bought {a} {o} and used {b}. How many were not used?"),
     ("If {n} starts with {a} {o} and {b} of them break, what number is whole?",)),
    (together, ("{n} has {a} {o}. {m} has {b}. How many {o} do they have together?",
                "{n} brings {a} {o} and {m} brings {b}. How many are there altogether?",
                "Add up the {o}: {n} counted {a}, {m} counted {b}. What is the sum?",
                "{n} found {a} {o} and {m} found {b}. How many did both find?"),
     ("What is the number of {o} if {n} holds {a} and {m} holds {b}?",)),
    (multiply, ("{n} fills {a} bags with {b} {o} each. How many {o} is that?",
                "There are {a} rows of {b} {o} in the room of {n}. How many {o} are there?",
                "{n} buys {a} packs. Each pack holds {b} {o}. How many {o} did {n} buy?",
                "Every day {n} makes {b} {o}. How many {o} after {a} days?"),
     ("How many {o} does {n} need for {a} friends if each one gets {b}?",)),
    (share, ("{n} shares {a} {o} equally among {b} friends. How many does each get?",
             "{a} {o} are put into {b} equal boxes by {n}. How many are in one box?",
             "{n} splits {a} {o} into {b} groups of the same size. How big is a group?",
             "{b} children divide {a} {o} from {n} fairly. How many for each child?"),
     ("When {n} deals {a} {o} evenly to {b} players, what does one player hold?",)),
    (compare, ("{n} has {x} {o} and {m} has {y}. Who has more?",
               "{n} scored {x} points for {o}, {m} scored {y}. Who won?",
               "Who owns more {o}: {n} with {x} or {m} with {y}?",
               "{n} sold {x} {o} while {m} sold {y}. Which of them sold more?"),
     ("With {x} {o} for {n} and {y} for {m}, which person is ahead?",)),
    (least, ("{n} has {x} {o} and {m} has {y}. Who has fewer?",
             "Who owns fewer {o}: {n} with {x} or {m} with {y}?",
             "{n} paid {x} coins for {o}, {m} paid {y}. Who paid less?",
             "{n} lost {x} {o} while {m} lost {y}. Which of them lost less?"),
     ("With {x} {o} for {n} and {y} for {m}, which person is behind?",)),
    (chain, ("{facts} Who is the {ask}?",
             "{facts} Which of the three is the {ask}?",
             "Read this: {facts} Now name the {ask} one.",
             "{facts} Of them all, who is {ask}?"),
     ("Suppose that {facts} Tell me who the {ask} person is.",)),
    (syllogism, ("All {k} are {x}. All {j} are {y}. {n} is one of the {pick}. What colour is {n}?",
                 "Every one of the {k} is {x} and every one of the {j} is {y}. "
                "{n} belongs to the {pick}. Which colour has {n}?",
                 "The {k} are {x}, the {j} are {y}. If {n} is among the {pick}, what is the colour of {n}?"),
     ("Say that {k} are always {x} and {j} always {y}. Then which colour must {n} of the {pick} be?",)),
    (either, ("Either {n} or {m} has the {t}. {no} does not have it. Who has the {t}?",
              "The {t} belongs to {n} or to {m}. It is not owned by {no}. Whose is the {t}?",
              "One of {n} and {m} broke the {t}. It was not {no}. Who broke it?"),
     ("Only {n} or {m} could take the {t}, and {no} did not. Who took it?",)),
    (days, ("{n} leaves for {p} on {day} and comes back {k} days later. On which day is that?",
            "Today is {day}. {n} goes to {p} in {k} days. Which day will it be?",
            "A parcel for {n} in {p} is sent on {day} and takes {k} days. When does it come?"),
     ("It is {day} now. What day is it {k} days on, when {n} reaches {p}?",)),
    (middle, ("In a race {a} came before {b}, and {b} came before {c}. Who was {place}?",
              "{a} stands in front of {b}. {b} stands in front of {c}. Who is {place} in the line?",
              "The order is {a}, then {b}, then {c}. Who is {place}?"),
     ("{a} arrived ahead of {b}, who arrived ahead of {c}. Tell me the {place} one.",)),
    (sequence, ("{n} counts {a}, {b}, {c}. Which number comes next?",
                "{n} writes {a}, {b}, {c} and goes on in the same way. What is the next number?",
                "Continue the row of {n} by one number: {a}, {b}, {c}."),
     ("After {a}, {b} and {c}, which number should {n} say?",)),
)  # fmt: skip

KINDS = [Kind(make.__name__, "reasoning", "final_answer", seen, unseen, make) for make, seen, unseen in _WORDINGS]
