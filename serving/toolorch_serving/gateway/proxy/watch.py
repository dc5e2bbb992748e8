"""Hears that a client has gone away, and ends what is done for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Self

from toolorch_serving.gateway.answer import ClientGoneError

_DELAY = 0.02
"""Seconds after which it begins to listen: most answers of a fast server are out by then, and pay nothing."""


class Watch:
    """Cancels what is done in its `async with` block when the client goes away; then ClientGoneError comes out of it.

    Args:
        receive: ASGI's; the request's body has been read from it.
    """

    def __init__(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        self._receive = receive
        self._gone = False
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = loop.call_later(_DELAY, self._listen)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        if self._gone and self._task is not None:
            if kind is None:  # The cancellation is on its way: it must not come out anywhere else.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise ClientGoneError from None

    def _listen(self) -> None:
        self._listener = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._task is not None:
            self._task.cancel()
