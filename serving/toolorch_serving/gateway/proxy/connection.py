"""One HTTP/1.1 connection to a policy server.

A general client (aiohttp, httpx) costs more than all the rest of the proxy together: it makes requests, headers and
URLs objects that a proxy has as bytes already. The parser is httptools', as in uvicorn; what stands here is when to
read, when to wait, and what a closed connection means.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import httptools

from toolorch_serving.gateway.errors import TimeLimitError, UpstreamError
from toolorch_serving.gateway.proxy.headers import RawHeaders

_AHEAD = 2**18
"""Bytes of an answer that may wait for a slow client; then no more is read from the server."""
_SETTLE = 0.05


class StaleConnectionError(UpstreamError):
    """The server had closed the connection before a byte of the answer came."""


class Connection(asyncio.Protocol):
    """A connection, and the answer that is read from it.

    Args:
        url: The server's base URL, for error messages.
        silence: Seconds that the server may stay silent.

    Attributes:
        status: HTTP status of the answer.
        headers: Of the answer, names in lower case.
        reusable: Whether another request can be sent: the answer was read to its end, and the server keeps it open.
        idle_since: When it was last used, in the loop's time.
    """

    def __init__(self, url: str, silence: float) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.reusable = False
        self.idle_since = 0.0
        self._url = url
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._open = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers, self.reusable = 0, [], False
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._has_head = False
        self._complete = False
        self._until_closed = False
        self._bodiless = False
        self._paused = False
        self._error: UpstreamError | TimeLimitError | None = None
        self._heard_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it."""
        return self._open

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer is a stream of Server-Sent Events."""
        return any(name == b"content-type" and b"text/event-stream" in value for name, value in self.headers)

    async def ask(self, method: bytes, path: bytes, headers: RawHeaders, body: bytes) -> None:
        """Send a request and wait for the head of the answer.

        Raises:
            StaleConnectionError: The connection was closed already.
            UpstreamError: What came is no HTTP.
            TimeLimitError: The server stayed silent.
        """
        self._begin()
        self._bodiless = method == b"HEAD"
        transport = self._transport
        if transport is None or not self._open:
            raise self._stale()
        lines = [b"%b %b HTTP/1.1" % (method, path), *(b"%b: %b" % header for header in headers)]
        if body or method != b"GET":
            lines.append(b"content-length: %d" % len(body))
        head = b"\r\n".join(lines)
        self._heard_at = self._loop.time()
        self._watchdog = self._loop.call_later(self._silence, self._watch)
        transport.writelines((head, b"\r\n\r\n", body) if body else (head, b"\r\n\r\n"))
        while not self._has_head:
            await self._wait()

    async def piece(self) -> bytes:
        """Return what has come of the body since, empty at its end.

        Raises:
            UpstreamError: The server broke off.
            TimeLimitError: It stayed silent.
        """
        while not self._pieces and not self._complete:
            await self._wait()
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._waiting_bytes = 0
        if self._paused:
            self._paused = False
            self._heard_at = self._loop.time()
            cast("asyncio.Transport", self._transport).resume_reading()
        return data

    async def settle(self) -> None:
        """Wait a moment for the end of a body of which nothing more is wanted, so that the connection can be kept."""
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(_SETTLE):
                while not self._complete:
                    await self._wait()

    def close(self) -> None:
        """Close it at once: a server that still writes to it stops working on the answer."""
        self._end_watch()
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._open = True

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(
                UpstreamError(f"what answered at {self._url} does not speak HTTP/1.1 ({error}): correct its URL")
            )
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that it is closed: for an answer without a length, its end."""
        self._open = False
        self.reusable = False
        if self._has_head and self._until_closed and exc is None:
            self._complete = True
        elif self._has_head:
            self._fail(
                UpstreamError(
                    f"the policy server {self._url} broke off in the middle of its answer: see its log; the request "
                    "may be sent again",
                    code="upstream_broke_off",
                )
            )
        else:
            self._fail(self._stale())
        self._end_watch()
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take note of a header; httptools calls this and the rest."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take note that the head is there."""
        status = self._parser.get_status_code()
        if status < 200:  # "continue" and the like: the answer is still to come
            self.headers = []
            return
        self.status = status
        self._has_head = True
        self._until_closed = not any(
            name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower())
            for name, value in self.headers
        )
        if self._bodiless:
            self._complete = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(body)
        self._waiting_bytes += len(body)
        if self._waiting_bytes > _AHEAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Take note that the body is whole."""
        if self._has_head:
            self._complete = True
            self.reusable = self._open and self._parser.should_keep_alive() and not self._bodiless
            self._end_watch()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: UpstreamError | TimeLimitError) -> None:
        if not self._complete:
            self._error = self._error or error

    def _stale(self) -> StaleConnectionError:
        return StaleConnectionError(
            f"the policy server {self._url} closed the connection without an answer: it is restarting, or it failed; "
            "see its log, and send the request again",
            code="upstream_broke_off",
        )

    def _watch(self) -> None:
        left = self._heard_at + self._silence - self._loop.time()
        if left > 0 or self._paused:
            self._watchdog = self._loop.call_later(max(left, 1.0), self._watch)
            return
        self._watchdog = None
        self._fail(
            TimeLimitError(
                f"the policy server {self._url} was silent for {self._silence:g} s: it is overloaded, or `timeout` in "
                "[policy] is too short for its longest answers"
            )
        )
        self.close()
        self._wake()

    def _end_watch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
