"""Calling the user's code, which may hang, raise anything or cancel itself: every call ends, and says how."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from toolorch_integrations.workers import submit
from toolorch_rl.pools import is_async

_GRACE = 1.0
"""Seconds that cancelled work has to end by itself."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a piece of work ended.

    Attributes:
        result: What it returned.
        error: What it raised; `CancelledError` where it cancelled itself.
        timed_out: Whether it was given up.
    """

    result: Any = None
    error: BaseException | None = None
    timed_out: bool = False


async def limited(work: Coroutine[Any, Any, Any], seconds: float) -> Ending:
    """Give a piece of work so much time, and return how it ended.

    Work whose time is over is cancelled and left to itself: it may hang in a thread that nobody can stop. The same
    becomes of it when whoever waits here is cancelled.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(heard)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return ending_of(task)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE)
    return Ending(timed_out=True)


def ending_of(task: asyncio.Task[Any]) -> Ending:
    """Return how a task that is done has ended."""
    if task.cancelled():
        return Ending(error=asyncio.CancelledError("it was cancelled from inside"))
    error = task.exception()
    return Ending(task.result()) if error is None else Ending(error=error)


def heard(task: asyncio.Task[Any]) -> None:
    """Take note of what a task has raised: asyncio complains of errors that nobody asked for."""
    if not task.cancelled():
        task.exception()


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a coroutine function here, and a plain function in a thread."""
    if is_async(function):
        return await function(*arguments)
    result = await asyncio.wrap_future(submit(lambda: function(*arguments)))
    return await result if isinstance(result, Awaitable) else result
