"""Many rollouts at once, in this process: the app on each task so often, captured and judged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.context import RolloutContext
from toolorch_rl.rollouts.flow import side_by_side
from toolorch_rl.rollouts.groups import FinishedRun, Group, LostRun
from toolorch_rl.rollouts.judging import judged
from toolorch_rl.rollouts.plan import RolloutPlan
from toolorch_rl.rollouts.retries import tried


async def collect(
    app: App, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan
) -> AsyncGenerator[Group, None]:
    """Run the app on each task, several times each, and give each group when its last run has settled.

    Tasks are drawn from the iterable only as there is room for their runs. Closing the iterator cancels what runs.

    Args:
        app: Runs the app on a task: a coroutine function, or a plain one, which gets a thread. A coroutine function
            that blocks holds up all others: give a plain one then.
        tasks: Any objects; `id`, where they have one, names them in traces.
        plan: How they are judged, how many there are, and where they go.

    Raises:
        PolicyDownError: The policy server is gone for good.
    """
    groups: dict[int, Group] = {}
    async with aclosing(side_by_side(_runs(app, tasks, plan), plan.settings.at_once)) as runs:
        async for run in runs:
            context = run.context
            group = groups.setdefault(context.group, Group(context.group, context.task, context.key))
            group.add(run)
            if group.settled == plan.settings.repetitions:
                yield groups.pop(group.number)


async def _runs(
    app: App, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan
) -> AsyncIterator[Coroutine[Any, Any, FinishedRun | LostRun]]:
    async for group in plan.groups(tasks):
        for context in group:
            yield _run(app, context, plan)


async def _run(app: App, context: RolloutContext, plan: RolloutPlan) -> FinishedRun | LostRun:
    made = await tried(lambda _: app, context, plan)
    return made if isinstance(made, LostRun) else await judged(plan, made)
