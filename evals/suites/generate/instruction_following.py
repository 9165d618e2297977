"""instruction_following: short texts under constraints that a program can verify."""

from __future__ import annotations

import json
from typing import Any

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw, join_and
from posttrain.evals.suites.generate.common import Filled, Kind

ADJECTIVE_OF = {thing: w.ADJECTIVES[i % len(w.ADJECTIVES)] for i, thing in enumerate(w.THINGS)}
SEPARATORS = {"semicolons": "; ", "vertical bars": " | ", "slashes": " / ", "dashes": " - ", "plus signs": " + ",
              "arrows": " > "}  # fmt: skip
MARKS = {
    "double quotes": ('"', '"'), "square brackets": ("[", "]"), "round brackets": ("(", ")"), "stars": ("*", "*"),
    "double angle brackets": ("<<", ">>"),
}  # fmt: skip
KEYS = ["name", "city", "colour", "title", "item", "user", "place", "topic", "song", "food"]


def _filled(slots: dict[str, str], answer: str, *constraints: dict[str, Any]) -> Filled:
    return Filled(slots, answer, {"constraints": list(constraints)})


def _topic_and_word(d: Draw) -> tuple[str, str]:
    topic = d.pick(w.THINGS)
    return topic, next(x for x in iter(d.word, "") if x != topic)


def _short(low: int = 4, high: int = 20) -> dict[str, Any]:
    return {"kind": "num_words", "low": low, "high": high}


def start(d: Draw) -> Filled:
    topic, word = _topic_and_word(d)
    answer = f"{word.capitalize()} makes the {topic} {ADJECTIVE_OF[topic]}."
    return _filled({"topic": topic, "word": word}, answer, {"kind": "start_word", "word": word},
                   {"kind": "include", "phrase": topic}, {"kind": "one_sentence"}, _short())  # fmt: skip


def end(d: Draw) -> Filled:
    topic, word = _topic_and_word(d)
    answer = f"The {topic} is {ADJECTIVE_OF[topic]} like {word}."
    return _filled({"topic": topic, "word": word}, answer, {"kind": "end_word", "word": word},
                   {"kind": "include", "phrase": topic}, {"kind": "without", "text": "sentence"},
                   {"kind": "one_sentence"}, _short())  # fmt: skip


def times(d: Draw) -> Filled:
    topic, word = _topic_and_word(d)
    n = d.num(2, 3)
    answer = f"The {topic} has {join_and([word] * n)}."
    slots = {"topic": topic, "word": word, "times": {2: "twice", 3: "three times"}[n]}
    return _filled(slots, answer, {"kind": "word_times", "word": word, "times": n},
                   {"kind": "include", "phrase": topic}, {"kind": "one_sentence"}, _short())  # fmt: skip


def lower(d: Draw) -> Filled:
    topic, name = d.pick(w.THINGS), d.name()
    answer = f"the {topic} of {name.lower()} is {ADJECTIVE_OF[topic]}."
    return _filled({"topic": topic, "name": name}, answer, {"kind": "lowercase"}, {"kind": "include", "phrase": topic},
                   {"kind": "include", "phrase": name}, _short())  # fmt: skip


def upper(d: Draw) -> Filled:
    a, b = d.some(w.THINGS, 2)
    c = d.pick(w.COLOURS)
    answer = f"THE {c} {a} IS NEAR THE {b}.".upper()
    return _filled({"a": a, "b": b, "c": c}, answer, {"kind": "uppercase"}, {"kind": "include", "phrase": a},
                   {"kind": "include", "phrase": b}, _short())  # fmt: skip


def separated(d: Draw) -> Filled:
    items = d.words(3)
    name = d.pick(list(SEPARATORS))
    slots = dict(zip("abc", items, strict=True)) | {"separator": name}
    return _filled(slots, SEPARATORS[name].join(items),
                   {"kind": "items", "items": items, "separator": SEPARATORS[name]})  # fmt: skip


def reverse(d: Draw) -> Filled:
    items = d.words(3)
    return _filled(dict(zip("abc", items, strict=True)), ", ".join(items[::-1]),
                   {"kind": "items", "items": items[::-1], "separator": ","})  # fmt: skip


def bullets(d: Draw) -> Filled:
    items = d.words(3)
    return _filled(dict(zip("abc", items, strict=True)), "\n".join(f"* {x}" for x in items),
                   {"kind": "lines", "items": items, "marker": "*"})  # fmt: skip


def numbered(d: Draw) -> Filled:
    items = d.words(3)
    answer = "\n".join(f"{i}. {x}" for i, x in enumerate(items, 1))
    return _filled(dict(zip("abc", items, strict=True)), answer, {"kind": "lines", "items": items, "marker": "{i}."})


