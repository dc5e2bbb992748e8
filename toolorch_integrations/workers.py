"""Threads that calls run in when they may have to be given up: kept for the next call, and never waited for.

A thread cannot be stopped. One whose call hangs is left to itself, and another takes the next call; a pool of the
standard library would lose a place to it, and would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Outcome = TypeVar("Outcome")

MOST_IDLE = 64
"""Threads that are kept for later calls; more end with their call."""

_idle: deque[_Worker] = deque()
os.register_at_fork(after_in_child=_idle.clear)  # a forked child has none of its parent's threads


def submit(function: Callable[[], Outcome]) -> Future[Outcome]:
    """Start a function in another thread, with this context's variables."""
    future: Future[Outcome] = Future()
    context = contextvars.copy_context()
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    worker.jobs.put((future, lambda: context.run(function)))
    return future


async def in_worker(function: Callable[[], Outcome]) -> Outcome:
    """Await a function that is no coroutine, in such a thread.

    Raises:
        RuntimeError: It raised `StopIteration`, which an awaited call cannot raise.
    """

    def work() -> Outcome:
        try:
            return function()
        except StopIteration as error:  # an asyncio future refuses it, and would never be done
            raise RuntimeError(f"the call raised {error!r}") from error

    return await asyncio.wrap_future(submit(work))


class _Worker(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="toolorch-call", daemon=True)
        self.jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def run(self) -> None:
        stays = True
        while stays:
            future, function = self.jobs.get()
            result: Any = None
            error: BaseException | None = None
            # From here on it cannot be cancelled: setting the result of a cancelled future would end this thread.
            wanted = future.set_running_or_notify_cancel()
            try:
                result = function() if wanted else None
            except BaseException as raised:
                error = raised
            stays = len(_idle) < MOST_IDLE
            if stays:
                _idle.append(self)  # before the caller hears of the result: its next call finds this thread
            if not wanted:
                pass  # it was cancelled before it began
            elif error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, function, result, error  # nothing of a call is kept while waiting for the next
