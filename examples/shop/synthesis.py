"""Runs to learn from: the scripted expert at work, through the real tools and the real solvers, in many views.

Each world draws what a system message can vary: preferences, budget, order and prices of the specialists, entries
denied. Its runs share that prompt. Some calls fail on purpose, in the words in which a failed call reaches the policy.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from examples.shop import scripted
from examples.shop.catalog import APP_PROMPT, catalog
from examples.shop.documents import Shop
from examples.shop.enquiries import KINDS_OF_ENQUIRY, Enquiry, enquiry
from examples.shop.tools import execute, search
from toolorch_integrations import observation
from toolorch_integrations.budget import Budget, Limit
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Price, Specialist
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.prompt import specialist_messages, system_prompt
from toolorch_integrations.view import CatalogFilter, CatalogView
from toolorch_serving.simulated.specialists import SPECIALISTS

_SIMULATED = {specialist.name: specialist for specialist in SPECIALISTS}
_INPUT_PRICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_MOST_TURNS = 8
_SHARES = {"price total": 4, "arithmetic": 3, "product": 2, "comparison": 2, "policy": 2}
"""How much more often than others kinds are drawn that take several steps, or copying."""
_WEIGHTS = [_SHARES.get(kind, 1) for kind in KINDS_OF_ENQUIRY]

Policy = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Replies to messages, given tool schemas."""


@dataclass(frozen=True, slots=True)
class World:
    """What a policy is told before the request: a view of the catalogue, and the system message."""

    view: CatalogView
    system: str

    def schemas(self) -> list[dict[str, Any]]:
        """Return the tool schemas as the policy server gets them."""
        return self.view.schemas()


@dataclass(slots=True)
class Run:
    """One run.

    Attributes:
        enquiries: What was asked, one request after the other.
        messages: All messages, the system message first.
        written: For each message whether the policy wrote it.
        answer: The last answer.
    """

    enquiries: list[Enquiry]
    messages: list[dict[str, Any]]
    written: list[bool]
    answer: str = ""


def default_world() -> World:
    """Return the demo's own view, without preferences and budget."""
    view = catalog().view()
    return World(view, system_prompt(APP_PROMPT, Preferences(), Budget(), view))


def world(seed: int) -> World:
    """Return the world of a seed; three in ten are the demo's own view."""
    draw = random.Random(f"world {seed}")
    preferences, budget = _preferences(draw), _budget(draw)
    entries = list(catalog())
    changes = CatalogFilter()
    if draw.random() < 0.7:
        tools, specialists = entries[:2], entries[2:]
        draw.shuffle(specialists)
        entries = [*tools, *specialists]
        deny = draw.sample([entry.name for entry in entries], draw.choice((0, 0, 1, 1, 2)))
        prices: dict[str, Price] = {}
        if draw.random() < 0.7:
            for name in draw.sample(list(_SIMULATED), draw.randint(1, 3)):
                dollars = draw.choice(_INPUT_PRICES)
                prices[name] = Price(input=dollars, output=2 * dollars)
        changes = CatalogFilter(deny=frozenset(deny), prices=prices)
    view = Catalog(entries).view(changes)
    app = APP_PROMPT if draw.random() < 0.8 else draw.choice(("", "Help the customers of our shop."))
    return World(view, system_prompt(app, preferences, budget, view))


def run(place: World, seed: int, policy: Policy = scripted.expert, trouble: float = 0.06) -> Run:
    """Return the run of a seed in a world.

    Args:
        place: What the policy is told.
        seed: Decides the enquiries and which calls fail.
        policy: Who replies.
        trouble: Probability that a call fails.
    """
    draw = random.Random(f"run {seed}")
    made = Run([], [{"role": "system", "content": place.system}], [False])
    for part in range(2 if draw.random() < 0.1 else 1):
        asked = enquiry(seed + part * 500_000, draw.choices(KINDS_OF_ENQUIRY, _WEIGHTS)[0])
        answer_one(place, made, asked, draw, policy, trouble)
    for message in made.messages:
        if message["role"] == "user":
            message["content"] = _typed(str(message["content"]), draw)
    return made


