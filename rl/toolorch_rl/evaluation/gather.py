"""Many coroutines on one event loop, so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def gathered(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], concurrency: int
) -> list[Result]:
    """Call a function with each item; return the results in the items' order.

    Raises:
        Exception: The first that a call raised, as it is; the other calls are cancelled.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(item: Item) -> Result:
        async with gate:
            return await function(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    return [task.result() for task in tasks]
