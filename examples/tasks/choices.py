"""Prompts of the `select` rendering with a scripted expert's choices: which function is next, and which model for it.

The expert searches where facts are missing, reasons where something must be computed, and then answers. Among the
models whose descriptions name the problem's field it takes the one that the preferences ask for by name, or the fastest
where speed matters more than money, or else the cheapest. It says so first, model by model: each step is a small one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolorch_integrations.entry import Price, Specialist
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.select import ANSWER, REASON, SEARCH, SYSTEM, Context, Tokens, function_schema, step_messages

FIELDS = ("math", "code", "history", "law", "physics", "geography")
"""What problems are about, and what models are good at."""

_PRICES = (0.1, 0.2, 0.25, 0.5, 0.8, 1, 1.25, 2, 3, 4, 8, 10, 15)
_SECONDS = (1, 2, 3, 5, 8, 9, 11, 15, 19, 25, 31, 44, 60, 96)
_NAMES = {REASON: ("reasoner", "thinker", "solver"), ANSWER: ("answer", "writer", "expert"),
          SEARCH: ("search", "finder", "web")}  # fmt: skip
_PEOPLE = ("Ada Weber", "Ivan Costa", "Mara Singh", "Noor Hansen", "Pedro Rossi", "Tess Moreau", "Yusuf Kaya")
_CITIES = ("Accra", "Bergen", "Delft", "Lima", "Oslo", "Porto", "Riga", "Turin", "Vienna", "York")
_THINGS = ("the old bridge", "the town hall", "the harbour", "the railway station", "the library", "the lighthouse")


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a field, and what stands in the context when it can be answered.

    Attributes:
        field: One of `FIELDS`.
        text: The user's words.
        needs: The functions before the answer, in order.
        contributions: What each of them brings.
    """

    field: str
    text: str
    needs: tuple[str, ...]
    contributions: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A step of a run in the `select` rendering.

    Attributes:
        messages: The prompt's two messages.
        function: What the expert calls.
        model: Which model it takes.
        reply: The expert's message.
    """

    messages: list[dict[str, Any]]
    function: str
    model: str
    reply: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Menu:
    """The models of each function by the names that the policy sees."""

    models: Mapping[str, Mapping[str, Specialist]]

    def tools(self) -> list[dict[str, Any]]:
        """Return the functions' schemas."""
        return [function_schema(name, models) for name, models in self.models.items()]


def menu(draw: random.Random) -> Menu:
    """Draw the models of each function, so that each field has one of them at least."""
    models: dict[str, dict[str, Specialist]] = {}
    for function in (REASON, ANSWER, SEARCH):
        stem, count = draw.choice(_NAMES[function]), draw.randint(2, 4)
        skills: list[set[str]] = [set() for _ in range(count)]
        for name in FIELDS:
            for index in draw.sample(range(count), draw.randint(1, min(3, count))):
                skills[index].add(name)
        numbers, prices, seconds = (draw.sample(items, count) for items in (range(1, 30), _PRICES, _SECONDS))
        models[function] = {}
        for index in range(count):
            good = [name for name in FIELDS if name in skills[index]]
            alias = f"{stem}-{numbers[index]}"
            models[function][alias] = Specialist(
                name=alias,
                description=f"is good at {', '.join(good)}." if good else "is good at small talk.",
                price=Price(input=prices[index], output=round(prices[index] * draw.choice((1, 2, 4, 8)), 2)),
                latency=seconds[index],
                capabilities=(function,),
            )
    return Menu(models)


def choices(draw: random.Random, offered: Menu) -> Iterator[Choice]:
    """Give the steps of a problem that is drawn, up to the answer."""
    problem = draw.choice(_PROBLEMS)(draw)
    preferences = _preferences(draw, offered)
    text = "\n\n".join(part for part in (problem.text, preferences.sentence()) if part)
    for step in range(len(problem.needs) + 1):
        function = problem.needs[step] if step < len(problem.needs) else ANSWER
        context = Context.of(problem.contributions[:step]).text(text, Tokens())
        model, why = _chosen(problem.field, offered.models[function], preferences)
        call = {"name": function, "arguments": json.dumps({"model": model})}
        reply = {
            "role": "assistant",
            "content": why,
            "tool_calls": [{"id": f"call_{step}", "type": "function", "function": call}],
        }
        yield Choice(step_messages(text, context), function, model, reply)


