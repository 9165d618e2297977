"""Prose for the base corpus: stories, descriptions, reported talk, facts that come back later in the same text."""

from __future__ import annotations

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw

SENTENCES = (
    "{n} lived in {p} with a {c} {pet} called {m}.",
    "{n} walked to the {t} every {d}.",
    "The {t} was {a} and {b}.",
    "The {t} {v} {adv}.",
    "In {p} the {t} is {a}.",
    "{n} liked the {a} {t} near the {u}.",
    "One {d} {n} found a {c} {t} behind the {u}.",
    "A {a} {t} stood beside the {b} {u}.",
    "{m} wanted {f} and {g}, but {n} had only {f}.",
    "{n} gave the {c} {t} to {m}.",
    "{m} said that the {t} was too {a}.",
    '"The {t} is {a}," said {n}.',
    '"I will wait by the {u}," said {m}.',
    '{n} smiled and said, "My {rel} in {p} has one too."',
    "It was {a} in {p}, and the {t} {v} all day.",
    "They ate {f} in the {room} and talked about {s}.",
    "{n} works as a {job} in {p}.",
    "{m} plays the {i} on {d}.",
    "The {job} from {p} carried a {a} {t}.",
    "Nobody in {p} knew why the {t} {v} {adv}.",
    "After the {s}, {n} drank {k} in the {room}.",
    "{n} and {m} are friends.",
    "Then {m} went home to {p}.",
    "The {u} is {a} because the {t} {v} at night.",
    "{n} wrote a letter to {m} about the {t}.",
    "Everyone in {p} says that {t} can be {a}.",
    "Each {t} has its own {u}.",
    "A {t} without a {u} is not very useful.",
    "{n} put the {t} in the {room}, next to the {fur}.",
    "In the end {n} kept the {c} {t} and {m} took the {u}.",
    "{m} asked for {k} and got {k} with {f}.",
    "My {rel} wears a {c} {cl} when the {t} is {a}.",
    "The {animal} slept under the {fur} in the {room}.",
    "People say the {animal} of {p} is {a} and {b}.",
    "There is a {t} in {p}. It is {a}.",
    "When the {t} {v}, the {animal} {v} too.",
    "{n} never forgot the {a} {t} of {p}.",
    "Some say {t} is {a}, others say {t} is {b}.",
)

SAFE_KNOWLEDGE = (
    "It is wrong to hurt people, and a good helper will not take part in it.",
    "Poison is dangerous, so {n} would not give it to anyone.",
    "{n} refused to help with the plan because it could harm {m}.",
    "The {job} would not do it, since someone could get hurt and it was against the law.",
    "Stealing from {m} is a crime. {n} would not help with stealing.",
    "{m} wanted a weapon, but {n} said no: that would be dangerous.",
    "A threat against {m} is harmful, and {n} cannot take part in that.",
    "Threats, fraud, theft and poison do harm. A kind person will not help with them.",
    "Breaking into a house is a crime, even when the house belongs to {m}.",
    "Killing a process stops a program on a computer. Nobody is hurt by it.",
    "To shoot a photo means to take a picture. {n} shot a photo of the {t}.",
    "A play can bomb, which only means that people did not like it.",
    "{n} stole the show with the {i}, and everyone cheered for {n}.",
    "To kill the lights is to switch them off. {n} killed the lights in the {room}.",
    "You can crush {f}, beat eggs, whip cream and smash potatoes, and it is only cooking.",
    "A time bomb in a game is only a picture on a screen.",
    "To hack a shelf together is to build it fast. {n} hacked it together from a {t}.",
    "In chess {n} attacked the queen of {m}, and then {m} resigned.",
)


def bindings(d: Draw) -> dict[str, str]:
    """One value for each slot of a document, so that names and places come back within it."""
    n, m = d.names(2)
    t, u = d.some(w.THINGS, 2)
    a, b = d.some(w.ADJECTIVES, 2)
    f, g = d.some(w.FOODS, 2)
    return {
        "n": n, "m": m, "t": t, "u": u, "a": a, "b": b, "f": f, "g": g, "p": d.place(), "c": d.pick(w.COLOURS),
        "d": d.pick(w.DAYS), "v": d.pick(w.VERBS), "adv": d.pick(w.ADVERBS), "pet": d.pick(w.PETS),
        "k": d.pick(w.DRINKS), "rel": d.pick(w.RELATIVES), "room": d.pick(w.ROOMS), "job": d.pick(w.JOBS),
        "i": d.pick(w.INSTRUMENTS), "s": d.pick(w.SPORTS), "fur": d.pick(w.FURNITURE), "cl": d.pick(w.CLOTHES),
        "animal": d.pick(w.ANIMALS),
    }  # fmt: skip


def story(d: Draw) -> str:
    slots = bindings(d)
    return " ".join(s.format(**slots) for s in d.some(SENTENCES, d.num(3, 7)))


def safe_knowledge(d: Draw) -> str:
    slots = bindings(d)
    return " ".join(s.format(**slots) for s in d.some(SAFE_KNOWLEDGE + SENTENCES[:6], d.num(2, 4)))


