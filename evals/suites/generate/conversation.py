"""conversation: the last turn needs a value that an earlier turn gave, next to another value that must not be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.engine.base.words import Draw
from posttrain.evals.suites.generate.common import Filled, Kind, two_values


@dataclass(frozen=True)
class Fact:
    """Something a user may say about themselves. `X` stands for the value in all texts."""

    name: str
    says: tuple[str, ...]
    asks: tuple[str, ...]
    answer: str
    draw: Callable[[Draw], str]


FACTS = (
    Fact("name", ("Hello, my name is X.", "Hi, I am called X.", "Good morning, X is my name.", "You can call me X."),
         ("What is my name?", "What am I called?", "Do you remember my name?", "Please say my name."),
         "Your name is X.", Draw.name),
    Fact("home", ("I live in X.", "My home is in X.", "I have a flat in X.", "We moved to X last year."),
         ("Where do I live?", "Which town is my home in?", "In which place do I live?", "Where is my home?"),
         "You live in X.", Draw.place),
    Fact("dog", ("My dog is called X.", "I have a dog named X.", "We got a dog and named it X.",
          "X is the name of my dog."),
         ("What is my dog called?", "What is the name of my dog?", "Which name does my dog have?", "Who is my dog?"),
         "Your dog is called X.", Draw.name),
    Fact("sister", ("My sister is X.", "I have a sister called X.", "X is my sister.", "My sister's name is X."),
         ("Who is my sister?", "What is my sister's name?", "What is my sister called?", "Can you name my sister?"),
         "Your sister is X.", Draw.name),
    Fact("order", ("My order number is X.", "I placed order X.", "The order is filed under X.", "It is about order X."),
         ("What is my order number?", "Which order number did I give?", "Under which number is my order filed?",
          "Please read my order number back."),
         "Your order number is X.", Draw.code),
    Fact("boss", ("My boss is X.", "I work for X.", "At work, X is my boss.", "X hired me."),
         ("Who is my boss?", "Whom do I work for?", "What is my boss called?", "Who hired me?"),
         "Your boss is X.", Draw.name),
    Fact("password", ("Our secret password is X.", "We agreed on the password X.", "Use X as the password.",
                      "X is the password."),
         ("What is the password?", "Which password did we agree on?", "Tell me the password again.",
          "What was the password?"),
         "The password is X.", Draw.nonce),
    Fact("meeting", ("We meet in X.", "The meeting is in X.", "Our meeting place is X.", "Let us meet in X."),
         ("Where do we meet?", "Where is the meeting?", "What is our meeting place?", "In which town is the meeting?"),
         "We meet in X.", Draw.place),
    Fact("ship", ("My ship is the X.", "I sail on the X.", "The ship I own is the X.", "My boat bears the name X."),
         ("What is my ship called?", "On which ship do I sail?", "Name the ship I own.",
          "Which name does my boat bear?"),
         "Your ship is the X.", Draw.name),
    Fact("gift", ("I bought a X for the party.", "My present is a X.", "I will bring a X.", "A X is what I am giving."),
         ("What did I buy?", "What is my present?", "What will I bring?", "What am I giving?"),
         "It is a X.", Draw.word),
    Fact("team", ("My team is called X.", "I play for X.", "X is the team I play in.", "Our team has the name X."),
         ("What is my team called?", "Which team do I play for?", "In which team do I play?", "Name our team."),
         "Your team is X.", Draw.name),
    Fact("locker", ("My locker is X.", "I use locker X.", "They gave me locker X.", "My things are in locker X."),
         ("Which locker is mine?", "Which locker do I use?", "What is my locker?", "Where are my things?"),
         "Your locker is X.", Draw.code),
)  # fmt: skip
REPLIES = ("Good to know.", "Thanks for telling me.", "Noted.", "All right.")
# Sayings and questions that no training row has: (fact, saying, question)
UNSEEN = (
    ("name", "Everybody knows me as X.", "Could you tell me who I am?"),
    ("home", "My house stands in X.", "Do you know where I live?"),
    ("dog", "The dog we own listens to X.", "How do we call our dog?"),
    ("sister", "I grew up with my sister X.", "Do you recall who my sister is?"),
    ("order", "There is an order of mine with the number X.", "Could you repeat the number of my order?"),
    ("boss", "The boss I report to is X.", "Do you know who my boss is?"),
    ("password", "The password we chose is X.", "Could you repeat the password?"),
    ("meeting", "We are going to meet in X.", "Do you know where we meet?"),
    ("ship", "The ship that belongs to me is the X.", "Can you recall my ship?"),
    ("gift", "For the birthday I got a X.", "Do you know what I got?"),
    ("team", "I joined the team X.", "Do you know my team?"),
    ("locker", "The locker they assigned to me is X.", "Do you know my locker?"),
)


def _recall(fact: Fact, other: Fact) -> Callable[[Draw], Filled]:
    def make(d: Draw) -> Filled:
        value, distractor = two_values(d, fact.draw, other.draw)
        target: dict[str, Any] = {"all": [value], "forbid": [distractor], "max_words": 15}
        return Filled({"value": value, "other": distractor}, fact.answer.replace("X", value), target)

    return make


def _dialogue(says: str, ask: str, other_says: str, number: int) -> str:
    """The asked fact comes first or second, in one turn or in two, in turn with `number`."""
    said, other = says.replace("X", "{value}"), other_says.replace("X", "{other}")
    first, second = (said, other) if number % 2 == 0 else (other, said)
    reply = REPLIES[number % len(REPLIES)]
    if number % 4 == 3:
        return f"U: {first} {second}\nA: {reply}\nU: {ask}"
    return f"U: {first}\nA: {reply}\nU: {second}\nA: {REPLIES[(number + 1) % len(REPLIES)]}\nU: {ask}"


def _recall_kinds() -> list[Kind]:
    kinds = []
    unseen = {name: (says, ask) for name, says, ask in UNSEEN}
    for i, fact in enumerate(FACTS):
        other = FACTS[(i + 5) % len(FACTS)]
        seen = [
            _dialogue(fact.says[k], fact.asks[(k + shift) % 4], other.says[k], k + shift)
            for shift in (0, 1)
            for k in range(4)
        ]
        says, ask = unseen[fact.name]
        new = [_dialogue(says, ask, other.says[i % 4], i)]
        kinds.append(Kind(fact.name, "conversation", "mentions", seen, new, _recall(fact, other)))
    return kinds


def correction(d: Draw) -> Filled:
    old, new = two_values(d, Draw.place, Draw.place)
    target: dict[str, Any] = {"all": [new], "forbid": [old], "max_words": 15}
    return Filled({"old": old, "new": new}, f"It is {new}.", target)


def friends(d: Draw) -> Filled:
    (a, b), (x, y) = d.names(2), d.distinct(d.word, 2)
    who = d.pick((a, b))
    thing, other = (x, y) if who == a else (y, x)
    target: dict[str, Any] = {"all": [thing], "forbid": [other], "max_words": 15}
    return Filled({"a": a, "b": b, "x": x, "y": y, "who": who}, f"{who} has the {thing}.", target)


def offers(d: Draw) -> Filled:
    x, y = d.words(2)
    target: dict[str, Any] = {"all": [x], "forbid": [y], "max_words": 15}
    return Filled({"x": x, "y": y}, f"The first was {x}.", target)


EXTRA = [
    Kind("correction", "conversation", "mentions", (
        "U: The trip goes to {old}.\nA: All right.\nU: Sorry, I meant {new}.\nA: Noted.\nU: Where does the trip go?",
        "U: Send the parcel to {old}.\nA: Noted.\nU: No, send it to {new}.\nA: All right.\n"
        "U: Where should the parcel go?",
        "U: We will stay in {old}.\nA: Good to know.\nU: Correction, we will stay in {new}.\nA: Noted.\n"
        "U: Where will we stay?",
        "U: The concert is in {old}.\nA: Noted.\nU: It was moved to {new}.\nA: Good to know.\n"
        "U: Where is the concert now?",
    ), ("U: The wedding is in {old}.\nA: Noted.\nU: They changed it to {new}.\nA: Noted.\n"
        "U: Which town has the wedding now?",),
        correction),
    Kind("friends", "conversation", "mentions", (
        "U: {a} has the {x} and {b} has the {y}.\nA: Noted.\nU: What does {who} have?",
        "U: {a} went off with the {x}.\nA: All right.\nU: {b} went off with the {y}.\nA: Noted.\n"
        "U: What did {who} go off with?",
        "U: I gave {a} the {x} and {b} the {y}.\nA: Good to know.\nU: What did I give to {who}?",
        "U: {a} wants the {x}.\nA: Noted.\nU: And {b} wants the {y}.\nA: All right.\nU: Which one does {who} want?",
    ), ("U: {a} carries the {x} while {b} carries the {y}.\nA: Noted.\nU: Do you know what {who} carries?",), friends),
    Kind("offers", "conversation", "mentions", (
        "U: Give me two words.\nA: {x} and {y}.\nU: Which one was the first?",
        "U: Suggest two things.\nA: I suggest {x} and {y}.\nU: What did you suggest first?",
        "U: Tell me two ideas.\nA: My ideas are {x} and {y}.\nU: Say the first idea again.",
        "U: Pick two subjects for a poem.\nA: I pick {x} and {y}.\nU: Which of them came first?",
    ), ("U: Name two options.\nA: The options are {x} and {y}.\nU: What was option one?",), offers),
]  # fmt: skip

KINDS = [*_recall_kinds(), *EXTRA]
