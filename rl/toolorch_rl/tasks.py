"""A task: a request in an environment, how it is solved, and what the caller cares about."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter
from toolorch_rl.environments import Environment, EnvironmentSchema, State, StateChanges, changed, differences
from toolorch_rl.environments.catalog import catalog_of, operations_of
from toolorch_rl.said import says
from toolorch_rl.verifiers.verdict import Verdict

Pattern = Literal["single", "sequential", "parallel", "conditional", "loop", "chain", "mixed"]
PATTERNS: tuple[Pattern, ...] = ("single", "sequential", "parallel", "conditional", "loop", "chain", "mixed")


class TaskError(ToolorchError, ValueError):
    """A task is not usable; the message names it."""


class GoldenCall(BaseModel):
    """A call of the right way to solve a task.

    Attributes:
        id: Its `tool_call_id` in conversations made from the task.
        name: Catalogue name of the tool.
        arguments: What it is called with.
        sources: Where arguments come from that only an earlier result tells, by argument: the call's id, a colon, and
            the path in its result, such as `call_a1:tasks[2].id`.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    arguments: dict[str, Any]
    sources: dict[str, str] = Field(default_factory=dict)


class Task(BaseModel):
    """A request in an environment.

    Attributes:
        id: Unique in its data set.
        domain: Name of the environment's schema.
        pattern: What it exercises.
        template: From what it was made, if from a template.
        request: The user's words.
        follow_ups: What the user says next, each time the policy ends its turn with a question.
        initial: The environment's state at first.
        golden: The right calls, turn by turn; the calls of a turn are made in parallel.
        answer: A right answer.
        changes: What the golden calls change about the state.
        must_say: What the answer must say; of each item one wording is enough.
        forbidden: Entity and id of entries that no call may change.
        approval: What a person says when asked to confirm destructive calls; None where no golden call is one. When it
            is False the golden state is the one without those calls.
        preferences: What the caller cares about, as a vector and in words.
        budget: Limits of the run.
        catalog: What of the catalogue is shown, under which names and at which prices.
        specialists: The specialists of the catalogue, besides the environment's tools.
        price_table: Number of the price table that the catalogue's prices are from.
        environment: The schema, where it is none of those that come with the package.
        app_prompt: The app's own system prompt, if it has one.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    domain: str
    pattern: Pattern
    template: str = ""
    request: str
    follow_ups: tuple[str, ...] = ()
    initial: State
    golden: tuple[tuple[GoldenCall, ...], ...]
    answer: str
    changes: StateChanges = Field(default_factory=StateChanges)
    must_say: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()
    approval: bool | None = None
    preferences: Preferences = Field(default_factory=Preferences)
    budget: Budget = Field(default_factory=Budget)
    catalog: CatalogFilter = Field(default_factory=CatalogFilter)
    specialists: tuple[Specialist, ...] = ()
    price_table: int = 0
    environment: EnvironmentSchema | None = None
    app_prompt: str | None = None

    @cached_property
    def schema_of_environment(self) -> EnvironmentSchema:
        """The environment's schema.

        Raises:
            SchemaError: The domain is unknown.
        """
        if self.environment is not None:
            return self.environment
        from toolorch_rl.synthesis.domains import domain

        return domain(self.domain).schema

    @property
    def said(self) -> tuple[str, ...]:
        """What the user says, one utterance after the other."""
        return (self.request, *self.follow_ups)

    def goes_on(self, answer: str) -> bool:
        """Whether the user speaks again after an answer: when it is a question."""
        return asks(answer)

    def view(self, stage: int) -> CatalogFilter:
        """Return what the user's utterance of that number shows of the catalogue: always the same."""
        return self.catalog

    def judge(self, environment: Any, answer: str) -> Verdict:
        """Say whether a run in an environment that `open` gave has solved the task; see `solved`."""
        return solved(self, environment.state(), answer)

    @property
    def calls(self) -> list[GoldenCall]:
        """The golden calls, in order."""
        return [call for turn in self.golden for call in turn]

    @property
    def golden_state(self) -> State:
        """The state that solves the task."""
        return changed(self.initial, self.changes)

    def open(self, path: str | Path = ":memory:") -> Environment:
        """Return the environment in its initial state."""
        return Environment(self.schema_of_environment, path, self.initial)

    def full_catalog(self) -> Catalog:
        """Return the whole catalogue: the environment's tools and the task's specialists."""
        tools = catalog_of(self.schema_of_environment)
        return tools.with_entries(self.specialists) if self.specialists else tools

    def is_destructive(self, call: GoldenCall) -> bool:
        """Say whether a person confirms a call."""
        operation = operations_of(self.schema_of_environment).get(call.name)
        return operation is not None and operation.destructive

    def to_json(self) -> str:
        """Return the task as one line of JSON, the same in every process."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        for name in ("allow", "deny"):  # sets have no order of their own
            if data.get("catalog", {}).get(name) is not None:
                data["catalog"][name] = sorted(data["catalog"][name])
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Task:
        """Read what `to_json` gave.

        Raises:
            TaskError: It is no task; the message names the field.
        """
        try:
            return cls.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise TaskError(f"{field + ': ' if field else ''}{first['msg']}") from error


def solved(task: Task, state_after: State, answer: str) -> Verdict:
    """Say whether a run has solved a task.

    Args:
        task: The task.
        state_after: `Environment.state()` after the run; it also knows which entries were touched on the way.
        answer: The run's last words.

    Returns:
        Passed when the database is in the golden state, all that must be said is said, and no forbidden entry was
        touched. Ids of new entries do not matter, only what they hold. `details["reasons"]` lists what is wrong.
    """
    reasons = differences(task.golden_state, state_after, task.initial)
    touched = {tuple(entry) for entry in state_after.touched}
    reasons += [f"forbidden: {entity} {key} was touched" for entity, key in task.forbidden if (entity, key) in touched]
    reasons += [
        f"not said: {' or '.join(repr(wording) for wording in wordings)}"
        for wordings in task.must_say
        if not any(says(answer, wording) for wording in wordings)
    ]
    return Verdict(float(not reasons), not reasons, "; ".join(reasons) or "solved", {"reasons": reasons})


def asks(answer: str) -> bool:
    """Say whether a policy's last words are a question, to which the user's next words are the reply."""
    return answer.rstrip("*_\"')` \n").endswith("?")


def write_tasks(path: str | Path, tasks: Iterable[Task]) -> int:
    """Write tasks as JSON lines; return how many there were."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for task in tasks:
            file.write(task.to_json() + "\n")
            count += 1
    return count


def read_tasks(path: str | Path, broken: Callable[[str], None] | None = None) -> Iterator[Task]:
    """Read tasks from JSON lines.

    Args:
        path: The file.
        broken: Is told of each line that is no task, so that the rest goes on.

    Raises:
        TaskError: A line is no task, and nobody is told; the message names file, line and field.
    """
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield Task.from_json(line)
            except TaskError as error:
                message = f"{path}, line {number}: {error}"
                if broken is None:
                    raise TaskError(message) from error
                broken(message)
