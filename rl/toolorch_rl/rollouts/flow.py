"""Pieces of work side by side, begun as there is room, their results as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from toolorch_rl.rollouts.calls import heard
from toolorch_rl.rollouts.errors import RolloutError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CLOSING = 5.0
"""Seconds that cancelled pieces have to end."""


async def side_by_side(
    pieces: Iterable[Coroutine[Any, Any, Result]] | AsyncIterable[Coroutine[Any, Any, Result]], at_once: int
) -> AsyncGenerator[Result, None]:
    """Do pieces of work, so many at once, and give each result as soon as it is there.

    A piece is drawn only once there is room for it, and results do not wait for the next one. Closing the iterator
    cancels what runs: use it with `contextlib.aclosing`.

    Raises:
        RolloutError: A piece was cancelled by somebody else than this.
        BaseException: What a piece, or drawing one, has raised; the others are cancelled.
    """
    gate = asyncio.Semaphore(at_once)
    ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    running: set[asyncio.Task[Any]] = set()

    def end(piece: asyncio.Task[Any]) -> None:
        heard(piece)
        gate.release()
        ended.put_nowait(piece)

    async def feed() -> None:
        async with aclosing(each(pieces)) as drawn:
            await gate.acquire()
            async for piece in drawn:
                task = asyncio.create_task(piece)
                running.add(task)
                task.add_done_callback(end)
                await gate.acquire()

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(end)
    running.add(feeder)
    try:
        while running:
            task = await ended.get()
            running.discard(task)
            if task.cancelled():
                raise RolloutError("a rollout was cancelled by something else than the closing of its iterator")
            if task is feeder:
                task.result()
            else:
                yield task.result()
    finally:
        if running:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_CLOSING)


async def each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    """Yield the items of either kind of iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
