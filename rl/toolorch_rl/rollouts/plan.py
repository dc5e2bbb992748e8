"""What rollouts are told besides what runs and on which tasks."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.store import TraceStore
from toolorch_rl.rollouts.attempt import Sampling
from toolorch_rl.rollouts.context import RolloutContext, seed_of
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.flow import each
from toolorch_rl.rollouts.server import PolicyServer

Verify = Callable[..., Any]
"""`verify(task, trace, result)` returns a `Verdict`, a score from 0 to 1 or a truth value; it may be a coroutine
function. What the app returned is `result`."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How rollouts are made.

    Attributes:
        repetitions: Runs a task.
        at_once: Runs side by side.
        seconds: Time for a run; one that takes longer is given up.
        attempts: Tries of a run whose policy server failed.
        seed: Of all runs.
        sampling: How the policy is asked.
        verify_seconds: Time for a verdict; a run whose verifier takes longer is lost.
    """

    repetitions: int = 8
    at_once: int = 64
    seconds: float = 300.0
    attempts: int = 3
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    verify_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("repetitions", "at_once", "attempts"):
            if getattr(self, name) < 1:
                raise RolloutError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("seconds", "verify_seconds"):
            if not getattr(self, name) > 0:
                raise RolloutError(f"{name} is {getattr(self, name):g}: it must be more than no time")
        if not self.sampling.temperature > 0 and self.repetitions > 1:
            raise RolloutError("sampling.temperature is 0: all runs of a task would be alike; take 1")


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """All that `collect` and `collect_forks` are told besides what runs and on which tasks.

    Attributes:
        verify: Says whether a run solved its task.
        settings: How many, how long, with which seeds.
        server: The policy's; runs that fail with it are made again once it answers. None: made again at once.
        store: Where finished traces are kept as well; a run that was given up is in no store.
        version: Asked, as a group begins, for the name under which the policy is to be asked.
        start: Number of the first group, for later rounds with the same seed.
    """

    verify: Verify
    settings: RolloutSettings = field(default_factory=RolloutSettings)
    server: PolicyServer | None = None
    store: TraceStore | None = None
    version: Callable[[], str | None] = lambda: None
    start: int = 0

    async def groups(self, tasks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[list[RolloutContext]]:
        """Begin a group with each task, and give what its runs are told."""
        number = self.start
        async for task in each(tasks):
            name, key = self.version(), key_of(task, number)
            yield [
                RolloutContext(task, key, number, place, seed_of(self.settings.seed, number, place), name)
                for place in range(self.settings.repetitions)
            ]
            number += 1


def key_of(task: Any, number: int) -> str:
    """Return a task's name: its `id`, or its place where it has none."""
    found = task.get("id") if isinstance(task, Mapping) else getattr(task, "id", None)
    return str(number) if found is None else str(found)
