"""One value for each event loop, for what cannot move between loops: connections above all."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class PerLoop(Generic[Value]):
    """The values of the event loops of this process, each made when its loop first asks.

    Loops may run in any number of threads. The value of a loop that was closed or collected is dropped, not closed: its
    connections can be closed on no other loop. A copy, or what a pickle gives back, begins without values.

    Example:
        >>> clients = PerLoop[httpx.AsyncClient]()  # doctest: +SKIP
        >>> await clients.here(httpx.AsyncClient).get(url)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        # Needs no lock: a loop's value is written by the thread that runs it, and each step here is one of a `dict`.
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Value] = weakref.WeakKeyDictionary()

    def here(self, make: Callable[[], Value]) -> Value:
        """Return the running loop's value, from `make` where it has none yet.

        Raises:
            RuntimeError: No loop runs.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._values:
            self._drop_closed()
            self._values[loop] = make()
        return self._values[loop]

    def pop(self) -> Value | None:
        """Return the running loop's value and forget it; None: it has none."""
        return self._values.pop(asyncio.get_running_loop(), None)

    def _drop_closed(self) -> None:
        # A value's connections hold their loop, so a loop that ended with some open would otherwise stay for good.
        for reference in self._values.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                self._values.pop(loop, None)

    def __len__(self) -> int:
        """Return how many loops have a value, those included that were closed since one was made last."""
        return len(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return PerLoop, ()
