"""Several continuations of one run from a decision on: forks from a LangGraph checkpoint.

Runs of a task that are made from the beginning differ in every step, and a group says little about any one of them.
Forks share all that came before the decision, so that what they earn apart is due to it. Each continuation is a whole
trace, prefix included, since costs and verdict are of the whole run; only what was sampled from the decision on trains.
The prefix has the same ids in all of them, so a trainer that packs prefixes computes it once.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from toolorch_integrations.events import Event, PolicyCalled, TraceEnded
from toolorch_rl.rollouts.attempt import Attempt, attempt
from toolorch_rl.rollouts.context import RolloutContext, seed_of
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.groups import FinishedRun, Group, Loss, LostRun
from toolorch_rl.rollouts.recording import RunRecorder
from toolorch_rl.rollouts.runner import RolloutPlan, each, judged, key_of
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
) -> AsyncIterator[Group]:
    """Do as `runner.collect`: each group is one run and `repetitions` - 1 forks of it at one decision.

    A group whose first run is lost has nothing to fork, and all its runs are lost with it.
    """
    gate = asyncio.Semaphore(max(1, plan.settings.at_once // plan.settings.repetitions))
    running: set[asyncio.Task[Group]] = set()
    number = plan.start

    async def one(task: Any, place: int) -> Group:
        try:
            return await _forked(forks, task, place, plan)
        finally:
            gate.release()

    try:
        async for task in each(tasks):
            await gate.acquire()
            running.add(asyncio.create_task(one(task, number)))
            number += 1
            for done in [item for item in running if item.done()]:
                running.discard(done)
                yield done.result()
        while running:
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for done in ended:
                yield done.result()
    finally:
        for item in running:
            item.cancel()
        if running:
            await asyncio.wait(running, timeout=5.0)


def after_fork(rollout: Rollout, shared: int) -> Rollout:
    """Return a rollout that trains only what was sampled after its first `shared` graph nodes."""
    if not shared:
        return rollout
    rows = [replace(row, trained=row.trained & (row.nodes >= shared)) for row in rollout.rows]
    return replace(rollout, rows=tuple(row for row in rows if row.trained.any()))


async def _forked(forks: LangGraphForks, task: Any, number: int, plan: RolloutPlan) -> Group:
    name, key = plan.version(), key_of(task, number)
    contexts = [
        RolloutContext(task, key, number, place, seed_of(plan.settings.seed, number, place), name)
        for place in range(plan.settings.repetitions)
    ]
    group = Group(number, task, key)
    thread = {"configurable": {"thread_id": uuid.uuid4().hex}}
    trunk = await _attempt(forks, contexts[0], plan, forks.inputs(task), thread, ())
    if isinstance(trunk, LostRun):
        for context in contexts:
            group.add(replace(trunk, context=context))
        return group
    point = await _fork_point(forks, contexts[0], thread, trunk)
    shared = len(RunRecorder("0" * 32, point.before).trace().graph.nodes) if point.before else 0

    async def branch(context: RolloutContext) -> FinishedRun | LostRun:
        made = await _attempt(forks, context, plan, None, point.config, point.before)
        return made if isinstance(made, LostRun) else await judged(plan.verify, context, made, plan.store, shared)

    first = judged(plan.verify, contexts[0], trunk, plan.store, shared)
    for run in await asyncio.gather(first, *(branch(context) for context in contexts[1:])):
        group.add(run)
    return group


async def _attempt(
    forks: LangGraphForks,
    context: RolloutContext,
    plan: RolloutPlan,
    inputs: Any,
    config: Any,
    before: Sequence[Event],
) -> Attempt | LostRun:
    failed, settings = "", plan.settings
    for _ in range(settings.attempts):
        app = partial(_invoked, forks, forks.make_agent(), inputs, config)
        recorder = RunRecorder(uuid.uuid4().hex, before)
        made = await attempt(app, context, settings.sampling, settings.seconds, recorder)
        if made.timed_out:
            return LostRun(context, Loss.TIMEOUT, f"it was given up after {settings.seconds:g} s")
        if not made.policy_failed:
            return made
        failed = made.policy_failed
        if plan.server is not None:
            await plan.server.ready()
        if inputs is not None:  # begin anew: the thread holds half a run
            config = {"configurable": {"thread_id": uuid.uuid4().hex}}
    return LostRun(context, Loss.POLICY, f"{settings.attempts} tries failed, at last: {failed}")


async def _invoked(forks: LangGraphForks, agent: Any, inputs: Any, config: Any, task: Any) -> Any:
    return forks.result(await agent.ainvoke(inputs, config, context=forks.context(task)))


@dataclass(frozen=True, slots=True)
class _ForkPoint:
    config: Any
    before: list[Event]
    """What had happened by then."""


async def _fork_point(forks: LangGraphForks, context: RolloutContext, thread: Any, trunk: Attempt) -> _ForkPoint:
    agent = forks.make_agent()
    if getattr(agent, "checkpointer", None) in (None, False):
        raise RolloutError("forks need a checkpointer: make_agent must return a graph with one, each time the same")
    history = [snapshot async for snapshot in agent.aget_state_history(thread)]
    decisions = [snapshot for snapshot in reversed(history) if forks.node in snapshot.next]
    if not decisions:
        raise RolloutError(
            f"forks: the graph never came to the node {forks.node!r}: name the node that asks the policy"
        )
    chosen = decisions[forks.choose(len(decisions), context.seed) % len(decisions)]
    reached = datetime.fromisoformat(chosen.created_at).timestamp()
    before: list[Event] = []
    for event in trunk.recorder.events():
        if isinstance(event, TraceEnded) or (isinstance(event, PolicyCalled) and event.started >= reached):
            break
        before.append(event)
    return _ForkPoint(chosen.config, before)
