"""Rollouts from a plain program: all in this process, or spread over threads, processes or Ray workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from toolorch_integrations.store import TraceStore
from toolorch_rl.fan_out import Backend, fan_out
from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.context import RolloutContext, seed_of
from toolorch_rl.rollouts.groups import Group, Loss, LostRun
from toolorch_rl.rollouts.loops import run_loop
from toolorch_rl.rollouts.plan import RolloutPlan, RolloutSettings, Verify, key_of
from toolorch_rl.rollouts.runner import collect
from toolorch_rl.rollouts.server import PolicyServer


def rollouts(
    app: App,
    tasks: Iterable[Any],
    verify: Verify,
    settings: RolloutSettings | None = None,
    *,
    server: PolicyServer | None = None,
    store: TraceStore | str | None = None,
    version: str | None = None,
    start: int = 0,
) -> list[Group]:
    """Run the app on each task, several times each, and return the groups in the order of the tasks.

    The arguments are those of `runner.collect` and `runner.RolloutPlan`. It makes an event loop of its own, so it is
    not for code that runs on one.

    Example:
        >>> groups = rollouts(app, tasks, verify, RolloutSettings(repetitions=8, at_once=64, seconds=60))
        >>> rewards_of(groups).scalars
    """
    kept = TraceStore.open(store) if isinstance(store, str) else store

    async def all_groups() -> list[Group]:
        plan = RolloutPlan(verify, settings or RolloutSettings(), server, kept, lambda: version, start)
        return [group async for group in collect(app, tasks, plan)]

    try:
        return sorted(run_loop(all_groups()), key=lambda group: group.number)
    finally:
        if kept is not None and kept is not store:
            kept.close()


def spread_rollouts(
    app: App,
    tasks: Iterable[Any],
    verify: Verify,
    settings: RolloutSettings | None = None,
    *,
    workers: int = 2,
    backend: Backend = "ray",
    tasks_at_a_time: int = 4,
    server: str | None = None,
    store: str | None = None,
    version: str | None = None,
    start: int = 0,
    retries: int = 2,
    cpus: float = 1.0,
) -> Iterator[Group]:
    """Do as `rollouts` in several workers, each with an event loop; give groups as they come.

    A worker that dies has its tasks done again by another, `retries` times at most; after that their runs are lost,
    and counted. Seeds are those that one process would give.

    Args:
        app: Travels to the workers, as `verify` and the tasks do: define them at the top of a module.
        tasks: As for `rollouts`.
        verify: As for `rollouts`.
        settings: Of each worker: `at_once` runs in each.
        workers: How many.
        backend: `threads`, `processes` or `ray`.
        tasks_at_a_time: Tasks that a worker gets together.
        server: URL of the policy server, which is waited for when it fails.
        store: URL of a store that all workers can write.
        version: Name under which the policy is asked.
        start: Number of the first group.
        retries: See above.
        cpus: Cores that a Ray worker claims.
    """
    settings = settings or RolloutSettings()
    work = _Portion(app, verify, settings, server, store, version)
    portions = _portions(tasks, tasks_at_a_time, start)
    for outcome in fan_out(work, portions, workers, backend, retries=retries, cpus=cpus):
        if outcome.error is None:
            yield from outcome.result()
            continue
        first, part = outcome.item
        for number, task in enumerate(part, first):
            yield _lost(number, task, settings, version, outcome.error)


@dataclass(frozen=True)
class _Portion:
    """What a worker does with some tasks: it travels there."""

    app: App
    verify: Verify
    settings: RolloutSettings
    server: str | None = None
    store: str | None = None
    version: str | None = None

    def __call__(self, item: tuple[int, Sequence[Any]]) -> list[Group]:
        start, tasks = item
        server = PolicyServer(self.server) if self.server else None
        return rollouts(
            self.app,
            tasks,
            self.verify,
            self.settings,
            server=server,
            store=self.store,
            version=self.version,
            start=start,
        )


def _portions(tasks: Iterable[Any], size: int, start: int) -> Iterator[tuple[int, list[Any]]]:
    left = iter(tasks)
    while part := list(islice(left, size)):
        yield start, part
        start += len(part)


def _lost(number: int, task: Any, settings: RolloutSettings, version: str | None, error: BaseException) -> Group:
    group = Group(number, task, key_of(task, number))
    for repetition in range(settings.repetitions):
        seed = seed_of(settings.seed, number, repetition)
        context = RolloutContext(task, group.key, number, repetition, seed, version)
        group.add(LostRun(context, Loss.WORKER, f"{type(error).__name__}: {error}"))
    return group
