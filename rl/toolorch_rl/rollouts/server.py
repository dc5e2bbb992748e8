"""Waiting for a policy server that has died, and starting it again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import httpx

from toolorch_rl.rollouts.errors import PolicyDownError

logger = logging.getLogger(__name__)

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
_FRESH = 0.5
"""Seconds for which an answer counts for other runs as well."""


class Restartable(Protocol):
    """A policy server that can be started again, as those of `toolorch_serving` are."""

    @property
    def running(self) -> bool:
        """Whether its process is alive."""

    @property
    def root_url(self) -> str:
        """Its URL without a path."""

    def start(self) -> Any:
        """Start it and return once it answers."""

    def stop(self) -> None:
        """End what is left of it."""


class PolicyServer:
    """A policy server as rollouts see it: does it answer, and if not, what then.

    One that this process has started is started again, `restarts` times at most; any other is waited for. All runs
    that fail together share one restart.
    """

    def __init__(
        self,
        server: Restartable | str,
        *,
        restarts: int = 3,
        seconds: float = 600.0,
        restored: Callable[[], Any] | None = None,
    ) -> None:
        """Take a server.

        Args:
            server: The server, or a URL of one that somebody else keeps, `/v1` included or not.
            restarts: How often it is started again before it is given up.
            seconds: How long it is waited for.
            restored: Called after a restart, in a thread: loads the adapters that only the old process had.
        """
        self._server = None if isinstance(server, str) else server
        self._url = server.removesuffix("/").removesuffix("/v1") if isinstance(server, str) else ""
        self._left = restarts
        self._seconds = seconds
        self.restored = restored
        self.restarts = 0
        self._answered = 0.0
        self._lock: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ready(self) -> None:
        """Return when the server answers.

        Raises:
            PolicyDownError: It does not within the time, or does not start again.
        """
        async with self._own_lock():
            if time.monotonic() - self._answered < _FRESH:
                return  # another run has just found out
            if self._server is not None and not self._server.running:
                await self._restart(self._server)
            deadline = time.monotonic() + self._seconds
            for pause in (*_PAUSES, *[_PAUSES[-1]] * int(self._seconds)):
                if await self._answers():
                    self._answered = time.monotonic()
                    return
                if self._server is not None and not self._server.running:
                    await self._restart(self._server)
                    continue
                if time.monotonic() + pause > deadline:
                    break
                await asyncio.sleep(pause)
        raise PolicyDownError(
            f"the policy server at {self._root()} has not answered for {self._seconds:g} s: start it, or see its log"
        )

    async def _restart(self, server: Restartable) -> None:
        if self._left <= 0:
            raise PolicyDownError(
                f"the policy server at {self._root()} has ended {self.restarts + 1} times: see its log for why"
            )
        self._left -= 1
        self.restarts += 1
        logger.warning("the policy server at %s has ended and is started again", self._root())
        await asyncio.to_thread(server.stop)
        try:
            await asyncio.to_thread(server.start)
        except Exception as error:
            raise PolicyDownError(f"the policy server does not start again: {error}") from error
        if self.restored is not None:
            await asyncio.to_thread(self.restored)

    async def _answers(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
                return (await client.get(f"{self._root()}/health")).status_code == 200
        except httpx.HTTPError:
            return False

    def _root(self) -> str:
        return self._url if self._server is None else self._server.root_url

    def _own_lock(self) -> asyncio.Lock:
        """Return the lock of the running loop: a lock belongs to one."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._loop is not loop:
            self._lock, self._loop = asyncio.Lock(), loop
        return self._lock
