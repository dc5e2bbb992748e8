"""Held-out splits, as functions of a seed: by task, by unseen tool, by unseen specialist, by unseen price table.

A split is nothing but its kind, seed and share: whoever has these three knows which tasks are for testing, before any
task is made. What is drawn does not depend on the tasks, so more tasks or other domains leave the rest where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from toolorch_integrations.preferences import Preferences
from toolorch_rl.imports.task import AnyTask
from toolorch_rl.synthesis.world import PRICE_TABLES, SPECIALISTS
from toolorch_rl.tasks import Task

SplitKind = Literal["task", "tool", "specialist", "price_table"]
Part = Literal["train", "test"]


class Split(BaseModel):
    """A division of tasks into those to train on and those to test on.

    Attributes:
        by: What the tests hold that training never showed.
        seed: Decides what is held out.
        share: Of what is held out: tasks, tools of a domain, specialists or price tables.

    Example:
        >>> Split(by="tool", seed=7).holds_out("projects", "create_task")
        False
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: SplitKind = "task"
    seed: int = 0
    share: float = Field(0.1, gt=0, lt=1)

    def part(self, task: AnyTask) -> Part:
        """Say where a task belongs.

        By tool: it is a test when a golden call uses a held-out tool. By specialist: when it shows a held-out one.
        """
        return "test" if self._tests(task) else "train"

    def holds_out(self, group: str, item: str) -> bool:
        """Say whether an item of a group is held out: a tool of a domain, say.

        Each item is decided on its own, by a hash of seed, group and name.
        """
        digest = hashlib.sha256(f"{self.by} {self.seed} {group} {item}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64

    @property
    def specialists(self) -> list[str]:
        """The specialists that are held out, at least one."""
        return self._nearest("specialist", [specialist.name for specialist in SPECIALISTS])

    @property
    def price_tables(self) -> list[int]:
        """The price tables that are held out, at least one."""
        return [int(number) for number in self._nearest("price table", [str(n) for n in range(PRICE_TABLES)])]

    def divide(self, tasks: Iterable[Task]) -> tuple[list[Task], list[Task]]:
        """Return the tasks to train on, with what is held out hidden from them, and those to test on."""
        train: list[Task] = []
        test: list[Task] = []
        for task in tasks:
            if self._tests(task):
                test.append(task)
            else:
                train.append(self.hidden(task))
        return train, test

    def hidden(self, task: Task) -> Task:
        """Return a task to train on that shows no held-out tool."""
        if self.by != "tool":
            return task
        allow = task.catalog.allow or frozenset(entry.name for entry in task.full_catalog())
        gone = {name for name in allow if self.holds_out(task.domain, name) and not _is_specialist(task, name)}
        if not gone:
            return task
        changes = task.catalog.model_copy(update={"allow": allow - gone})
        return task.model_copy(update={"catalog": changes, "preferences": _without(task.preferences, gone)})

    def _tests(self, task: AnyTask) -> bool:
        match self.by:
            case "task":
                return self.holds_out("task", task.id)
            case "tool":
                return any(self.holds_out(task.domain, call.name) for call in task.calls)
            case "specialist":
                return not {specialist.name for specialist in task.specialists}.isdisjoint(self.specialists)
            case "price_table":
                return task.price_table in self.price_tables

    def _nearest(self, group: str, items: list[str]) -> list[str]:
        """Return a share of items, those whose hashes come first."""
        count = max(1, round(self.share * len(items)))
        ranked = sorted(items, key=lambda item: hashlib.sha256(f"{self.seed} {group} {item}".encode()).digest())
        return [item for item in items if item in ranked[:count]]


def _is_specialist(task: Task, name: str) -> bool:
    return any(specialist.name == name for specialist in task.specialists)


def _without(preferences: Preferences, names: set[str]) -> Preferences:
    """Drop wishes for tools that are not shown, and the words that spoke of them."""
    if names.isdisjoint(preferences.tools):
        return preferences
    tools = {name: weight for name, weight in preferences.tools.items() if name not in names}
    return preferences.model_copy(update={"tools": tools, "instruction": None})
