"""A task of a benchmark: what the user says stage by stage, and what the benchmark wants to be done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Specialist
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.safety import is_destructive
from toolorch_integrations.view import CatalogFilter
from toolorch_rl.environments import Environment
from toolorch_rl.imports.toolkit import ToolkitEnvironment
from toolorch_rl.tasks import GoldenCall, Pattern, Task
from toolorch_rl.verifiers.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Stage:
    """What follows one utterance of the user.

    Attributes:
        said: The user's words.
        golden: The right calls, one after the other.
        hidden: Tools that are not shown yet.
    """

    said: str
    golden: tuple[GoldenCall, ...] = ()
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A task of a benchmark that is not imported.

    Attributes:
        id: Its id there.
        reason: Why.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class ImportedTask:
    """A task of a benchmark, to be read like a `toolorch_rl.tasks.Task`.

    Attributes:
        id: Unique in the benchmark.
        domain: The benchmark and its domain.
        stages: What the user says; at least one.
        start: Makes the environment in its initial state.
        judge_run: Says what is wrong with an environment and an answer after a run, by the benchmark's rules.
        app_prompt: The benchmark's own system prompt.
        answer: An answer that says all that must be said.
        unchecked: Parts of the benchmark's judgement that are left out, since they need a language model.
    """

    id: str
    domain: str
    stages: tuple[Stage, ...]
    start: Callable[[], ToolkitEnvironment]
    judge_run: Callable[[ToolkitEnvironment, str], Iterable[str]]
    app_prompt: str | None = None
    answer: str = ""
    unchecked: tuple[str, ...] = ()
    preferences: Preferences = field(default_factory=Preferences)
    budget: Budget = field(default_factory=lambda: Budget(turns=60))
    specialists: tuple[Specialist, ...] = ()
    price_table: int = 0
    template: str = ""

    @property
    def request(self) -> str:
        """The user's first words."""
        return self.stages[0].said

    @property
    def follow_ups(self) -> tuple[str, ...]:
        """What the user says next, each time the policy ends its turn."""
        return tuple(stage.said for stage in self.stages[1:])

    @property
    def said(self) -> tuple[str, ...]:
        """What the user says, one utterance after the other."""
        return tuple(stage.said for stage in self.stages)

    def goes_on(self, answer: str) -> bool:
        """Whether the user speaks again after an answer: always."""
        return True

    @property
    def golden(self) -> tuple[tuple[GoldenCall, ...], ...]:
        """The right calls, one a turn: benchmarks do not say which of them are independent."""
        return tuple((call,) for stage in self.stages for call in stage.golden)

    @property
    def calls(self) -> list[GoldenCall]:
        """The golden calls, in order."""
        return [call for stage in self.stages for call in stage.golden]

    @property
    def pattern(self) -> Pattern:
        """By the number of golden calls: benchmarks name no patterns."""
        number = len(self.calls)
        return "single" if number < 2 else "sequential" if number == 2 else "chain"

    @property
    def catalog(self) -> CatalogFilter:
        """What is shown at first."""
        return self.view(0)

    @cached_property
    def approval(self) -> bool | None:
        """What a person says when asked to confirm: yes, where a golden call is destructive."""
        return True if any(self.is_destructive(call) for call in self.calls) else None

    def view(self, stage: int) -> CatalogFilter:
        """Return what a stage shows of the catalogue."""
        return CatalogFilter(deny=self.stages[stage].hidden)

    def is_destructive(self, call: GoldenCall) -> bool:
        """Say whether a person confirms a call."""
        return is_destructive(call.name)

    def to_json(self) -> str:
        """Return what makes the task, as one line of JSON; it cannot be read back without the benchmark."""
        stages = [
            [stage.said, [call.model_dump(mode="json") for call in stage.golden], sorted(stage.hidden)]
            for stage in self.stages
        ]
        return json.dumps([self.id, stages, self.preferences.model_dump(mode="json")])

    def open(self) -> ToolkitEnvironment:
        """Return the environment in its initial state."""
        return self.start()

    def full_catalog(self) -> Catalog:
        """Return the whole catalogue: the environment's tools and the task's specialists."""
        return self.start().catalog().with_entries(self.specialists)

    def judge(self, environment: Any, answer: str) -> Verdict:
        """Say whether a run has solved the task, as the benchmark says it.

        Args:
            environment: What `open` gave, after the run; `end_stage` was called each time the policy had answered.
            answer: The run's last words.
        """
        reasons = list(self.judge_run(environment, answer))
        return Verdict(float(not reasons), not reasons, "; ".join(reasons))


AnyTask = Task | ImportedTask
"""What can be run and judged."""

AnyEnvironment = Environment | ToolkitEnvironment
