"""The requests: eight kinds, each instance drawn anew, each with the one right answer."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from examples.routing.specialists import TEAM, Team
from toolorch_integrations.preferences import Preferences
from toolorch_serving.simulated.numbers import MONTHS
from toolorch_serving.simulated.solution import number

Drawn = tuple[str, str]
"""A request and its answer."""

WORDS = (
    "garden", "window", "planet", "silver", "orange", "market", "bridge", "candle", "forest", "guitar", "harbor",
    "island", "jacket", "kitten", "ladder", "meadow", "needle", "oyster", "pepper", "quartz", "rabbit", "saddle",
)  # fmt: skip
GOODS = ("apples", "pears", "plums", "figs", "nuts", "dates", "limes", "beans", "leeks", "peas")
_UNITS = (("kilometres", "metres", 1000), ("kilograms", "grams", 1000), ("hours", "minutes", 60), ("days", "hours", 24))


@dataclass(frozen=True, slots=True)
class RoutingTask:
    """A request, what is right, what its caller cares about, and who may be asked."""

    id: str
    kind: str
    request: str
    answer: str
    preferences: Preferences
    team: Team = field(default=TEAM, repr=False)


def units(draw: random.Random) -> Drawn:
    """Convert units."""
    large, small, factor = draw.choice([unit for unit in _UNITS if unit[0] != "days"])
    amount = draw.randint(2, 99)
    return f"How many {small} are {amount} {large}?", str(amount * factor)


def dates(draw: random.Random) -> Drawn:
    """Find the date some days away."""
    day = dt.date(draw.randint(1950, 2050), draw.randint(1, 12), draw.randint(1, 28))
    shift = draw.randint(3, 90)
    found = day + dt.timedelta(days=shift)
    asked = f"What date is {shift} days after {day.day} {MONTHS[day.month - 1]} {day.year}?"
    return asked, f"{found.day} {MONTHS[found.month - 1]} {found.year}"


def arithmetic(draw: random.Random) -> Drawn:
    """Work out a plain calculation."""
    a, b, c = draw.randint(12, 99), draw.randint(3, 49), draw.randint(2, 500)
    return f"Calculate {a} * {b} + {c}.", str(a * b + c)


def mathematics(draw: random.Random) -> Drawn:
    """Let two share a piece of work."""
    first, second = draw.sample(range(2, 13), 2)
    thing = draw.choice(("a fence", "a wall", "a hall", "a boat"))
    asked = f"Ann paints {thing} in {first} hours, Bob in {second} hours. How many hours do they need together?"
    return asked, number(Fraction(first * second, first + second))


def numbers(draw: random.Random) -> Drawn:
    """Ask for number theory."""
    if draw.random() < 0.5:
        factor = draw.randint(2, 30)
        a, b = factor * draw.randint(2, 30), factor * draw.randint(2, 30)
        return f"What is the greatest common divisor of {a} and {b}?", str(math.gcd(a, b))
    n = draw.randint(10, 600)
    return f"How many zeros does {n}! end with?", str(sum(n // 5**power for power in range(1, 5)))


def lookup(draw: random.Random) -> Drawn:
    """Read a number out of a list."""
    goods = draw.sample(GOODS, 4)
    counts = draw.sample(range(2, 99), 4)
    wanted = draw.randrange(4)
    stock = ", ".join(f"{name} {count}" for name, count in zip(goods, counts, strict=True))
    return f"Stock: {stock}. How many {goods[wanted]} are left?", str(counts[wanted])


def text(draw: random.Random) -> Drawn:
    """Rewrite a word."""
    word = draw.choice(WORDS) + draw.choice(("", "s"))
    if draw.random() < 0.5:
        return f"Write the word {word} backwards.", word[::-1]
    return f"Write the word {word} without its vowels.", "".join(c for c in word if c not in "aeiou")


def code(draw: random.Random) -> Drawn:
    """Say what a program prints."""
    a, b, n = draw.randint(1, 20), draw.randint(2, 9), draw.randint(2, 5)
    if draw.random() < 0.5:
        return f"x = {a}; for i in range({n}): x += {b}; print(x). Output?", str(a + n * b)
    return f"x = {a}; y = x % {b}; print(y). Output?", str(a % b)


KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    draw.__name__: draw for draw in (units, dates, arithmetic, mathematics, numbers, lookup, text, code)
}

SETTINGS: dict[str, Preferences] = {
    "careful": Preferences(quality=1.0, cost=0.3),
    "frugal": Preferences(quality=0.3, cost=1.0),
    "even": Preferences(quality=1.0, cost=0.6, latency=0.6),
    "brisk": Preferences(quality=1.0, cost=0.2, latency=1.0),
    "rush": Preferences(quality=0.3, latency=1.0),
}
"""What callers care about, from a right answer at a fair price to any answer at once."""


def tasks(count: int, seed: int | str = 0, settings: Sequence[str] = ("careful",)) -> list[RoutingTask]:
    """Return requests: all kinds and settings equally often, the same ones for the same seed.

    Args:
        count: How many.
        seed: Which; `held_out` and the like never give a request of another seed by more than chance.
        settings: Names of `SETTINGS`, taken in turn.
    """
    made = []
    kinds = list(KINDS)
    for index in range(count):
        draw = random.Random(f"routing {seed} {index}")
        kind = kinds[index % len(kinds)]
        asked, answer = KINDS[kind](draw)
        setting = settings[index // len(kinds) % len(settings)]
        made.append(RoutingTask(f"{seed}-{index}-{setting}", kind, asked, answer, SETTINGS[setting]))
    return made
