"""Word lists and seeded draws shared by the corpus and the suites' generators.

Most proper names are invented from syllables, so that a model sees far more values than it can learn by heart and
has to learn recall instead. Pure Python: nothing heavy is imported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence


def listed(text: str) -> list[str]:
    """The words of a text, as a list that a reader can still scan."""
    return text.split()


GIVEN_NAMES = listed(
    "Anna Ben Carla David Elena Felix Grace Hugo Iris Jonas Kira Leo Mara Nina Omar Paula Quinn Rosa Sam "
    "Tova Uma Victor Wanda Yusuf Zoe Amir Bella Chen Dora Emil Fatima Gita Hana Ivan Jade Karim Lena Milo "
    "Noor Otto Priya Rafael Sara Theo"
)
CITIES = listed(
    "Paris Lisbon Oslo Cairo Lima Delhi Tokyo Rome Madrid Berlin Vienna Dublin Prague Athens Warsaw "
    "Nairobi Boston Denver Austin Seattle Toronto Sydney Osaka Seoul Hanoi Tunis Accra Quito Bogota "
    "Geneva"
)
COLOURS = listed("red blue green yellow purple orange pink brown black white grey silver gold teal")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("January February March April May June July August September October November December")
NUMBER_WORDS = listed("zero one two three four five six seven eight nine ten eleven twelve")

FRUITS = listed("apple pear plum mango cherry lemon banana grape peach melon orange fig")
ANIMALS = listed("dog cat horse goat rabbit parrot turtle hamster fox owl duck frog")
TOOLS = listed("hammer saw drill wrench ladder shovel rake brush chisel rope bucket torch")
FOODS = listed("soup bread rice cheese pasta salad pizza cake curry pie noodles toast")
DRINKS = listed("tea coffee milk juice water cocoa lemonade soda")
CLOTHES = listed("hat scarf coat shirt sock glove boot belt jacket sweater")
FURNITURE = listed("table chair lamp shelf sofa desk bed stool mirror carpet")
INSTRUMENTS = listed("piano violin guitar flute drum trumpet cello harp")
SPORTS = listed("tennis football chess rowing skiing hockey golf swimming running cricket")
THINGS = listed(
    "rain river garden bridge mountain train market library window candle clock letter ship forest island "
    "school kitchen engine planet storm winter summer morning music painting castle village desert ocean "
    "valley road tower museum farm harbour lantern blanket basket mirror pencil wheel stone feather "
    "shadow cloud snow fire wind moon star sun tree leaf flower seed bird horse bread honey coffee cheese "
    "paper book map coin key door house boat bicycle camera radio robot"
)
ADJECTIVES = listed(
    "soft bright quiet old small warm cold dark heavy light quick slow clean fresh gentle strong simple "
    "smooth deep tall round empty golden lovely calm busy strange useful famous plain sweet sharp"
)
ADVERBS = listed("slowly quietly often gently always sometimes quickly today softly early")
VERBS = listed("moves shines waits grows turns sleeps changes rests helps glows sings drifts")
OBJECTS = listed(
    "coins marbles stamps books pens cards shells stickers buttons apples pears eggs cups boxes beads "
    "keys stones nuts tickets balls"
)
PETS = listed("dog cat rabbit parrot turtle hamster goat pony goldfish lizard")
JOBS = listed("baker teacher nurse pilot farmer painter driver writer plumber singer gardener cook")
ROOMS = listed("kitchen bedroom attic cellar garage hallway office bathroom library porch")
RELATIVES = listed("sister brother mother father aunt uncle cousin neighbour teacher friend")

_ONSETS = listed("b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z")
_VOWELS = listed("a e i o u ai ea ou")
_CODAS = listed("n r l s m k t nd rn x lk th sh v")
_PLACE_ENDINGS = listed("ton ville burg dale ford mouth stead haven field port")


class Draw:
    """Seeded draws. All randomness of the generators goes through one of these."""

    def __init__(self, seed: int | str) -> None:
        self.rng = random.Random(seed)

    def pick(self, values: Sequence[str]) -> str:
        return values[int(self.rng.random() * len(values))]

    def some(self, values: Sequence[str], num: int) -> list[str]:
        return self.rng.sample(values, num)

    def num(self, low: int, high: int) -> int:
        """An integer of [low, high]."""
        return low + int(self.rng.random() * (high - low + 1))

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def nonce(self) -> str:
        """An invented lower-case word of two or, rarely, three syllables."""
        parts = [self.pick(_ONSETS), self.pick(_VOWELS)]
        if self.chance(0.3):
            parts += [self.pick(_CODAS)]
        parts += [self.pick(_ONSETS), self.pick(_VOWELS)]
        if self.chance(0.7):
            parts += [self.pick(_CODAS)]
        return "".join(parts)

    def name(self) -> str:
        return self.pick(GIVEN_NAMES) if self.chance(0.25) else self.nonce().capitalize()

    def names(self, num: int) -> list[str]:
        return self.distinct(self.name, num)

    def place(self) -> str:
        if self.chance(0.25):
            return self.pick(CITIES)
        return self.nonce().capitalize() + (self.pick(_PLACE_ENDINGS) if self.chance(0.4) else "")

    def word(self) -> str:
        """A lower-case word: usually an everyday noun, sometimes an invented one."""
        return self.nonce() if self.chance(0.35) else self.pick(THINGS)

    def words(self, num: int) -> list[str]:
        return self.distinct(self.word, num)

    def code(self) -> str:
        """An identifier such as `KX-482` or `4417`."""
        if self.chance(0.4):
            return str(self.num(1000, 9999))
        letters = "".join(self.pick("ABCDEFGHKLMNPRSTVWXZ") for _ in range(2))
        return f"{letters}-{self.num(100, 999)}"

    def distinct(self, draw: Callable[[], str], num: int) -> list[str]:
        """`num` different values of `draw`."""
        seen: dict[str, None] = {}
        while len(seen) < num:
            seen[draw()] = None
        return list(seen)

    def shuffled(self, values: Sequence[str]) -> list[str]:
        out = list(values)
        self.rng.shuffle(out)
        return out


def join_and(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
