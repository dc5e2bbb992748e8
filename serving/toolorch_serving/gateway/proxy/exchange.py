"""One call on its way through the proxy: pieces of the answer pass to the client, and are kept for capture."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from toolorch_serving.gateway.errors import GatewayError, send_error
from toolorch_serving.gateway.proxy.connection import Connection
from toolorch_serving.gateway.proxy.headers import TRACE, for_client
from toolorch_serving.gateway.proxy.usage_event import UsageEvent

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HELD = 4 * 2**20
"""Bytes of an answer in one piece that are held back until it is whole: so it can still be replaced by an error."""
KEPT = 64 * 2**20
"""Bytes of an answer that are kept for capture."""

_END = b"data: [DONE]"


class Exchange:
    """Passes an answer on.

    The end of it is held back until `finish`, so that a client never has a whole answer that capture does not.

    Args:
        send: ASGI's.
        trace_id: Is sent as a header; empty: none.
        kept: Bytes kept for capture.
    """

    def __init__(self, send: Send, trace_id: str = "", kept: int = KEPT) -> None:
        self.status = 0
        self.stream = False
        self.begun = False
        """The client has been sent the answer's head."""
        self.too_long = False
        """More came than is kept."""
        self._send = send
        self._trace_id = trace_id
        self._most = kept
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes that have come of the answer."""
        self._usage: UsageEvent | None = None
        self._unsent: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []

    @property
    def body(self) -> bytes:
        """What has come of the answer; nothing where it was too long to be kept."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    async def take(self, response: Connection, *, without_usage: bool = False) -> None:
        """Read an answer, and pass on all but its end.

        Args:
            response: The answer.
            without_usage: The client is not to have the event of a stream that holds nothing but the usage.
        """
        self.status = response.status
        self.stream = response.is_event_stream
        self._usage = UsageEvent() if without_usage and self.stream else None
        self._headers = for_client(response.headers, self._trace_id)
        held = 0 if self.stream else HELD
        while piece := await response.piece():
            self._keep(piece)
            if self.stream and _END in piece[-32:]:
                self._unsent.append(self._for_client(piece))
                await response.settle()
                break
            if self.size <= held:
                self._unsent.append(piece)
            elif piece := self._for_client(piece):
                await self._pass_on(piece)
        if self._usage is not None:
            self._unsent.append(self._usage.rest())

    async def finish(self) -> None:
        """Send the end."""
        rest = b"".join(self._unsent)
        if not self.begun:
            self._headers.append((b"content-length", b"%d" % len(rest)))
        await self._start()
        await self._send({"type": "http.response.body", "body": rest})

    async def fail(self, error: GatewayError) -> None:
        """Say what went wrong: as an answer, or where one has begun, in its stream, which OpenAI's clients raise.

        Raises:
            GatewayError: A large answer in one piece broke off: nothing but a closed connection says so.
        """
        if not self.begun:
            if self._trace_id:
                error.headers[TRACE.decode()] = self._trace_id
            await send_error(self._send, error)
        elif self.stream:
            await self._send({"type": "http.response.body", "body": b"data: %b\n\n" % json.dumps(error.body).encode()})
        else:
            raise error

    def forget(self) -> None:
        """Forget an answer that the client is not to have."""
        self._pieces, self._unsent, self.size, self.too_long, self.status = [], [], 0, False, 0

    def _for_client(self, piece: bytes) -> bytes:
        return piece if self._usage is None else self._usage.without(piece)

    async def _pass_on(self, piece: bytes) -> None:
        await self._start()
        for waiting in (*self._unsent, piece):
            await self._send({"type": "http.response.body", "body": waiting, "more_body": True})
        self._unsent.clear()

    async def _start(self) -> None:
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": self.status, "headers": self._headers})

    def _keep(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= self._most:
            self._pieces.append(piece)
        elif not self.too_long:
            self.too_long = True
            self._pieces = []
