"""Tries at a task: the real orchestrator of the LangGraph face, or whatever else is given.

This package does not depend on the face: it is imported by the first try.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from toolorch_integrations.budget import Budget
from toolorch_integrations.entry import Specialist
from toolorch_integrations.view import CatalogFilter
from toolorch_rl.environments import State
from toolorch_rl.synthesis.by_model.errors import SynthesisError
from toolorch_rl.tasks import Task

if TYPE_CHECKING:
    from toolorch_rl.evaluation.faces import LangGraphFace

SPARE_TURNS = 6
"""Turns that a try has besides those of the golden calls and the one in which it answers."""

_BYTES = 2
"""Bytes of JSON that make a token, taken low: it is a bound on money."""


@dataclass(frozen=True, slots=True)
class Try:
    """A try at a task.

    Attributes:
        answer: Its last words.
        state: The environment's state after it.
        input_tokens: Tokens that its calls read.
        output_tokens: Tokens that they wrote.
        dollars: What they cost.
    """

    answer: str
    state: State
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0


class Solver(Protocol):
    """Tries tasks, many side by side; it must be picklable to do so on Ray workers."""

    @property
    def name(self) -> str:
        """Identifies it in the work folder: tries of another solver are made anew."""

    def bound(self, task: Task) -> float:
        """Return the most dollars that a try may cost."""

    async def __call__(self, task: Task, number: int) -> Try:
        """Make the `number`-th try, from 0, within a bounded time."""


@dataclass(frozen=True)
class OrchestratorSolver:
    """Tries tasks with the orchestrator of the LangGraph face.

    A try sees the task's preferences, tools and aliases. It must do with the environment's tools: the specialists of
    a task have no endpoint of their own. Confirmations are answered as the task says, questions by its follow-ups.

    Attributes:
        model: The policy: its endpoint, price and retries.
    """

    model: Specialist

    @property
    def name(self) -> str:
        """The model's name."""
        return f"orchestrator {self.model.endpoint.model}" if self.model.endpoint else self.model.name

    def bound(self, task: Task) -> float:
        """Return what the turns of a try cost when each of them reads and writes as much as it may."""
        runs = 1 + len(task.follow_ups)  # each of which goes past its budget by one call at most
        return self._allowance(task) + runs * self._turn(task)

    async def __call__(self, task: Task, number: int) -> Try:
        """Make a try.

        Raises:
            EndpointError: The endpoint gave no usable answer.
        """
        from langchain_core.callbacks import get_usage_metadata_callback

        seen = task.model_copy(update={"budget": self._budget(task), "catalog": _without_prices(task)})
        with task.open() as place, get_usage_metadata_callback() as used:
            answer = await self._face.answer(seen, place)
            read = sum(item["input_tokens"] for item in used.usage_metadata.values())
            written = sum(item["output_tokens"] for item in used.usage_metadata.values())
            return Try(answer, place.state(), read, written, self.model.price.dollars(read, written))

    @cached_property
    def _face(self) -> LangGraphFace:
        from toolorch_rl.evaluation.faces import LangGraphFace
        from toolorch_rl.evaluation.policy_at import PolicyAt

        endpoint = self.model.endpoint
        if endpoint is None:
            raise SynthesisError(f"The solver {self.model.name!r} has no `endpoint`: give it one.")
        return LangGraphFace(PolicyAt(endpoint, self.model.price, exact=False), specialists=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}  # a face holds connections, which do not travel

    def _turns(self, task: Task) -> int:
        return len(task.golden) + 1 + SPARE_TURNS

    def _budget(self, task: Task) -> Budget:
        runs = 1 + len(task.follow_ups)
        dollars = self._allowance(task) / runs
        return Budget(turns=self._turns(task), dollars=dollars or None)

    def _allowance(self, task: Task) -> float:
        return self._turns(task) * self._turn(task)

    def _turn(self, task: Task) -> float:
        schemas = json.dumps(task.full_catalog().view(task.catalog).schemas())
        shown = f"{schemas}{task.initial.model_dump_json()}{task.request}"
        assert self.model.endpoint is not None
        tokens = len(shown.encode()) // _BYTES + 4 * self.model.endpoint.max_tokens
        return self.model.price.dollars(tokens, self.model.endpoint.max_tokens)


def _without_prices(task: Task) -> CatalogFilter:
    """Return what a try sees of the catalogue: the task's prices are made up, and its budget here is real money."""
    return task.catalog.model_copy(update={"prices": {}})
