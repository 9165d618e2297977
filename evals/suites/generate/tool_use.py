"""tool_use: the right call with the right arguments, and no call where none fits or none is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.engine.base import words as w
from posttrain.engine.base.words import Draw
from posttrain.evals.suites.generate.common import Filled, Kind, two_values


def _hour(d: Draw) -> str:
    return str(d.num(1, 23))


def _amount(d: Draw) -> str:
    return str(d.num(2, 99))


def _colour(d: Draw) -> str:
    return d.pick(w.COLOURS)


@dataclass(frozen=True)
class Tool:
    """A function on offer, and requests for it. Each parameter has the slot of its own name."""

    name: str
    about: str
    parameters: dict[str, tuple[str, Callable[[Draw], str]]]
    seen: tuple[str, ...]
    unseen: str

    def schema(self) -> dict[str, Any]:
        properties = {name: {"type": kind} for name, (kind, _) in self.parameters.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": function}

    def draw(self, d: Draw) -> dict[str, str]:
        return {name: draw(d) for name, (_, draw) in self.parameters.items()}

    def call(self, slots: dict[str, str]) -> dict[str, Any]:
        values = {k: int(slots[k]) if kind == "integer" else slots[k] for k, (kind, _) in self.parameters.items()}
        return {"name": self.name, "arguments": values}


TEXT, NUMBER = "string", "integer"
TOOLS = (
    Tool("get_weather", "Weather of a city", {"city": (TEXT, Draw.place)},
         ("What is the weather like in {city}?", "Will it rain in {city} today?", "Tell me how warm it is in {city}."),
         "Is it sunny in {city}?"),
    Tool("get_time", "Local time of a place", {"place": (TEXT, Draw.place)},
         ("What time is it in {place}?", "Tell me the local time in {place}.", "I need to know the hour in {place}."),
         "How late is it in {place} now?"),
    Tool("play_song", "Play a song", {"title": (TEXT, Draw.nonce)},
         ("Play the song {title}.", "I want to hear the song {title}.", "Start the music, the song is {title}."),
         "Put on the song {title}, please."),
    Tool("call_person", "Call a person", {"person": (TEXT, Draw.name)},
         ("Please call {person} for me.", "Give {person} a ring on the phone.", "Phone {person} right now."),
         "I would like to phone {person}."),
    Tool("send_message", "Send a message", {"person": (TEXT, Draw.name), "text": (TEXT, Draw.word)},
         ("Send {person} the message {text}.", "Write {person} a text that says {text}.",
          "Message {person} with the word {text}."),
         "Let {person} know by message: {text}."),
    Tool("set_alarm", "Set an alarm", {"hour": (NUMBER, _hour), "label": (TEXT, Draw.nonce)},
         ("Set an alarm for hour {hour} with the label {label}.", "Wake me at {hour} with the alarm {label}.",
          "At {hour} the alarm {label} should ring."),
         "I need an alarm named {label} at {hour}."),
    Tool("track_order", "Status of an order", {"code": (TEXT, Draw.code)},
         ("Where is my order {code}?", "Track the order {code}.", "What is the status of order {code}?"),
         "Has order {code} been shipped?"),
    Tool("translate_word", "Translate a word", {"word": (TEXT, Draw.word), "language": (TEXT, Draw.nonce)},
         ("Translate {word} into {language}.", "What does one say for {word} in {language}?",
          "I need {word} translated to {language}."),
         "How is {word} said in {language}?"),
    Tool("book_table", "Book a table", {"place": (TEXT, Draw.name), "people": (NUMBER, _amount)},
         ("Book a table at {place} for {people} people.", "Reserve a table for {people} at {place}.",
          "Get us a table at {place}, we are {people}."),
         "We are {people} and want a table at {place}."),
    Tool("order_taxi", "Order a taxi", {"place": (TEXT, Draw.place)},
         ("Order a taxi to {place}.", "I need a taxi that goes to {place}.", "A taxi should bring me to {place}."),
         "Get me a taxi for {place}."),
    Tool("find_flight", "Find a flight", {"start": (TEXT, Draw.place), "goal": (TEXT, Draw.place)},
         ("Find a flight from {start} to {goal}.", "I want to fly from {start} to {goal}.",
          "Search flights that go from {start} to {goal}."),
         "Which flight goes from {start} to {goal}?"),
    Tool("set_lamp", "Colour of a lamp", {"lamp": (TEXT, Draw.nonce), "colour": (TEXT, _colour)},
         ("Make the lamp {lamp} {colour}.", "Turn the lamp called {lamp} to {colour}.",
          "Change the lamp {lamp} to the colour {colour}."),
         "The lamp {lamp} should be {colour}."),
    Tool("add_item", "Add to the shopping list", {"item": (TEXT, Draw.word), "amount": (NUMBER, _amount)},
         ("Add {amount} {item} to the shopping list.", "Put {amount} {item} on my shopping list.",
          "For the shopping list: {amount} {item}."),
         "My shopping list should have {amount} {item}."),
    Tool("open_file", "Open a file", {"file": (TEXT, Draw.nonce)},
         ("Open the file {file}.", "Show me what is in the file {file}.", "Let me read the file {file}."),
         "I want to look at the file {file}."),
    Tool("find_recipe", "Find a recipe", {"dish": (TEXT, Draw.word)},
         ("Find a recipe for {dish}.", "How can I cook {dish}? Get me a recipe.", "Which recipe makes {dish}?"),
         "I want to cook {dish} and need a recipe."),
    Tool("read_news", "News about a topic", {"topic": (TEXT, Draw.word)},
         ("What is the news about {topic}?", "Read me the news on {topic}.", "Show the latest news on {topic}."),
         "Any news on the subject of {topic}?"),
)  # fmt: skip
NUM_TOOLS = (1, 1, 1, 1, 2, 2, 2, 3)


def _offer(d: Draw, num: int, tool: Tool | None, without: Tool | None = None) -> list[dict[str, Any]]:
    """`num` schemas in random order, with `tool` among them, never with `without`."""
    others = [t for t in TOOLS if t is not tool and t is not without]
    chosen = d.rng.sample(others, num - (tool is not None)) + ([tool] if tool else [])
    d.rng.shuffle(chosen)
    return [t.schema() for t in chosen]


def _call(tool: Tool) -> Callable[[Draw], Filled]:
    def make(d: Draw) -> Filled:
        slots = tool.draw(d)
        call = tool.call(slots)
        answer = f"<tool_call>{json.dumps(call)}</tool_call>"
        return Filled(slots, answer, call, _offer(d, d.rng.choice(NUM_TOOLS), tool))

    return make


def _decline(tool: Tool) -> Callable[[Draw], Filled]:
    def make(d: Draw) -> Filled:
        tools = _offer(d, d.rng.choice(NUM_TOOLS), None, tool)
        return Filled(tool.draw(d), "None of the tools can do that.", {"mode": "decline"}, tools)

    return make


def _known(answer: str, draw: Callable[[Draw], str], other: Callable[[Draw], str]) -> Callable[[Draw], Filled]:
    def make(d: Draw) -> Filled:
        x, y = two_values(d, draw, other)
        target = {"mode": "answer", "all": [x], "forbid": [y], "max_words": 15}
        return Filled({"x": x, "y": y}, answer.format(x=x), target, _offer(d, d.rng.choice(NUM_TOOLS), None))

    return make


# Requests that need no tool: (name, answer, draws, seen wordings, unseen wordings)
DIRECT = (
    ("sister", "Your sister is {x}.", Draw.name, Draw.place,
     ("My sister {x} went to {y}. What is my sister called?", "{x} is my sister and loves {y}. Who is my sister?"),
     ("I wrote to my sister {x} from {y}. Which name does my sister have?",)),
    ("colour", "The {x} one.", _colour, Draw.name,
     ("{y} has a car and it is {x}. What colour is the car?", "The coat of {y} is {x}. Which colour is the coat?"),
     ("{y} painted the wall {x}. In which colour is the wall?",)),
    ("key", "The key is {x}.", Draw.nonce, Draw.nonce,
     ("The key is {x}, the lock is {y}. What is the key?", "My lock is {y} and my key is {x}. Repeat the key."),
     ("For the lock {y} there is the key {x}. Name that key.",)),
    ("winner", "The winner is {x}.", Draw.name, Draw.name,
     ("{x} won against {y}. Who is the winner?", "{y} lost to {x}. Who won?"),
     ("In the final {x} defeated {y}. Name the winner.",)),
    ("town", "The town is {x}.", Draw.place, Draw.name,
     ("{y} was born in {x}. In which town was that?", "{y} comes from the town {x}. Which town is it?"),
     ("The town where {y} grew up is {x}. Name the town.",)),
)  # fmt: skip

KINDS = [
    *(Kind(t.name, "tool_use.call", "tool_call", t.seen, (t.unseen,), _call(t)) for t in TOOLS),
    *(Kind(f"decline_{t.name}", "tool_use.no_call", "no_tool_call", t.seen, (t.unseen,), _decline(t)) for t in TOOLS),
    *(
        Kind(f"direct_{name}", "tool_use.no_call", "no_tool_call", seen, unseen, _known(answer, draw, other))
        for name, answer, draw, other, seen, unseen in DIRECT
    ),
]
