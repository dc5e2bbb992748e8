"""An event loop for rollouts: its threads may hang without holding up other runs or the end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from toolorch_integrations.workers import submit

Result = TypeVar("Result")


class WorkerThreads(ThreadPoolExecutor):
    """Runs an event loop's blocking calls, such as plain tools, in the threads of `toolorch_integrations.workers`.

    The loop's own executor has a handful of threads, and tools that hang would take them all.
    """

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Start a function in a thread that nobody waits for."""
        return submit(partial(fn, *args, **kwargs))


def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a new event loop with such threads."""

    async def prepared() -> Result:
        asyncio.get_running_loop().set_default_executor(WorkerThreads())
        return await main

    return asyncio.run(prepared())
