"""Many rollouts at once, in this process: the app on each task so often, captured and judged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
        if not self.sampling.temperature > 0:
            raise RolloutError("sampling.temperature is 0: all runs of a task would be alike; take 1")


def key_of(task: Any, number: int) -> str:
    """Return a task's name: its `id`, or its place where it has none."""
    found = task.get("id") if isinstance(task, Mapping) else getattr(task, "id", None)
    return str(number) if found is None else str(found)


async def collect(
    app: App,
    tasks: Iterable[Any],
    verify: Verify,
    settings: RolloutSettings | None = None,
    *,
    server: PolicyServer | None = None,
    store: TraceStore | None = None,
    version: Callable[[], str | None] = lambda: None,
    start: int = 0,
) -> AsyncIterator[Group]:
    """Run the app on each task, several times each, and give each group when its last run has settled.

    Tasks are drawn from the iterable only as there is room for their runs. Closing the iterator cancels what runs.

    Args:
        app: Runs the app on a task: a coroutine function, or a plain one, which gets a thread. A coroutine function
            that blocks holds up all others: give a plain one then.
        tasks: Any objects; `id`, where they have one, names them in traces.
        verify: Says whether a run solved its task.
        settings: How many, how long, with which seeds.
        server: The policy's; runs that fail with it are made again once it answers. None: made again at once.
        store: Where finished traces are kept as well; a run that was given up is in no store.
        version: Asked, as a group begins, for the name under which the policy is to be asked.
        start: Number of the first group, for later rounds with the same seed.

    Raises:
        PolicyDownError: The policy server is gone for good.
    """
    settings = settings or RolloutSettings()
    gate = asyncio.Semaphore(settings.at_once)
    running: set[asyncio.Task[FinishedRun | LostRun]] = set()
    groups: dict[int, Group] = {}

    async def one(context: RolloutContext) -> FinishedRun | LostRun:
        try:
            return await _run(app, verify, context, settings, server, store)
        finally:
            gate.release()

    def settled(done: Iterable[asyncio.Task[FinishedRun | LostRun]]) -> Iterator[Group]:
        for task in done:
            run = task.result()
            group = groups[run.context.group]
            group.add(run)
            if group.settled == settings.repetitions:
                yield groups.pop(group.number)

    try:
        for context in _planned(tasks, settings, version, start):
            groups.setdefault(context.group, Group(context.group, context.task, context.key))
            await gate.acquire()
            running.add(asyncio.create_task(one(context)))
            done = {task for task in running if task.done()}
            running -= done
            for group in settled(done):
                yield group
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for group in settled(done):
                yield group
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=5.0)


def _planned(
    tasks: Iterable[Any], settings: RolloutSettings, version: Callable[[], str | None], start: int
) -> Iterator[RolloutContext]:
    for number, task in enumerate(tasks, start):
        name, key = version(), key_of(task, number)
        for repetition in range(settings.repetitions):
            seed = seed_of(settings.seed, number, repetition)
            yield RolloutContext(task, key, number, repetition, seed, name)


async def _run(
    app: App,
    verify: Verify,
    context: RolloutContext,
    settings: RolloutSettings,
    server: PolicyServer | None,
    store: TraceStore | None,
) -> FinishedRun | LostRun:
    made: Attempt | None = None
    for _ in range(settings.attempts):
        made = await attempt(app, context, settings.sampling, settings.seconds)
        if made.timed_out:
            return LostRun(context, Loss.TIMEOUT, f"it was given up after {settings.seconds:g} s")
        if not made.policy_failed:
            return await judged(verify, context, made, store)
        logger.info("rollout %s %d: the policy failed: %s", context.key, context.repetition, made.policy_failed)
        if server is not None:
            await server.ready()
    assert made is not None
    return LostRun(context, Loss.POLICY, f"{settings.attempts} tries failed, at last: {made.policy_failed}")


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