def as_json(d: Draw) -> Filled:
    j, k = d.some(KEYS, 2)
    u, v = d.words(2)
    value = {j: u, k: v}
    return _filled({"j": j, "k": k, "u": u, "v": v}, json.dumps(value), {"kind": "json", "value": value})


def repeat(d: Draw) -> Filled:
    a, b = d.words(2)
    n = d.num(2, 4)
    slots = {"a": a, "b": b, "times": {2: "two", 3: "three", 4: "four"}[n]}
    return _filled(slots, ", ".join([f"{a} {b}"] * n), {"kind": "repeat", "phrase": f"{a} {b}", "times": n})


def exact_words(d: Draw) -> Filled:
    topic, word = _topic_and_word(d)
    n = d.num(4, 6)
    adjective = ADJECTIVE_OF[topic]
    answer = {
        4: f"the {topic} needs {word}",
        5: f"the {adjective} {topic} needs {word}",
        6: f"the {adjective} {topic} needs the {word}",
    }[n]
    slots = {"topic": topic, "word": word, "n": w.NUMBER_WORDS[n]}
    return _filled(
        slots, answer, _short(n, n), {"kind": "include", "phrase": topic}, {"kind": "include", "phrase": word}
    )


def marks(d: Draw) -> Filled:
    a, b = d.words(2)
    name = d.pick(list(MARKS))
    left, right = MARKS[name]
    return _filled({"a": a, "b": b, "marks": name}, f"{left}{a} {b}{right}",
                   {"kind": "wrapped", "left": left, "right": right},
                   {"kind": "include", "phrase": f"{a} {b}"}, _short(2, 2))  # fmt: skip


def postscript(d: Draw) -> Filled:
    topic, word = _topic_and_word(d)
    answer = f"The {topic} is {ADJECTIVE_OF[topic]}.\nP.S. {word}"
    return _filled({"topic": topic, "word": word}, answer, {"kind": "last_line", "opens": "P.S.", "phrase": word},
                   {"kind": "include", "phrase": topic}, _short())  # fmt: skip


def no_comma(d: Draw) -> Filled:
    items = d.words(3)
    return _filled(dict(zip("abc", items, strict=True)), " and ".join(items), {"kind": "without", "text": ","},
                   *({"kind": "include", "phrase": x} for x in items), _short(3, 8))  # fmt: skip


def placeholder(d: Draw) -> Filled:
    topic, word = _topic_and_word(d)
    answer = f"Dear [{word}], welcome to the {topic}."
    return _filled({"topic": topic, "word": word}, answer, {"kind": "marked", "text": f"[{word}]"},
                   {"kind": "include", "phrase": topic}, {"kind": "without", "text": "placeholder"},
                   {"kind": "without", "text": "square"}, {"kind": "one_sentence"}, _short())  # fmt: skip


def title(d: Draw) -> Filled:
    topic, name = d.pick(w.THINGS), d.name()
    answer = f"<<The {topic.capitalize()} of {name}>>"
    return _filled({"topic": topic, "name": name}, answer, {"kind": "wrapped", "left": "<<", "right": ">>"},
                   {"kind": "include", "phrase": topic}, {"kind": "include", "phrase": name}, _short(2, 8))  # fmt: skip