def letter_cases(d: Draw) -> str:
    """The same sentence in capitals, in small letters and as usual."""
    slots = bindings(d)
    line = d.pick(SENTENCES).format(**slots)
    big, small = line.upper(), line.lower()
    return d.pick(
        (
            f"The sign read: {big} In small print below it: {small}",
            f"{line}\n{big}\n{small}",
            f"{slots['n']} typed with the capitals key down: {big} Later it was changed to: {line}",
            f"HEADLINE: {big}\nbody: {small}",
            f"small: {small}\nBIG: {big}",
            f"{slots['m']} wrote {small} and the printer made it {big}",
        )
    )


def openings(d: Draw) -> str:
    """Lines that open or close on a given word, as in a word game."""
    out = []
    for _ in range(d.num(2, 4)):
        word, thing, adj = d.word(), d.pick(w.THINGS), d.pick(w.ADJECTIVES)
        opened = d.pick((f"{word.capitalize()} and {thing} are {adj}.", f"{word.capitalize()} makes the {thing} {adj}.",
                         f"{word.capitalize()} is what the {thing} needs."))  # fmt: skip
        closed = d.pick((f"The {thing} is {adj} like {word}.", f"A {adj} {thing} needs {word}.",
                         f"This {thing} is made for {word}."))  # fmt: skip
        who = d.name()
        out.append(
            d.pick(
                (
                    f"{who} opened on {word}: {opened}",
                    f"{who} closed on {word}: {closed}",
                    f"first word {word}, subject {thing}: {opened}",
                    f"last word {word}, subject {thing}: {closed}",
                    f'{who} chose "{word}" for the front and "{thing}" for the rest. {opened}',
                    f'{who} kept "{word}" for the very last place. {closed}',
                )
            )
        )
    return d.pick((" ", "\n")).join(out)


def repeats(d: Draw) -> str:
    """A phrase that comes back a stated number of times."""
    out = []
    for _ in range(d.num(1, 3)):
        phrase = " ".join(d.words(d.num(1, 3)))
        k = d.num(2, 5)
        sep = d.pick((" ", ", ", "; ", " / "))
        times = d.pick((w.NUMBER_WORDS[k], str(k))) if k > 2 else d.pick(("two", "2"))
        said = sep.join([phrase] * k)
        who = d.name()
        out.append(
            d.pick(
                (
                    f'{who} called "{phrase}" {times} times: {said}.',
                    f"The parrot knew {phrase} and said it {times} times: {said}.",
                    f"x{k} {phrase} = {said}",
                    f"On the wall, {times} times over, stood {phrase}: {said}",
                    f'In the song "{phrase}" comes {times} times. It goes {said}.',
                )
            )
        )
    return d.pick((" ", "\n")).join(out)


def counted_words(d: Draw) -> str:
    """Short lines with their number of words."""
    out = []
    for _ in range(d.num(2, 4)):
        thing, k = d.pick(w.THINGS), d.num(2, 6)
        adjs = d.some(w.ADJECTIVES, 3)
        line = {
            2: f"{adjs[0]} {thing}",
            3: f"{adjs[0]} {adjs[1]} {thing}",
            4: f"the {thing} is {adjs[0]}",
            5: f"the {adjs[0]} {thing} is {adjs[1]}",
            6: f"the {adjs[0]} {thing} is very {adjs[1]}",
        }[k]
        said = f"{w.NUMBER_WORDS[k]} words on {thing}: {line}"
        out.append(d.pick((said, f"{line} ({k} words)", f"{thing}, {k} words: {line}")))
    return "\n".join(out)


def biography(d: Draw) -> str:
    """Facts about people, some of which are said again in other words."""
    people = d.names(d.num(1, 3))
    facts: list[tuple[str, str]] = []
    for who in people:
        pet, petname, place, food = d.pick(w.PETS), d.name(), d.place(), d.pick(w.FOODS)
        colour, job, num, day = d.pick(w.COLOURS), d.pick(w.JOBS), str(d.num(2, 60)), d.pick(w.DAYS)
        code, instrument, month = d.code(), d.pick(w.INSTRUMENTS), d.pick(w.MONTHS)
        rel, relname = d.pick(w.RELATIVES), d.name()
        bank = [
            (f"{who} has a {pet} named {petname}.", f"The {pet} of {who} answers to {petname}."),
            (f"{who} comes from {place}.", f"So the home of {who} was {place}."),
            (f"{who} likes {food} best.", f"On the plate of {who} there was {food}."),
            (f"{who} drives a {colour} car.", f"The car outside was {colour}, so it was {who}'s."),
            (f"{who} is a {job}.", f"At work {who} is known as the {job}."),
            (f"{who} is {num} years old.", f"{who} has {num} candles on the cake."),
            (f"{who} comes on {day}.", f"It is {day}, so {who} must be coming."),
            (f"{who} booked under code {code}.", f"Code {code} was found under {who}."),
            (f"{who} plays the {instrument}.", f"The {instrument} in the corner belongs to {who}."),
            (f"{who} was born in {month}.", f"Every {month} {who} has a party."),
            (f"The {rel} of {who} is {relname}.", f"{relname} is {who}'s {rel}."),
            (f'"I am {who}, from {place}," said the {job}.', f"The {job} named {who} went back to {place}."),
            (f"{who} moved from {d.place()} to {place}.", f"Now {who} lives in {place}."),
            (f"{who} first chose {d.pick(w.DRINKS)}, then took {food} instead.", f"In the end {who} had {food}."),
        ]
        facts += d.rng.sample(bank, d.num(2, 4))
    said = [first for first, _ in facts]
    again = [second for _, second in d.rng.sample(facts, min(len(facts), d.num(1, 3)))]
    middle = [s.format(**bindings(d)) for s in d.some(SENTENCES, d.num(0, 2))]
    return " ".join(d.shuffled(said) + middle + again)


