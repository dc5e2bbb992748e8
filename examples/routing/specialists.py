"""Six simulated specialists. Their names and prices are known; what each is good at shows only when it is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from toolorch_integrations import Catalog
from toolorch_integrations.completion import Completion
from toolorch_integrations.entry import Price
from toolorch_integrations.langgraph import SpecialistTool
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_serving.simulated.solution import Family, Steps, family
from toolorch_serving.simulated.specialists import FAMILIES, SimulatedSpecialist
from toolorch_serving.simulated.tokens import content_of, count, count_messages


@family("lookup", 1, r"Stock: (.*?)\. How many (\w+) are left")
def stock(match: re.Match[str]) -> Steps:
    """Read a number out of a list; the error reads the next one."""
    listed = dict(item.rsplit(" ", 1) for item in match[1].split(", "))
    names = list(listed)
    other = names[(names.index(match[2]) + 1) % len(names)]
    return listed[match[2]], listed[other], "Read the list."


@family("text", 1, r"Write the word (\w+) (backwards|without its vowels)")
def rewritten(match: re.Match[str]) -> Steps:
    """Rewrite a word; the error loses a letter."""
    word = match[1]
    right = word[::-1] if match[2] == "backwards" else "".join(c for c in word if c not in "aeiou")
    return right, right[1:], "Go letter by letter."


@family("code", 1, r"x = (\d+); (?:for i in range\((\d+)\): x \+= (\d+)|y = x % (\d+)); print")
def printed(match: re.Match[str]) -> Steps:
    """Run a line of Python; the error is one off."""
    x = int(match[1])
    result = x % int(match[4]) if match[4] else x + int(match[2]) * int(match[3])
    return result, result + 1, "Go line by line."


QUESTIONS: tuple[Family, ...] = (stock, rewritten, printed, *FAMILIES)


def _specialist(name: str, price: float, latency: float, otherwise: float, **skill: float) -> SimulatedSpecialist:
    return SimulatedSpecialist(
        name=name,
        description="",
        price=Price(input=price, output=3 * price),
        latency=latency,
        skill=skill,
        otherwise=otherwise,
        capabilities=("answer",),
        families=QUESTIONS,
    )


SPECIALISTS: tuple[SimulatedSpecialist, ...] = (
    _specialist("atlas", 15, 5, 0.97),
    _specialist("birch", 1, 3, 0.1, everyday=1.0, lookup=1.0, text=1.0, arithmetic=0.3),
    _specialist("cedar", 1, 3, 0.2, arithmetic=1.0, mathematics=1.0, code=1.0),
    _specialist("ember", 0.25, 2, 0.05, everyday=0.65, lookup=0.6, arithmetic=0.6, code=0.3),
    _specialist(
        "flint", 5, 0.8, 0.4, everyday=0.98, lookup=0.98, text=0.98, arithmetic=0.98, mathematics=0.6, code=0.6
    ),
    _specialist("hazel", 2.5, 1.6, 0.2, everyday=0.98, text=0.98, arithmetic=0.98, mathematics=0.98),
)
"""`atlas` is the strongest, `ember` the cheapest, `flint` the fastest; `birch` and `cedar` are cheap and know their
part, `hazel` stands in the middle. Each step of difficulty above 1 takes off 0.01."""

STRONGEST, CHEAPEST = "atlas", "ember"

NOWHERE = "http://127.0.0.1:1/v1"
"""Endpoint of specialists that are asked in this process."""


@dataclass(frozen=True, slots=True, eq=False)
class Team:
    """The specialists that a request may be handed to."""

    specialists: tuple[SimulatedSpecialist, ...]

    def catalog(self) -> Catalog:
        """Return them as a catalogue."""
        return Catalog(specialist.entry(NOWHERE) for specialist in self.specialists)


TEAM = Team(SPECIALISTS)


def direct(specialist: SimulatedSpecialist, seed: int = 0) -> SpecialistTool:
    """Return a specialist that is asked in this process.

    Its answers, tokens and dollars are those of the served one; its seconds are its latency, which nobody waits for.
    """

    def ask(messages: list[dict[str, Any]]) -> Completion:
        prompt = content_of(messages[-1])
        text = specialist.answer(prompt, seed)
        return Completion(text, specialist.name, count_messages(messages), count(text), specialist.latency, 1)

    async def aask(messages: list[dict[str, Any]]) -> Completion:
        return ask(messages)

    entry = specialist.entry(NOWHERE)
    tool = SpecialistTool(entry)
    tool.caller = SpecialistCaller(entry, ask, aask)
    return tool