def answer_one(place: World, made: Run, asked: Enquiry, draw: random.Random, policy: Policy, trouble: float) -> None:
    """Ask one more enquiry of a run and let the policy work on it until it is answered."""
    made.enquiries.append(asked)
    _add(made, {"role": "user", "content": asked.text})
    for _ in range(_MOST_TURNS):
        reply = policy(made.messages, place.schemas())
        _add(made, reply, written=True)
        calls = reply.get("tool_calls") or []
        if not calls:
            made.answer = reply["content"]
            return
        final = None
        for call in calls:
            result = _result(place, made, call["function"], asked, draw, trouble)
            _add(made, {"role": "tool", "tool_call_id": call["id"], "content": result})
            if '"final": true' in call["function"]["arguments"] and not result.startswith("Error:"):
                final = result
        if final is not None:
            made.answer = final
            _add(made, {"role": "assistant", "content": final})
            return


def worlds(first: int, count: int, runs: int) -> Iterator[tuple[World, list[Run]]]:
    """Return so many worlds, each with so many runs."""
    for number in range(first, first + count):
        place = world(number)
        yield place, [run(place, number * runs + index) for index in range(runs)]


def withheld_runs(count: int) -> list[Run]:
    """Return runs whose tools the budget withholds: the policy answers with what it has."""
    place = default_world()
    made = []
    for seed in range(count):
        draw = random.Random(f"withheld {seed}")
        cut = Run([], [{"role": "system", "content": place.system}], [False])
        whole = run(place, seed, trouble=0.0)
        ends = [
            index for index, (message, written) in enumerate(zip(whole.messages, whole.written, strict=True)) if written
        ]
        end = draw.choice(ends)
        cut.messages, cut.written = whole.messages[:end], [False] * end
        cut.enquiries = whole.enquiries
        reply = whole.messages[end]
        cut.answer = scripted.SORRY if reply.get("tool_calls") else reply["content"]
        _add(cut, {"role": "assistant", "content": cut.answer}, written=True)
        made.append(cut)
    return made


def _typed(text: str, draw: random.Random) -> str:
    """Write a request as carelessly as people do, sometimes; what is to be done stays the same."""
    shape = draw.random()
    if shape < 0.1:
        text = text[0].lower() + text[1:]
    if 0.05 < shape < 0.15:
        text = text.rstrip("?.!")
    return text


def _add(made: Run, message: dict[str, Any], written: bool = False) -> None:
    made.messages.append(message)
    made.written.append(written)


def _result(
    place: World, made: Run, function: dict[str, str], asked: Enquiry, draw: random.Random, trouble: float
) -> str:
    name = function["name"]
    if draw.random() < trouble:
        return draw.choice((
            observation.failed(name, "EndpointError: it answered 500"),
            observation.failed(name, "ConnectionError: it cannot be reached"),
            observation.timed_out(name, draw.choice((2, 5, 10, 30))),
            observation.over_budget(name, draw.choice(list(Limit))),
        ))  # fmt: skip
    return perform(place, made.messages, name, function["arguments"], asked.shop)


def perform(place: World, messages: Sequence[dict[str, Any]], name: str, arguments: str, shop: int) -> str:
    """Make one call and return its observation; whatever goes wrong is an observation too."""
    try:
        given = json.loads(arguments)
        entry = place.view.resolve(name)
        if isinstance(entry, Specialist):
            asked = specialist_messages(entry, messages, given.get("task"))
            return _SIMULATED[entry.name].answer(str(asked[-1]["content"]))
        if entry.name == "search_docs":
            return search(_shop(shop), str(given["query"]))
        return _executed(str(given["code"]))
    except Exception as error:  # the policy must see any failure of a tool
        return observation.failed(name, error)


@cache
def _executed(code: str) -> str:
    """Run a program with the real tool; plain sums go to this interpreter instead, which prints the same at once."""
    if re.fullmatch(r"print\([\d\s.()+*/-]{1,80}\)", code) and "**" not in code:
        return str(eval(code[6:-1]))
    return execute(code)


@cache
def _shop(number: int) -> Shop:
    return Shop.open(number)


def _preferences(draw: random.Random) -> Preferences:
    if draw.random() < 0.4:
        return Preferences()
    levels = (0.0, 0.2, 0.5, 0.6, 0.8, 1.0)
    preferences = Preferences(cost=draw.choice(levels), latency=draw.choice(levels))
    if draw.random() < 0.2:
        return preferences.model_copy(update={"quality": draw.choice((0.3, 0.5, 0.8))})
    return preferences


def _budget(draw: random.Random) -> Budget:
    if draw.random() < 0.4:
        return Budget()
    return Budget(
        turns=draw.choice((30, 30, 6, 8, 10, 12)),
        dollars=draw.choice((None, None, 0.01, 0.02, 0.05, 0.1)),
        seconds=draw.choice((None, None, 10, 20, 30, 60)),
    )
