"""abstention: a question about what was just told, and the same question where it was not.

Both metrics share their wordings and the form of what is told, so that neither says whether a question can be answered:
two facts, of one sort or of two. Where it cannot, somebody else's value of the sort that is asked for is told: naming
that one is a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw
from posttrain.evals.suites.generate.common import Filled, Kind

UNKNOWN, KNOWN = "abstention.unknown", "abstention.known"
ABSTENTIONS = ("I don't know. It does not say that.", "That is not said, so I cannot know it.",
               "I cannot tell. Nobody said that.")  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """Something that can be told of a person `n`: `told` has the value `v`, `asked` asks for it in several ways."""

    name: str
    told: str
    asked: tuple[str, str, str, str]
    unseen: str
    value: Callable[[Draw], str]


def _age(d: Draw) -> str:
    return str(d.num(43, 99))


def _of(values: list[str]) -> Callable[[Draw], str]:
    return lambda d: d.pick(values)


FACTS = (
    Fact(
        "home",
        "{n} lives in {v}.",
        (
            "Where does {n} live?",
            "In which town is the home of {n}?",
            "Name the town where {n} lives.",
            "Do you know where {n} lives?",
        ),
        "Which town does {n} live in?",
        Draw.place,
    ),
    Fact(
        "age",
        "{n} is {v} years old.",
        ("How old is {n}?", "What is the age of {n}?", "Tell me how old {n} is.", "How many years old is {n}?"),
        "Which age has {n}?",
        _age,
    ),
    Fact(
        "coat",
        "The coat of {n} is {v}.",
        (
            "Which colour is the coat of {n}?",
            "What colour does the coat of {n} have?",
            "Name the colour of the coat of {n}.",
            "{n} has a coat of which colour?",
        ),
        "Tell me the colour of the coat of {n}.",
        _of(w.COLOURS),
    ),
    Fact(
        "pet",
        "{n} has a {v} at home.",
        (
            "Which pet does {n} have?",
            "What animal does {n} keep?",
            "Tell me the pet of {n}.",
            "Which animal lives with {n}?",
        ),
        "Name the animal that {n} has.",
        _of(w.PETS),
    ),
    Fact(
        "job",
        "{n} works as a {v}.",
        ("What is the job of {n}?", "As what does {n} work?", "Tell me the job of {n}.", "Which job does {n} have?"),
        "How does {n} make a living?",
        _of(w.JOBS),
    ),
    Fact(
        "day",
        "{n} comes on {v}.",
        (
            "On which day does {n} come?",
            "When does {n} come?",
            "Which day is it that {n} comes?",
            "Tell me the day when {n} comes.",
        ),
        "What is the day on which {n} comes?",
        _of(w.DAYS),
    ),
    Fact(
        "sport",
        "{n} is good at {v}.",
        (
            "Which sport is {n} good at?",
            "What is {n} good at?",
            "Name the sport that {n} is good at.",
            "Tell me what {n} is good at.",
        ),
        "At which sport is {n} good?",
        _of(w.SPORTS),
    ),
    Fact(
        "music",
        "{n} plays the {v}.",
        (
            "Which instrument does {n} play?",
            "What does {n} play?",
            "Name the instrument of {n}.",
            "Tell me what instrument {n} plays.",
        ),
        "On which instrument does {n} play?",
        _of(w.INSTRUMENTS),
    ),
    Fact(
        "food",
        "{n} likes {v} most of all.",
        (
            "What does {n} like most?",
            "Which food does {n} like most?",
            "Name the food that {n} likes most.",
            "Tell me what {n} likes to eat.",
        ),
        "Which food is the best for {n}?",
        _of(w.FOODS),
    ),
    Fact(
        "room",
        "{n} sits in the {v}.",
        ("In which room is {n}?", "Where does {n} sit?", "Which room does {n} sit in?", "Tell me the room of {n}."),
        "Name the room where {n} sits.",
        _of(w.ROOMS),
    ),
    Fact(
        "code",
        "The code of {n} is {v}.",
        (
            "What is the code of {n}?",
            "Which code does {n} have?",
            "Tell me the code of {n}.",
            "Give me the code of {n}.",
        ),
        "Name the code that belongs to {n}.",
        Draw.code,
    ),
    Fact(
        "friend",
        "{v} is the best friend of {n}.",
        (
            "Who is the best friend of {n}?",
            "What is the name of the best friend of {n}?",
            "Name the best friend of {n}.",
            "Which person is the best friend of {n}?",
        ),
        "Tell me who is the best friend of {n}.",
        Draw.name,
    ),
)
FRAMES = ("{told} {question}", "{told} {question}", "Read this. {told} {question}", "{told} Now tell me: {question}")


def _told(fact: Fact, metric: str) -> Callable[[Draw], Filled]:
    def make(d: Draw) -> Filled:
        n, m, k = d.names(3)
        v, u = _two(d, fact.value, fact.value, {n, m, k})
        other = d.rng.choice([one for one in FACTS if one is not fact])
        is_one_sort = d.chance(0.5)
        # Of somebody else: the sort that is asked for. Beside it, or beside the answer, the same sort or another one.
        if metric == KNOWN:
            beside = fact if is_one_sort else other
            _, x = _two(d, lambda _: v, beside.value, {n, m, k})
            told = [fact.told.format(n=n, v=v), beside.told.format(n=m, v=x)]
            return Filled({"n": n, "told": " ".join(d.shuffled(told))}, f"{v}.", {"all": [v], "forbid": [x]})
        beside, of = (fact, k) if is_one_sort else (other, n)
        _, x = _two(d, lambda _: u, beside.value, {n, m, k})
        told = [fact.told.format(n=m, v=u), beside.told.format(n=of, v=x)]
        return Filled({"n": n, "told": " ".join(d.shuffled(told))}, d.pick(ABSTENTIONS), {"forbid": [u, x]})

    return make


def _two(d: Draw, first: Callable[[Draw], str], second: Callable[[Draw], str], names: set[str]) -> tuple[str, str]:
    """A value of each, neither the same nor a name in the prompt."""
    taken = {name.casefold() for name in names}
    while True:
        a, b = first(d), second(d)
        if a.casefold() not in taken and b.casefold() not in taken and a.casefold() != b.casefold():
            return a, b


def _kinds() -> Iterator[Kind]:
    for metric, checker in ((UNKNOWN, "abstains"), (KNOWN, "knows")):
        for fact in FACTS:
            seen = [frame.replace("{question}", asked) for frame, asked in zip(FRAMES, fact.asked, strict=True)]
            unseen = [f"Someone told me this: {{told}} {fact.unseen}"]
            yield Kind(fact.name, metric, checker, seen, unseen, _told(fact, metric))


KINDS = list(_kinds())