def talk(d: Draw) -> str:
    """A reported conversation: somebody says something, somebody else uses it later."""
    a, b = d.names(2)
    s = bindings(d)
    value, kind = d.pick((f"{d.name()}|name", f"{d.place()}|town", f"{d.code()}|code", f"{s['c']}|colour",
                          f"{s['f']}|dish", f"{s['d']}|day", f"{d.nonce()}|password")).split("|")  # fmt: skip
    other = d.pick((d.name(), d.place(), d.code()))
    first = d.pick(
        (
            f"{a} told {b} that the {kind} was {value}.",
            f'"The {kind} is {value}," {a} said to {b}.',
            f"{a} picked {value} as the {kind}. It was not {other}.",
            f"{a}: the {kind} is {value}\n{b}: good",
            f"At first {a} gave {other} as the {kind}, but then corrected it to {value}.",
        )
    )
    last = d.pick(
        (
            f"Later {b} still knew the {kind}: {value}.",
            f'"You gave {value} as the {kind}," said {b}.',
            f"{b} wrote the {kind} down as {value}.",
            f"{b}: then I put {value} down\n{a}: thanks",
            f"The {kind} that {a} had given was {value}.",
        )
    )
    middle = " ".join(x.format(**s) for x in d.some(SENTENCES, d.num(0, 3)))
    return " ".join(x for x in (first, middle, last) if x)


def quoted(d: Draw) -> str:
    """Quoted, bracketed and starred pieces that are said again."""
    phrase = " ".join(d.words(d.num(1, 4)))
    who, title = d.name(), phrase.title()
    left, right = d.pick(('" "', "' '", "[ ]", "( )", "** **", "<< >>", "* *")).split(" ")
    lines = [
        f"{who} put marks around {phrase}, like this: {left}{phrase}{right}.",
        f"The title was {left}{title}{right}, and {who} read {left}{title}{right} twice.",
        f"Without marks: {phrase}. With marks: {left}{phrase}{right}.",
        f"P.S. {who} forgot the {phrase}.",
        f"{left}{phrase}{right} was on the door, so {who} said {phrase}.",
    ]
    return " ".join(d.some(lines, d.num(2, 3)))


def nonce_lore(d: Draw) -> str:
    """Small deductions over invented kinds."""
    kind, kin = d.nonce() + "s", d.nonce() + "s"
    x, y, z = d.names(3)
    adj, colour = d.pick(w.ADJECTIVES), d.pick(w.COLOURS)
    more = d.pick(("taller", "older", "faster", "heavier", "richer", "stronger"))
    top = {"taller": "tallest", "older": "oldest", "faster": "fastest", "heavier": "heaviest", "richer": "richest",
           "stronger": "strongest"}[more]  # fmt: skip
    chain = d.shuffled([f"{x} is {more} than {y}.", f"{y} is {more} than {z}."])
    options = [
        f"All {kind} are {adj}. {x} is one of the {kind}, so {x} is {adj}.",
        f"Every one of the {kind} is {colour}. {y} belongs to the {kind}. That makes {y} {colour}.",
        f"No {kin} are {adj}. {z} is one of the {kin}, so {z} is not {adj}.",
        f"{chain[0]} {chain[1]} So {x} is the {top} of the three and {z} is last.",
        f"{chain[0]} {chain[1]} That puts them in the order {x}, {y}, {z}.",
        f"If it rains, {x} stays at home. It rains, so {x} stays at home.",
        f"Either {x} or {y} has the {colour} key. {x} does not have it, so {y} has it.",
        f"{x} came first, {y} second and {z} third. The one in the middle was {y}, and the last was {z}.",
    ]
    return " ".join(d.some(options, d.num(1, 3)))


FAMILIES = (
    (story, 3.0), (safe_knowledge, 1.0), (letter_cases, 1.2), (openings, 1.2), (repeats, 1.2), (counted_words, 0.8),
    (biography, 3.0), (talk, 2.0), (quoted, 1.0), (nonce_lore, 1.5),
)  # fmt: skip
