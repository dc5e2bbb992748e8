"""What is drawn anew for each task besides its scene: preferences, tools, aliases, prices, specialists, budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from toolorch_integrations.budget import Budget
from toolorch_integrations.entry import Price, Specialist
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter

PRICE_TABLES = 64
"""Price tables there are; a task has one of them."""

SPECIALISTS = tuple(
    Specialist(name=name, description=description, capabilities=capabilities)
    for name, description, capabilities in (
        ("generalist-large", "Answers hard questions of any kind.", ("answer", "reasoning")),
        ("generalist-small", "Answers easy questions of any kind.", ("answer",)),
        ("mathematician", "Solves problems in mathematics.", ("math", "reasoning")),
        ("statistician", "Reads data and computes figures.", ("math", "data")),
        ("coder", "Writes and corrects programs.", ("code",)),
        ("code-reviewer", "Finds faults in programs.", ("code",)),
        ("writer", "Writes letters and reports.", ("writing",)),
        ("editor", "Shortens and polishes texts.", ("writing",)),
        ("translator", "Translates between languages.", ("language",)),
        ("lawyer", "Knows contracts and regulations.", ("law",)),
        ("scientist", "Knows physics, chemistry and biology.", ("science", "reasoning")),
        ("planner", "Breaks large goals into steps.", ("planning", "reasoning")),
    )
)
"""Specialists that a task may show; they have no endpoint until somebody gives them one."""

_VERBS = {
    "create": ("add", "new", "make", "insert", "create"),
    "get": ("show", "read", "fetch", "get", "view"),
    "list": ("browse", "all", "query", "list", "filter"),
    "search": ("find", "lookup", "match", "search"),
    "update": ("edit", "change", "modify", "update"),
    "delete": ("remove", "erase", "drop", "delete"),
    "link": ("attach", "connect", "assign", "link"),
    "unlink": ("detach", "disconnect", "unassign", "unlink"),
}
_INSTRUCTIONS = {
    "cost": ("Keep it cheap.", "I'd rather not spend much.", "Low cost matters to me.", "Mind the budget."),
    "latency": ("Be quick.", "I am in a hurry.", "Speed matters to me.", "I need this fast."),
    "quality": ("Take your time and get it right.", "Getting it right matters most.", "Be thorough."),
    "tool": ("I like {0}.", "Use {0} where you can.", "{0} is the one I trust.", "Prefer {0}."),
}


@dataclass(frozen=True)
class World:
    """What a task has besides its scene."""

    preferences: Preferences
    budget: Budget
    catalog: CatalogFilter
    specialists: tuple[Specialist, ...]
    price_table: int


def world(draw: random.Random, tools: Sequence[str], needed: Sequence[str], turns: int) -> World:
    """Draw a world.

    Args:
        draw: Source of randomness.
        tools: All tools of the domain.
        needed: Those that the golden calls use.
        turns: Turns of the golden calls.
    """
    specialists = tuple(draw.sample(SPECIALISTS, draw.choice((0, 0, 1, 2, 3, 4))))
    spare = [name for name in tools if name not in needed]
    kept = [*dict.fromkeys(needed), *draw.sample(spare, min(len(spare), draw.randint(2, 10)))]
    shown = [*kept, *(specialist.name for specialist in specialists)]
    aliases = _aliases(draw, shown) if draw.random() < 0.5 else {}
    table = draw.randrange(PRICE_TABLES)
    prices = {name: price(table, name) for name in shown}
    changes = CatalogFilter(
        allow=frozenset(shown),
        aliases=aliases,
        prices={name: item for name, item in prices.items() if item != Price()},
        latencies={item.name: latency(table, item.name) for item in specialists},
    )
    cheapest = sum(prices[name].call for name in needed)
    return World(_preferences(draw, shown, aliases), _budget(draw, turns, cheapest), changes, specialists, table)


@lru_cache(65536)
def price(table: int, name: str) -> Price:
    """Return what an entry costs in a price table; about two tools in three are free."""
    draw = random.Random(f"price {table} {name}")
    if any(specialist.name == name for specialist in SPECIALISTS):
        dollars = draw.choice((0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0))
        return Price(input=dollars, output=dollars * draw.choice((2, 3, 4, 5)))
    return Price(call=draw.choice((0.001, 0.002, 0.005, 0.01))) if draw.random() < 0.35 else Price()


@lru_cache(4096)
def latency(table: int, name: str) -> float:
    """Return the seconds that an entry takes in a price table."""
    return random.Random(f"latency {table} {name}").choice((0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0))


def _aliases(draw: random.Random, shown: Sequence[str]) -> dict[str, str]:
    """Rename some entries, all in one style; no two get the same name."""
    style = draw.choice(("snake", "camel", "kebab", "swapped"))
    aliases: dict[str, str] = {}
    taken = set(shown)
    for name in shown:
        if draw.random() < 0.3:
            continue
        verb, _, rest = name.partition("_")
        if not rest:  # a specialist
            alias = f"expert-{draw.randint(1, 99)}"
        else:
            words = [draw.choice(_VERBS.get(verb, (verb,))), *rest.split("_")]
            if style == "swapped":
                words = [*words[1:], words[0]]
            alias = words[0] + "".join(word.capitalize() for word in words[1:]) if style == "camel" else (
                "-".join(words) if style == "kebab" else "_".join(words))  # fmt: skip
        if alias not in taken:
            taken.add(alias)
            aliases[name] = alias
    return aliases


def _preferences(draw: random.Random, shown: Sequence[str], aliases: dict[str, str]) -> Preferences:
    """Draw a vector, and in half of the cases words of the user's own for it."""
    if draw.random() < 0.3:
        return Preferences()
    levels = (0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    cost, latency, quality = draw.choice(levels), draw.choice(levels), draw.choice((1.0, 1.0, 1.0, 0.8, 0.5))
    liked = draw.sample(shown, draw.choice((0, 0, 1, 1, 2)))
    tools = {name: draw.choice((0.3, 0.5, 0.8, 1.0)) for name in sorted(liked)}
    words = []
    if draw.random() < 0.5:
        words += [draw.choice(_INSTRUCTIONS["cost"])] if cost > 0.3 else []
        words += [draw.choice(_INSTRUCTIONS["latency"])] if latency > 0.3 else []
        words += [draw.choice(_INSTRUCTIONS["quality"])] if quality == 1.0 and cost + latency < 0.5 else []
        words += [draw.choice(_INSTRUCTIONS["tool"]).format(aliases.get(name, name)) for name in tools]
    return Preferences(
        quality=quality, cost=cost, latency=latency, tools=tools, instruction=" ".join(words) if words else None
    )


def _budget(draw: random.Random, turns: int, cheapest: float) -> Budget:
    """Draw limits within which the golden calls fit."""
    if draw.random() < 0.4:
        return Budget()
    return Budget(
        turns=draw.choice((30, turns + 2, turns + 3, turns + 5, turns + 8)),
        dollars=draw.choice((None, *(round(cheapest * 2 + item, 4) for item in (0.02, 0.05, 0.1, 0.5)))),
        seconds=draw.choice((None, None, None, 60.0, 120.0, 300.0)),
    )
