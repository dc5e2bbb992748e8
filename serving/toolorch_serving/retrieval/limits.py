"""What the service lets in: bodies of a size, callers with a key, as many requests as it can bear."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolorch_serving.retrieval.answers import RefusedError, error_response

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How much the service takes on.

    Attributes:
        request_bytes: Of a body.
        seconds: That a request may take.
        at_once: Requests under way; more are refused.
        threads: That search and write.
    """

    request_bytes: int = 16 * 2**20
    seconds: float = 60.0
    at_once: int = 512
    threads: int = 8


class Workers:
    """Threads that do what would hold up the event loop, with limits."""

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="retrieval")
        self._running = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Do some work in a thread.

        Raises:
            RefusedError: Too much goes on already, or it took too long; a change is made all the same then.
        """
        if self._running >= self._limits.at_once:
            raise RefusedError(503, f"the service is busy with {self._running} requests; try again in a second")
        self._running += 1
        task = asyncio.get_running_loop().run_in_executor(self._threads, work)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._limits.seconds)
        except TimeoutError:
            raise RefusedError(
                504, f"it took over {self._limits.seconds:g} s; ask for less at once, or raise --request-seconds"
            ) from None

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits any more

    def close(self) -> None:
        """Wait for what goes on."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class Guard:
    """The outermost ASGI layer: refuses strangers and large bodies before anything is read or parsed."""

    def __init__(self, app: ASGIApp, *, key: str | None, limits: ServiceLimits) -> None:
        self._app, self._limits = app, limits
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        most = self._limits.request_bytes
        refused = None
        if self._expected is not None and scope["path"] != "/health":
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refused = RefusedError(401, "send the service's key as `Authorization: Bearer KEY`", "authorization")
        too_large = RefusedError(
            413, f"the body is over {most} bytes; send fewer at once, or raise --request-bytes", "body"
        )
        length = headers.get(b"content-length", b"0")
        if refused is None and (not length.isdigit() or int(length) > most):
            refused = too_large
        if refused is not None:
            await error_response(refused)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:  # sent in chunks, with no length named before
                raise HTTPException(413, str(too_large))
            return message

        await self._app(scope, counted, send)