def _chosen(name: str, models: Mapping[str, Specialist], preferences: Preferences) -> tuple[str, str]:
    """Return the model that an expert takes, and the words with which it gets there."""
    able = {alias: item for alias, item in models.items() if name in item.description}
    liked = [alias for alias in able if preferences.tools.get(alias)]
    if liked:
        return liked[0], f"{name}; asked for: {liked[0]}"
    if preferences.latency > preferences.cost:
        best = min(able, key=lambda alias: able[alias].latency or 0)
        return best, f"{name}: {', '.join(f'{alias} {item.latency:g}s' for alias, item in able.items())}; fast: {best}"
    best = min(able, key=lambda alias: able[alias].price.input)
    return best, f"{name}: {', '.join(f'{alias} ${item.price.input:g}' for alias, item in able.items())}; cheap: {best}"


def _preferences(draw: random.Random, offered: Menu) -> Preferences:
    shape = draw.random()
    if shape < 0.35:
        return Preferences()
    if shape < 0.85:
        cost, latency = draw.choice(((0.8, 0), (0, 0.8), (0.2, 0.6), (0.6, 0.2), (1.0, 0), (0, 1.0), (0.4, 0.8)))
        return Preferences(cost=cost, latency=latency)
    liked = draw.choice([alias for models in offered.models.values() for alias in models])
    return Preferences(tools={liked: 1.0})


# --- problems ---


def _computed(draw: random.Random) -> Problem:
    a, b, c = (draw.randint(2, 99) for _ in range(3))
    text, result = draw.choice((
        (f"What is {a} times {b}, plus {c}?", a * b + c),
        (f"Compute ({a} + {b}) * {c}.", (a + b) * c),
        (f"A box holds {a} apples. How many do {b} boxes hold, and {c} more?", a * b + c),
    ))  # fmt: skip
    code = {"code": f"result = {result}\nprint('result', result)", "output": f"result {result}"}
    return Problem("math", text, (REASON,), (code,))


def _programmed(draw: random.Random) -> Problem:
    what = draw.choice(("sorts a list of dates", "counts the words of a text", "checks an email address",
                        "merges two dictionaries", "reverses a linked list"))  # fmt: skip
    text = draw.choice((f"Write a Python function that {what}.", f"I need a program that {what}. Test it."))
    return Problem("code", text, (REASON,), ({"code": "assert check()\nprint('passed')", "output": "passed"},))


def _looked_up(draw: random.Random) -> Problem:
    person, city, thing, year = (
        draw.choice(_PEOPLE),
        draw.choice(_CITIES),
        draw.choice(_THINGS),
        draw.randint(1500, 1990),
    )
    text = draw.choice((f"Who built {thing} of {city}?", f"When was {thing} of {city} finished, and by whom?"))
    found = {"documents": [f"{thing.capitalize()} of {city} was built by {person} and finished in {year}."]}
    return Problem("history", text, (SEARCH,), (found,))


def _ruled(draw: random.Random) -> Problem:
    city = draw.choice(_CITIES)
    what = draw.choice(("a verbal contract", "a lease without a date", "a will without a witness", "a night market"))
    text = draw.choice((f"Is {what} legal in {city}?", f"Which law of {city} is about {what}?"))
    found = {"documents": [f"In {city}, {what} is allowed under section {draw.randint(2, 90)} of the civil code."]}
    return Problem("law", text, (SEARCH,), (found,))


def _measured(draw: random.Random) -> Problem:
    height, metal = draw.randint(3, 90), draw.choice(("iron", "lead", "zinc", "tin"))
    text, code = draw.choice((
        (f"How long does a stone fall from {height} metres?", f"print(round((2 * {height} / 9.81) ** 0.5, 2))"),
        (f"What does {height} litres of {metal} weigh?", f"print({height} * density('{metal}'))"),
    ))  # fmt: skip
    return Problem("physics", text, (REASON,), ({"code": code, "output": f"{draw.randint(1, 900)}.{height}"},))


def _combined(draw: random.Random) -> Problem:
    one, other = draw.sample(_CITIES, 2)
    first, second = draw.randint(20, 900), draw.randint(20, 900)
    text = draw.choice((
        f"How many people live in {one} and {other} together?",
        f"By how much is the population of {one} larger than that of {other}?",
    ))  # fmt: skip
    found = {"documents": [f"{one} has {first} thousand inhabitants.", f"{other} has {second} thousand inhabitants."]}
    code = {"code": f"print({first} + {second})", "output": str(first + second)}
    return Problem("geography", text, (SEARCH, REASON), (found, code))


_PROBLEMS: Sequence[Callable[[random.Random], Problem]] = (
    _computed,
    _programmed,
    _looked_up,
    _ruled,
    _measured,
    _combined,
)

__all__ = ["SYSTEM", "Choice", "Menu", "choices", "menu"]
