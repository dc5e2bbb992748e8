"""Routing where each request comes with specialists of its own: names, prices, seconds and skills are drawn anew.

What each specialist is good at stands in its description, so a policy can know it without ever having met the name.
`strong` ones are good at everything and dear. What is drawn for the test has names and prices that training never
shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

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

NAMES = (
    "acorn", "amber", "aspen", "badger", "basil", "beacon", "beaver", "breeze", "bronze", "cactus", "canyon", "castle",
    "cobalt", "comet", "copper", "coral", "cotton", "crane", "crystal", "daisy", "delta", "desert", "dragon", "eagle",
    "ebony", "echo", "falcon", "feather", "fern", "finch", "fossil", "galaxy", "garnet", "glacier", "granite", "heron",
    "hickory", "indigo", "iris", "ivory", "jasper", "juniper", "kestrel", "lagoon", "lantern", "laurel", "lemon",
    "lily", "linen", "lotus", "magnet", "maple", "marble", "meteor", "mint", "nectar", "nova", "oak", "ocean", "olive",
    "onyx", "opal", "orbit", "orchid", "otter", "panda", "pearl", "pebble", "pine", "pixel", "prism", "quail", "raven",
    "reef", "river", "robin", "ruby", "saffron", "sage", "sapphire", "scarlet", "shadow", "spruce", "sparrow", "summit",
    "thistle", "thunder", "tiger", "topaz", "tulip", "tundra", "velvet", "violet", "walnut", "willow", "zephyr",
)  # fmt: skip
UNSEEN = frozenset(NAMES[::4])
"""Names that only the test shows."""

_PRICES = tuple(number / 10 for number in range(1, 100)) + tuple(float(number) for number in range(10, 21))
"""Dollars per million input tokens; output tokens cost four times as much."""
_SECONDS = tuple(number / 10 for number in range(5, 100, 5))
_CHEAP, _DEAR = 3.0, 8.0
"""Dollars up to which a specialist of some skills costs, and from which one of all skills does."""


def prices(low: float, high: float, unseen: bool) -> list[float]:
    """Return the prices of a range that training, or only the test, shows: every fifth is kept for that."""
    return [price for place, price in enumerate(_PRICES) if low <= price <= high and (place % 5 == 2) == unseen]


def team(draw: random.Random, unseen: bool = False) -> Team:
    """Return a team: one or two specialists who are good at everything, and three to five who know their part.

    Args:
        draw: Where names, prices, seconds and skills come from.
        unseen: Draw names and prices that training never shows.
    """
    strong, size = draw.choice((1, 1, 2)), draw.randint(3, 5)
    names = draw.sample([name for name in NAMES if (name in UNSEEN) == unseen], strong + size)
    made = [_specialist(draw, names.pop(), tuple(SKILLS), prices(_DEAR, 20, unseen)) for _ in range(strong)]
    for name in names:
        skills = draw.sample(list(SKILLS), draw.randint(1, 4))
        made.append(_specialist(draw, name, skills, prices(0.1, _CHEAP, unseen)))
    draw.shuffle(made)
    return Team(tuple(made))


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