# (kind, maker, wordings of training, gate and dev, wordings that only the unseen shard has)
_WORDINGS = (
    (start, ("Write one sentence about the {topic} that starts with the word {word}.",
             "Begin your answer with the word {word}. Make it a single sentence about the {topic}.",
             "I need a sentence on the {topic}. Its first word must be {word}.",
             "Tell me something about the {topic} in one sentence, with {word} as the opening word."),
     ("Compose a sentence about the {topic} whose very first word is {word}.",)),
    (end, ("Write one sentence about the {topic} that ends with the word {word}.",
           "Finish your answer with the word {word}. Make it a single sentence about the {topic}.",
           "I need a sentence on the {topic}. Its last word must be {word}.",
           "Tell me something about the {topic} in one sentence, with {word} as the closing word."),
     ("Compose a sentence about the {topic} whose very last word is {word}.",)),
    (times, ("Write a sentence about the {topic} that uses the word {word} exactly {times}.",
             "Use {word} {times} in one sentence about the {topic}.",
             "In a sentence on the {topic}, the word {word} has to appear {times}.",
             "Mention {word} exactly {times} while you write one sentence about the {topic}."),
     ("Make the word {word} occur {times} in a single sentence on the {topic}.",)),
    (lower, ("Describe the {topic} of {name} in lowercase letters only.",
             "Write about the {topic} of {name} without any capital letter.",
             "In all lowercase, say something about the {topic} that belongs to {name}.",
             "Use only small letters: a line about the {topic} of {name}."),
     ("Give me a line on the {topic} of {name}, with every letter lowercase.",)),
    (upper, ("Say in capital letters only that the {c} {a} is near the {b}.",
             "Write in all caps: the {c} {a} is near the {b}.",
             "Using nothing but capital letters, tell me that the {c} {a} is close to the {b}.",
             "Shout in uppercase that the {c} {a} is near the {b}."),
     ("Put this in uppercase letters: the {c} {a} is near the {b}.",)),
    (separated, ("Join {a}, {b} and {c} with {separator}.",
                 "List {a}, {b}, {c}. Separate the items by {separator}.",
                 "Write {a}, {b} and {c} on one line with {separator} between them.",
                 "Use {separator} to separate these: {a}, {b}, {c}."),
     ("Put {separator} between the words {a}, {b} and {c}.",)),
    (reverse, ("List {a}, {b}, {c} in reverse order.",
               "Write the words {a}, {b}, {c} backwards, last one first, with commas.",
               "Reverse this list: {a}, {b}, {c}.",
               "Turn the order of {a}, {b}, {c} around."),
     ("Give me {a}, {b}, {c} from last to first.",)),
    (bullets, ("Write {a}, {b} and {c} as bullet points that start with a star.",
               "Make a bullet list with stars of {a}, {b}, {c}.",
               "Give me {a}, {b} and {c}, one per line, each after a star.",
               "Format {a}, {b}, {c} as a starred list."),
     ("Turn {a}, {b} and {c} into star bullets, one on each line.",)),
    (numbered, ("Write {a}, {b} and {c} as a numbered list.",
                "Number these items from 1 to 3: {a}, {b}, {c}.",
                "Give me {a}, {b} and {c}, one per line, each with its number.",
                "Format {a}, {b}, {c} as a list with the numbers 1, 2 and 3."),
     ("Turn {a}, {b} and {c} into a list that is numbered 1 to 3.",)),
    (as_json, ("Return a JSON object with {j} set to {u} and {k} set to {v}.",
               "Answer in JSON only: {j} is {u}, {k} is {v}.",
               "Make a JSON object whose key {j} has the value {u} and whose key {k} has the value {v}.",
               "Write this as JSON: {j} = {u}, {k} = {v}."),
     ("Express as a JSON object that {j} is {u} and {k} is {v}.",)),
    (repeat, ('Repeat the phrase "{a} {b}" {times} times.',
              "Say {a} {b} {times} times and nothing else.",
              'Write "{a} {b}" {times} times, with commas in between.',
              "I want to read {a} {b} {times} times."),
     ('Output "{a} {b}" a total of {times} times.',)),
    (exact_words, ("Write exactly {n} words about the {topic} and use the word {word}.",
                   "Use the word {word} in a text of exactly {n} words about the {topic}.",
                   "Describe the {topic} in {n} words. One of them must be {word}.",
                   "I want a line of {n} words on the {topic} with {word} in it."),
     ("Make a line about the {topic} that contains {word} and has {n} words in total.",)),
    (marks, ("Put the words {a} {b} in {marks}.",
             "Write {a} {b} inside {marks} and add nothing.",
             "Answer with {a} {b} between {marks}.",
             "Wrap {a} {b} in {marks}."),
     ("Surround {a} {b} with {marks}.",)),
    (postscript, ("Write one sentence about the {topic}, then a P.S. line with the word {word}.",
                  "Tell me about the {topic} in one line. Add a postscript that starts with P.S. and says {word}.",
                  "Describe the {topic} and close with a P.S. about {word} on its own line.",
                  "A short line on the {topic}, please, and below it P.S. and {word}."),
     ("Say something about the {topic} and put P.S. with {word} on the last line.",)),
    (no_comma, ("Name {a}, {b} and {c} without using a comma.",
                "Write the three words {a}, {b}, {c} in one line that has no comma.",
                "List {a}, {b}, {c} but leave out all commas.",
                "No commas allowed: mention {a}, {b} and {c}."),
     ("Mention {a}, {b} and {c} while you avoid commas.",)),
    (placeholder, ("Write a greeting about the {topic} that contains the placeholder [{word}].",
                   "Draft one line of welcome to the {topic} with [{word}] as a placeholder.",
                   "I need a welcome to the {topic}. Keep [{word}] in square brackets.",
                   "Greet a guest of the {topic} and use the placeholder [{word}]."),
     ("Create a welcome line for the {topic} in which [{word}] stands as a placeholder.",)),
    (title, ("Give a title, wrapped in double angle brackets, to a story about the {topic} of {name}.",
             "Write only a title in double angle brackets for a poem on {name} and the {topic}.",
             "What would you call a book about {name} and the {topic}? Put the title in << and >>.",
             "Name a song on the {topic} of {name}. The title goes inside double angle brackets."),
     ("Invent a title between << and >> for a tale of {name} and the {topic}.",)),
)  # fmt: skip

KINDS = [
    Kind(make.__name__, "instruction_following", "constraints", seen, unseen, make) for make, seen, unseen in _WORDINGS
]
