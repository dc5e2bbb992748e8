"""Routing where each request comes with specialists of its own: names, prices, seconds and skills are drawn anew.

What each specialist is good at stands in its description, so a policy can know it without ever having met the name.
`strong` ones are good at everything and dear. What is drawn for the test has names and prices that training never
shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from examples.routing.requests import RoutingTask, tasks
from examples.routing.specialists import QUESTIONS, Team
from toolorch_integrations.entry import Price
from toolorch_serving.simulated.specialists import SimulatedSpecialist

SKILLS: dict[str, tuple[str, ...]] = {
    "everyday": ("units", "dates"),
    "arithmetic": ("arithmetic",),
    "mathematics": ("mathematics",),
    "numbers": ("numbers",),
    "lookup": ("lookup",),
    "text": ("text",),
    "code": ("code",),
}
"""The simulated specialists' domains, and the kinds of requests that belong to each."""

EVERYTHING = "Good at everything."
ABLE, UNABLE = 0.98, 0.02
"""How probable a right answer is in what a specialist's description names, and in everything else."""

_FIRST = (
    "amber", "azure", "bold", "brave", "brisk", "calm", "clear", "clever", "coral", "crisp", "dusty", "eager", "early",
    "fair", "fancy", "frosty", "gentle", "golden", "grand", "happy", "hidden", "honest", "humble", "ivory", "jolly",
    "keen", "late", "light", "lively", "lucky", "mellow", "mighty", "misty", "noble", "plain", "proud", "quick",
    "quiet", "rapid", "royal", "silent", "smart", "solid", "steady", "sunny", "swift", "warm", "wise",
)  # fmt: skip
_SECOND = (
    "acorn", "badger", "basil", "beacon", "breeze", "cactus", "canyon", "castle", "comet", "crane", "daisy", "dragon",
    "eagle", "falcon", "feather", "fern", "finch", "galaxy", "glacier", "heron", "iris", "juniper", "kestrel",
    "lagoon", "lantern", "laurel", "lotus", "maple", "meteor", "nectar", "nova", "ocean", "orbit", "otter", "pebble",
    "pine", "prism", "quail", "raven", "reef", "robin", "sage", "sparrow", "summit", "tiger", "tulip", "willow",
    "zephyr",
)  # fmt: skip


@cache
def names(unseen: bool) -> tuple[str, ...]:
    """Return the names that training, or only the test, shows: every fourth combination is kept for that."""
    return tuple(
        f"{first}-{second}"
        for row, first in enumerate(_FIRST)
        for column, second in enumerate(_SECOND)
        if ((row + column) % 4 == 0) == unseen
    )


_PRICES = tuple(number / 10 for number in range(1, 100)) + tuple(float(number) for number in range(10, 21))
"""Dollars per million input tokens; output tokens cost four times as much."""
_SECONDS = tuple(number / 10 for number in range(5, 100, 5))
_CHEAP, _DEAR = 3.0, 8.0
"""Dollars up to which a specialist of some skills costs, and from which one of all skills does."""


def prices(low: float, high: float, unseen: bool) -> list[float]:
    """Return the prices of a range that training, or only the test, shows: every fourth between those of training."""
    shown = [price for place, price in enumerate(_PRICES) if low <= price <= high and place % 4 != 1]
    return [price for price in _PRICES if shown[0] < price < shown[-1] and price not in shown] if unseen else shown


def team(draw: random.Random, unseen: bool = False) -> Team:
    """Return a team: one or two specialists who are good at everything, and three to five who know their part.

    Args:
        draw: Where names, prices, seconds and skills come from.
        unseen: Draw names and prices that training never shows.
    """
    strong, size = draw.choice((1, 1, 2)), draw.randint(3, 5)
    called = _apart(draw, names(unseen), strong + size)
    made = [_specialist(draw, called.pop(), tuple(SKILLS), prices(_DEAR, 20, unseen)) for _ in range(strong)]
    for name in called:
        skills = draw.sample(list(SKILLS), draw.randint(2, 4))
        made.append(_specialist(draw, name, skills, prices(0.1, _CHEAP, unseen)))
    draw.shuffle(made)
    return Team(tuple(made))


def _apart(draw: random.Random, among: Sequence[str], count: int) -> list[str]:
    """Return names of which no two begin alike: who reads them need not look twice."""
    found: dict[str, str] = {}
    while len(found) < count:
        name = draw.choice(among)
        found.setdefault(name.partition("-")[0], name)
    return list(found.values())


def _specialist(draw: random.Random, name: str, skills: Sequence[str], priced: Sequence[float]) -> SimulatedSpecialist:
    price = draw.choice(priced)
    kinds = [kind for skill in skills for kind in SKILLS[skill]]
    return SimulatedSpecialist(
        name=name,
        description=EVERYTHING if len(skills) == len(SKILLS) else f"Good at {', '.join(kinds)}.",
        price=Price(input=price, output=4 * price),
        latency=draw.choice(_SECONDS),
        skill=dict.fromkeys(skills, ABLE),
        otherwise=UNABLE,
        capabilities=("answer",),
        families=QUESTIONS,
    )


def redrawn_tasks(
    count: int, seed: int | str = 0, settings: Sequence[str] = ("careful",), *, unseen: bool = False
) -> list[RoutingTask]:
    """Return requests as `tasks` does, each with a team of its own."""
    return [
        replace(task, team=team(random.Random(f"team {seed} {number}"), unseen))
        for number, task in enumerate(tasks(count, seed, settings))
    ]
