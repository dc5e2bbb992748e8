"""Runs to learn from: golden runs of synthesised tasks, many to a view of the catalogue, so that they share a prompt.

A task is synthesised with a view of its own. Here views are drawn the same way around a few tasks at a time, and all
other tasks that can be solved with what a view shows join them: about three times fewer tokens for the same runs.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from examples.tasks.handovers import handover
from toolorch_integrations import observation
from toolorch_rl.environments import Environment
from toolorch_rl.synthesis import Mix, Split, conversation, domains, synthesize
from toolorch_rl.synthesis.world import world
from toolorch_rl.tasks import PATTERNS, Pattern, Task

SHARES: Mapping[Pattern, float] = {
    "single": 0.20,
    "sequential": 0.24,
    "parallel": 0.16,
    "chain": 0.20,
    "mixed": 0.07,
    "conditional": 0.06,
    "loop": 0.07,
}
"""What is trained on: more of what takes several steps than the mix of tests has."""

_TROUBLE = 0.05
"""Share of the runs in which a call fails once, and is made again."""

_HANDOVERS = 0.06
"""Share of the runs, where specialists are shown, in which one of them gets the whole request."""

_ANCHORS = 3
"""Tasks around which a view is drawn."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shared:
    """Runs that share a prompt.

    Attributes:
        system: The system message.
        tools: Tool schemas.
        runs: Of each the messages after the system message, and for each message whether the policy wrote it.
    """

    system: str
    tools: list[dict[str, Any]]
    runs: list[tuple[Messages, list[bool]]]


def split() -> tuple[Split, Mapping[str, int]]:
    """Return what `split.toml` writes down: the split, and the seeds of training and tests."""
    data = tomllib.loads(Path(__file__).with_name("split.toml").read_text(encoding="utf-8"))
    return Split(**data["split"]), data["seeds"]


def training_tasks(count: int, pool: int = 0) -> Iterator[Task]:
    """Return about so many tasks to train on; each pool has others, with names and ids of their own."""
    division, seeds = split()
    tasks = synthesize(seeds["train"] + 1000 * pool, count, mix=Mix(shares=SHARES))
    return (task for task in tasks if division.part(task) == "train")


def test_tasks(count: int) -> list[Task]:
    """Return so many held-out tasks, with patterns in the default mix."""
    division, seeds = split()
    made = synthesize(seeds["test"], int(count / division.share * 1.3) + 200)
    kept = list(islice((task for task in made if division.part(task) == "test"), count))
    if len(kept) < count:
        raise ValueError(f"the split holds out {len(kept)} tasks only: ask for fewer than {count}")
    return kept


class Corpus:
    """Draws groups of runs from a pool of tasks.

    Args:
        tasks: The pool.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._environments = {name: Environment(item.schema) for name, item in domains().items()}
        self._pools: dict[str, list[tuple[frozenset[str], Task]]] = {name: [] for name in domains()}
        for task in tasks:
            self._pools[task.domain].append((frozenset(call.name for call in task.calls), task))

    def group(self, seed: int, count: int) -> Shared:
        """Return `count` runs of one view."""
        draw = random.Random(f"group {seed}")
        name = draw.choice(list(self._pools))
        pool, environment = self._pools[name], self._environments[name]
        anchors = draw.sample(pool, _ANCHORS)
        needed = sorted(frozenset().union(*(names for names, _ in anchors)))
        around = world(draw, list(environment.operations), needed, max(len(task.golden) for _, task in anchors))
        shown = around.catalog.allow or frozenset()
        changes = {
            "preferences": around.preferences,
            "budget": around.budget,
            "catalog": around.catalog,
            "specialists": around.specialists,
            "price_table": around.price_table,
        }
        fitting: dict[Pattern, list[Task]] = {pattern: [] for pattern in PATTERNS}
        for names, task in pool:
            if names <= shown:
                fitting[task.pattern].append(task)
        runs: list[tuple[Messages, list[bool]]] = []
        for _ in range(count):
            kinds = [pattern for pattern in PATTERNS if fitting[pattern]]
            if not kinds:
                break
            pattern = draw.choices(kinds, [SHARES[kind] for kind in kinds])[0]
            tasks = fitting[pattern]
            task = tasks.pop(draw.randrange(len(tasks))).model_copy(update=changes)
            made = conversation(task, environment)
            messages = made["messages"]
            if draw.random() < _TROUBLE:
                messages = _with_trouble(messages, draw)
            runs.append((messages[1:], [message["role"] == "assistant" for message in messages[1:]]))
        tools = json.loads(made["tools"])
        if around.specialists:
            view = task.full_catalog().view(around.catalog)
            for index in range(len(runs)):
                if draw.random() < _HANDOVERS:
                    messages = handover(draw, around.specialists, view)
                    runs[index] = messages, [message["role"] == "assistant" for message in messages]
        return Shared(made["messages"][0]["content"], tools, runs)


def _with_trouble(messages: Messages, draw: random.Random) -> Messages:
    """Return a run in which a turn's only call fails the first time and is made again."""
    places = [index for index, message in enumerate(messages) if len(message.get("tool_calls") or ()) == 1]
    if not places:
        return messages
    place = draw.choice(places)
    turn = messages[place]
    call = turn["tool_calls"][0]
    name = call["function"]["name"]
    text = draw.choice((
        observation.failed(name, "EndpointError: it answered 500"),
        observation.failed(name, "ConnectionError: it cannot be reached"),
        observation.timed_out(name, draw.choice((2, 5, 10, 30))),
    ))  # fmt: skip
    again = {**turn, "tool_calls": [{**call, "id": f"{call['id']}a"}]}
    failed = {"role": "tool", "tool_call_id": f"{call['id']}a", "name": name, "content": text}
    return [*messages[:place], again, failed, *messages[place:]]
