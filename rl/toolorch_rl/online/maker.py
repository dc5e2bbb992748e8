"""Rollouts beside the trainer: a thread with an event loop makes groups, a bounded number of them ahead."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from toolorch_rl.rollouts import Forks, Group, RolloutError, RolloutPlan, collect, collect_forks
from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.loops import run_loop


class RolloutMaker:
    """Makes groups of rollouts in a thread, for one that trains.

    No more groups are begun than `allow` has allowed, so that runs do not grow old in the queue.

    Args:
        app: See `rollouts.collect`; or one whose runs are forked, see `rollouts.Forks`.
        tasks: Gives tasks without end, from the number of a group on.
        plan: See `rollouts.collect`.
        begins: Told the number of each group that begins.
    """

    def __init__(
        self,
        app: App | Forks,
        tasks: Callable[[int], Iterator[Any]],
        plan: RolloutPlan,
        *,
        begins: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._begins = begins
        self._app, self._plan = app, plan
        self._tasks = tasks(plan.start)
        self._ready: queue.SimpleQueue[Group | BaseException] = queue.SimpleQueue()
        self._allowed = 0
        self._begun = 0
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)

    @property
    def begun(self) -> int:
        """How many groups have been begun."""
        return self._begun

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def allow(self, number: int) -> None:
        """Allow `number` groups in all to be begun."""
        self._allowed = max(self._allowed, number)
        self._signal()

    def next(self, timeout: float) -> Group:
        """Return the next group that is ready.

        Raises:
            RolloutError: None came within the time, or rollouts have failed for good.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = self._ready.get(timeout=min(1.0, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise RolloutError(f"no group of rollouts was ready within {timeout:g} s") from None
                if not self._thread.is_alive() and self._ready.empty():
                    raise RolloutError("rollouts have ended: there are no more tasks") from None
                continue
            if isinstance(found, BaseException):
                raise RolloutError(f"rollouts have failed: {found}") from found
            return found

    def stop(self, timeout: float = 10.0) -> None:
        """Cancel what runs and end the thread; runs that hang are left to themselves."""
        self._stopped = True
        self._signal()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _signal(self) -> None:
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(wake.set)

    def _run(self) -> None:
        try:
            run_loop(self._main())
        except BaseException as error:
            self._ready.put(error)

    async def _main(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        collecting = asyncio.create_task(self._collect())
        while not self._stopped and not collecting.done():
            await asyncio.wait({collecting}, timeout=0.5)
        if not collecting.done():
            collecting.cancel()
            await asyncio.wait({collecting}, timeout=5.0)
            return
        await collecting

    async def _collect(self) -> None:
        make: Any = collect_forks if isinstance(self._app, Forks) else collect
        async for group in make(self._app, self._allowed_tasks(), self._plan):
            self._ready.put(group)

    async def _allowed_tasks(self) -> AsyncIterator[Any]:
        assert self._wake is not None
        for task in self._tasks:
            while self._begun >= self._allowed:
                self._wake.clear()
                if self._begun >= self._allowed:
                    await self._wake.wait()
            self._begins(self._plan.start + self._begun)
            self._begun += 1
            yield task
