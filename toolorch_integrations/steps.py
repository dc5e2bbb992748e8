"""Logic that is written once and driven from synchronous and asynchronous code.

A generator yields what it wants done and is sent the result, or has the error thrown into it; its return value is the
outcome. The driver does the waiting in its own way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from toolorch_integrations.errors import GivenUpError
from toolorch_integrations.workers import submit

Outcome = TypeVar("Outcome")
Steps = Generator[Any, Any, Outcome]


def drive(steps: Steps[Outcome], perform: Callable[[Any], Any]) -> Outcome:
    """Run a generator of steps, performing each where it stands."""
    try:
        wanted = next(steps)
        while True:
            try:
                result = perform(wanted)
            except Exception as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(result)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome


async def adrive(steps: Steps[Outcome], perform: Callable[[Any], Awaitable[Any]]) -> Outcome:
    """Do as `drive`, awaiting each step."""
    try:
        wanted = next(steps)
        while True:
            try:
                result = await perform(wanted)
            except Exception as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(result)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    finally:
        steps.close()  # a cancelled run gives up its reservations


def within(seconds: float | None, function: Callable[[], Outcome]) -> Outcome:
    """Call a function and wait for it so long at most.

    It runs in a thread that is left to itself when the time is over: see `workers`.

    Args:
        seconds: None waits for ever, in this thread.
        function: What to call; it sees this context's variables.

    Raises:
        GivenUpError: The time was over.
    """
    if seconds is None:
        return function()
    future = submit(function)
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():  # the function's own error, or it was done at the last moment
            return future.result()
        raise GivenUpError(f"there was no answer within {seconds:g} s") from error


async def awithin(seconds: float | None, awaitable: Awaitable[Outcome]) -> Outcome:
    """Do as `within` with something awaitable, which is cancelled when the time is over."""
    try:
        async with asyncio.timeout(seconds) as scope:
            return await awaitable
    except TimeoutError as error:
        if scope.expired():
            raise GivenUpError(f"there was no answer within {seconds:g} s") from error
        raise
