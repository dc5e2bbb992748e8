"""Several continuations of one run from a decision on: forks from a checkpoint.

Runs of a task that are made from the beginning differ in every step, and a group says little about any one of them.
Forks share all that came before the decision, so that what they earn apart is due to it. Each continuation is a whole
trace, prefix included, since costs and verdict are of the whole run; only what was sampled from the decision on trains.
The prefix has the same ids in all of them, so a trainer that packs prefixes computes it once.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from toolorch_integrations.events import Event, PolicyCalled, TraceEnded
from toolorch_rl.rollouts.attempt import App, Attempt
from toolorch_rl.rollouts.context import RolloutContext
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.flow import side_by_side
from toolorch_rl.rollouts.groups import FinishedRun, Group, LostRun
from toolorch_rl.rollouts.judging import judged
from toolorch_rl.rollouts.plan import RolloutPlan
from toolorch_rl.rollouts.recording import RunRecorder
from toolorch_rl.rollouts.retries import tried
from toolorch_rl.rows import Rollout


@dataclass(frozen=True, slots=True)
class Decision:
    """A point of a run at which the policy was about to be asked.

    Attributes:
        reached: Epoch seconds at which the run came there.
        checkpoint: What a framework goes on from, as often as it is wanted.
    """

    reached: float
    checkpoint: Any


class Trunk(Protocol):
    """A run from the beginning that others fork from: called with the task, as any app, it keeps its checkpoints."""

    async def __call__(self, task: Any) -> Any:
        """Run the app on the task and return its result."""

    async def decisions(self) -> Sequence[Decision]:
        """Return the decisions of the run that has ended, in order.

        Raises:
            RolloutError: The framework could not keep them.
        """


@dataclass(frozen=True, kw_only=True)
class Forks(ABC):
    """An app whose runs are forked; there is a class for each framework.

    Attributes:
        choose: Returns the number of the decision to fork at, of so many and a seed; by default one by chance.
    """

    choose: Callable[[int, int], int] = lambda decisions, seed: random.Random(seed).randrange(decisions)

    @property
    @abstractmethod
    def place(self) -> str:
        """What the app comes to at each decision, and which option names it, for messages."""

    @abstractmethod
    def trunk(self, name: str) -> Trunk:
        """Return what runs the app from the beginning.

        Args:
            name: Of the run; no other has it.

        Raises:
            RolloutError: The app cannot be forked.
        """

    @abstractmethod
    def branch(self, decision: Decision) -> App:
        """Return what goes on from a decision; it is called with the task.

        Raises:
            RolloutError: Nothing goes on from there.
        """


async def collect_forks(
    forks: Forks, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan
) -> AsyncGenerator[Group, None]:
    """Do as `runner.collect`: each group is one run and `repetitions` - 1 forks of it at one decision.

    A group whose first run is lost has nothing to fork, and all its runs are lost with it.

    Raises:
        PolicyDownError: The policy server is gone for good.
        RolloutError: The app cannot be forked; the message says why.
    """
    at_once = max(1, plan.settings.at_once // plan.settings.repetitions)
    async with aclosing(side_by_side(_groups(forks, tasks, plan), at_once)) as groups:
        async for group in groups:
            yield group


def after_fork(rollout: Rollout, shared: int) -> Rollout:
    """Return a rollout that trains only what was sampled after its first `shared` graph nodes."""
    if not shared:
        return rollout
    rows = [replace(row, trained=row.trained & (row.nodes >= shared)) for row in rollout.rows]
    return replace(rollout, rows=tuple(row for row in rows if row.trained.any()))


async def _groups(
    forks: Forks, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan
) -> AsyncIterator[Coroutine[Any, Any, Group]]:
    async for contexts in plan.groups(tasks):
        yield _forked(forks, contexts, plan)


async def _forked(forks: Forks, contexts: Sequence[RolloutContext], plan: RolloutPlan) -> Group:
    trunks: dict[str, Trunk] = {}

    def anew(name: str) -> App:
        trunks[name] = forks.trunk(name)
        return trunks[name]

    made = await tried(anew, contexts[0], plan)
    if isinstance(made, LostRun):
        return _lost(contexts, made)
    decisions = await trunks[made.recorder.trace_id].decisions()
    if not decisions:
        settled = await judged(plan, made)
        if isinstance(settled, LostRun):
            return _lost(contexts, settled)
        raise RolloutError(f"forks: the run never came to {forks.place}")
    chosen = decisions[forks.choose(len(decisions), made.context.seed) % len(decisions)]
    return await _branched(forks, contexts, plan, made, chosen)


async def _branched(
    forks: Forks, contexts: Sequence[RolloutContext], plan: RolloutPlan, made: Attempt, decision: Decision
) -> Group:
    before = _before(made, decision)
    shared = len(RunRecorder("0" * 32, before).trace().graph.nodes) if before else 0

    async def branch(context: RolloutContext) -> FinishedRun | LostRun:
        # Of the trunk's version, which is another than the group's where the trunk had to be made again.
        context = replace(context, policy_version=made.context.policy_version)
        other = await tried(lambda _: forks.branch(decision), context, plan, before)
        return other if isinstance(other, LostRun) else await judged(plan, other, shared)

    group = _group(contexts)
    runs = [judged(plan, made, shared), *(branch(context) for context in contexts[1:])]
    async with aclosing(side_by_side(runs, len(runs))) as settled:
        async for run in settled:
            group.add(run)
    return group


def _before(made: Attempt, decision: Decision) -> list[Event]:
    """Return what had happened in a run before it came to a decision."""
    before: list[Event] = []
    for event in made.recorder.events():
        if isinstance(event, TraceEnded) or (isinstance(event, PolicyCalled) and event.started >= decision.reached):
            break
        before.append(event)
    return before


def _group(contexts: Sequence[RolloutContext]) -> Group:
    first = contexts[0]
    return Group(first.group, first.task, first.key)


def _lost(contexts: Sequence[RolloutContext], trunk: LostRun) -> Group:
    group = _group(contexts)
    for context in contexts:
        group.add(replace(trunk, context=context))
    return group
