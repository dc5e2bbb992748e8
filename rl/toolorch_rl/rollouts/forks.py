"""Several continuations of one run from a decision on: forks from a LangGraph checkpoint.

Runs of a task that are made from the beginning differ in every step, and a group says little about any one of them.
Forks share all that came before the decision, so that what they earn apart is due to it. Each continuation is a whole
trace, prefix included, since costs and verdict are of the whole run; only what was sampled from the decision on trains.
The prefix has the same ids in all of them, so a trainer that packs prefixes computes it once.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

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


@dataclass(frozen=True)
class LangGraphForks:
    """An app on LangGraph whose runs are forked.

    Attributes:
        make_agent: Makes the app's compiled graph, each time a new one with the same checkpointer: a graph keeps
            accounts of its runs, and each continuation needs its own.
        inputs: The graph's input for a task.
        context: The graph's context for a task.
        result: What the verifier is given of the state that the graph ends with.
        node: Name of the graph's node in which the policy decides.
        choose: Returns the number of the decision to fork at, of so many and a seed; by default one by chance.

    Example:
        >>> forks = LangGraphForks(
        ...     make_agent=lambda: create_orchestrator(policy, tools, checkpointer=checkpointer),
        ...     inputs=lambda task: {"messages": [("user", task.request)]},
        ... )  # doctest: +SKIP
    """

    make_agent: Callable[[], Any]
    inputs: Callable[[Any], Any]
    context: Callable[[Any], Any] = lambda task: None
    result: Callable[[Any], Any] = lambda state: state["messages"][-1].text
    node: str = "model"
    choose: Callable[[int, int], int] = lambda decisions, seed: random.Random(seed).randrange(decisions)


async def collect_forks(
    forks: LangGraphForks, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan
) -> AsyncGenerator[Group, None]:
    """Do as `runner.collect`: each group is one run and `repetitions` - 1 forks of it at one decision.

    A group whose first run is lost has nothing to fork, and all its runs are lost with it.
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
    forks: LangGraphForks, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan
) -> AsyncIterator[Coroutine[Any, Any, Group]]:
    async for contexts in plan.groups(tasks):
        yield _forked(forks, contexts, plan)


async def _forked(forks: LangGraphForks, contexts: Sequence[RolloutContext], plan: RolloutPlan) -> Group:
    first = contexts[0]
    group = Group(first.group, first.task, first.key)

    def anew(thread: str) -> App:
        return partial(_invoked, forks, forks.make_agent(), forks.inputs(first.task), _config(thread))

    trunk = await tried(anew, first, plan)
    if isinstance(trunk, LostRun):
        for context in contexts:
            group.add(replace(trunk, context=context))
        return group
    point = await _fork_point(forks, trunk)
    shared = len(RunRecorder("0" * 32, point.before).trace().graph.nodes) if point.before else 0

    def onwards(_: str) -> App:
        return partial(_invoked, forks, forks.make_agent(), None, point.config)

    async def branch(context: RolloutContext) -> FinishedRun | LostRun:
        # Of the trunk's version, which is another than the group's where the trunk had to be made again.
        context = replace(context, policy_version=trunk.context.policy_version)
        made = await tried(onwards, context, plan, point.before)
        return made if isinstance(made, LostRun) else await judged(plan, made, shared)

    runs = [judged(plan, trunk, shared), *(branch(context) for context in contexts[1:])]
    async with aclosing(side_by_side(runs, len(runs))) as settled:
        async for run in settled:
            group.add(run)
    return group


def _config(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


async def _invoked(forks: LangGraphForks, agent: Any, inputs: Any, config: Any, task: Any) -> Any:
    return forks.result(await agent.ainvoke(inputs, config, context=forks.context(task)))


@dataclass(frozen=True, slots=True)
class _ForkPoint:
    config: Any
    before: list[Event]
    """What had happened by then."""


async def _fork_point(forks: LangGraphForks, trunk: Attempt) -> _ForkPoint:
    agent = forks.make_agent()
    if getattr(agent, "checkpointer", None) in (None, False):
        raise RolloutError("forks need a checkpointer: make_agent must return a graph with one, each time the same")
    thread = _config(trunk.recorder.trace_id)
    history = [snapshot async for snapshot in agent.aget_state_history(thread)]
    decisions = [snapshot for snapshot in reversed(history) if forks.node in snapshot.next]
    if not decisions:
        raise RolloutError(
            f"forks: the graph never came to the node {forks.node!r}: name the node that asks the policy"
        )
    chosen = decisions[forks.choose(len(decisions), trunk.context.seed) % len(decisions)]
    reached = datetime.fromisoformat(chosen.created_at).timestamp()
    before: list[Event] = []
    for event in trunk.recorder.events():
        if isinstance(event, TraceEnded) or (isinstance(event, PolicyCalled) and event.started >= reached):
            break
        before.append(event)
    return _ForkPoint(chosen.config, before)
