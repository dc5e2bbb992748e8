"""Many rollouts at once, in this process: the app on each task so often, captured and judged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from toolorch_integrations.store import TraceStore
from toolorch_rl.rollouts.attempt import App, Attempt, Sampling, attempt, call
from toolorch_rl.rollouts.context import RolloutContext, seed_of
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.groups import FinishedRun, Group, Loss, LostRun
from toolorch_rl.rollouts.server import PolicyServer
from toolorch_rl.verifiers.verdict import Verdict

logger = logging.getLogger(__name__)

Verify = Callable[..., Any]
"""`verify(task, trace, result)` returns a `Verdict`, a score from 0 to 1 or a truth value; it may be a coroutine
function. What the app returned is `result`."""

PASSED = 0.5
"""Least score that counts as solved, where a verifier gives a number."""


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
    """

    repetitions: int = 8
    at_once: int = 64
    seconds: float = 300.0
    attempts: int = 3
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for name in ("repetitions", "at_once", "attempts"):
            if getattr(self, name) < 1:
                raise RolloutError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.seconds > 0:
            raise RolloutError(f"seconds is {self.seconds:g}: a run needs more than no time")
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


def key_of(task: Any, number: int) -> str:
    """Return a task's name: its `id`, or its place where it has none."""
    found = task.get("id") if isinstance(task, Mapping) else getattr(task, "id", None)
    return str(number) if found is None else str(found)


async def collect(app: App, tasks: Iterable[Any] | AsyncIterable[Any], plan: RolloutPlan) -> AsyncIterator[Group]:
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
    work = _Work(app, plan)
    feeder = asyncio.create_task(work.feed(tasks))
    groups: dict[int, Group] = {}
    try:
        while not (work.fed and work.given == work.settled):
            run = await work.results.get()
            if run is None:
                continue
            if isinstance(run, Exception):
                raise run
            work.settled += 1
            group = groups.setdefault(run.context.group, Group(run.context.group, run.context.task, run.context.key))
            group.add(run)
            if group.settled == plan.settings.repetitions:
                yield groups.pop(group.number)
    finally:
        left = [feeder, *work.running]
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=5.0)


class _Work:
    """The runs of one `collect`."""

    def __init__(self, app: App, plan: RolloutPlan) -> None:
        self.app, self.plan = app, plan
        self.results: asyncio.Queue[FinishedRun | LostRun | Exception | None] = asyncio.Queue()
        self.running: set[asyncio.Task[None]] = set()
        self.given = self.settled = 0
        self.fed = False

    async def feed(self, tasks: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Begin runs as there is room for them."""
        settings = self.plan.settings
        gate = asyncio.Semaphore(settings.at_once)
        try:
            number = self.plan.start
            async for task in each(tasks):
                name, key = self.plan.version(), key_of(task, number)
                for repetition in range(settings.repetitions):
                    seed = seed_of(settings.seed, number, repetition)
                    await gate.acquire()
                    self.given += 1
                    context = RolloutContext(task, key, number, repetition, seed, name)
                    running = asyncio.create_task(self.settle(context, gate))
                    self.running.add(running)
                    running.add_done_callback(self.running.discard)
                number += 1
        except Exception as error:
            self.results.put_nowait(error)
        self.fed = True
        self.results.put_nowait(None)  # nothing may be running any more: let the reader look

    async def settle(self, context: RolloutContext, gate: asyncio.Semaphore) -> None:
        """Make a run and hand over what came of it."""
        try:
            self.results.put_nowait(await self.run(context))
        except Exception as error:
            self.results.put_nowait(error)
        finally:
            gate.release()

    async def run(self, context: RolloutContext) -> FinishedRun | LostRun:
        """Make a run, again where the policy server failed."""
        plan, settings = self.plan, self.plan.settings
        failed = ""
        for number in range(settings.attempts):
            made = await attempt(self.app, context, settings.sampling, settings.seconds)
            if made.timed_out:
                return LostRun(context, Loss.TIMEOUT, f"it was given up after {settings.seconds:g} s")
            if not made.policy_failed:
                return await judged(plan.verify, context, made, plan.store)
            failed = made.policy_failed
            logger.info("rollout %s %d: the policy failed: %s", context.key, context.repetition, failed)
            await asyncio.sleep(min(5.0, 0.2 * 2**number))  # a server that is going down may still call itself healthy
            if plan.server is not None:
                await plan.server.ready()
            context = replace(context, policy_version=plan.version())  # the old one may be gone with the old process
        return LostRun(context, Loss.POLICY, f"{settings.attempts} tries failed, at last: {failed}")


async def each(tasks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """Yield tasks of either kind of iterable."""
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task


async def judged(
    verify: Verify,
    context: RolloutContext,
    made: Attempt,
    store: TraceStore | None = None,
    fork: int = 0,
) -> FinishedRun | LostRun:
    """Return an attempt that ended as a run with its trace and verdict."""
    rollout = {"group": context.group, "repetition": context.repetition, "seed": context.seed}
    trace = made.recorder.trace({"task": context.key, "rollout": rollout, **context.metadata})
    if not trace.graph.nodes:
        why = f"the app raised {made.error!r}" if made.error else "see docs/capture.md for what is captured"
        return LostRun(context, Loss.EMPTY, why)
    if made.error is not None:
        error = f"{type(made.error).__name__}: {made.error}"
        verdict = Verdict(0.0, False, f"the app raised {error}"[:500])
    else:
        error = ""
        try:
            verdict = verdict_of(await call(verify, context.task, trace, made.result))
        except Exception as failed:
            logger.exception("the verifier failed on rollout %s", context.key)
            return LostRun(context, Loss.VERIFIER, f"{type(failed).__name__}: {failed}")
    if store is not None:
        await asyncio.to_thread(store.add, trace)
    return FinishedRun(context, trace, verdict, made.seconds, error, fork)


def verdict_of(found: Any) -> Verdict:
    """Return what a verifier gave as a verdict.

    Raises:
        RolloutError: It is none, and no number from 0 to 1.
    """
    if isinstance(found, Verdict):
        return found
    if isinstance(found, (bool, int, float)) and 0 <= found <= 1:
        return Verdict(float(found), found >= PASSED, f"the score is {float(found):g}")
    raise RolloutError(f"verify returned {found!r}: give a Verdict, or a score from 0 to 1")
