"""What leaves and enters the gateway at its outermost edge: answers with their headers, bodies within their limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ClassVar

from toolorch_serving.gateway.errors import GatewayError, Send, SlowBodyError, TooLargeError, send_error

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

BODY_SECONDS = 60.0
"""How long the body of a request may take to come."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CSP = b"content-security-policy"
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
_DOCS = (
    b"default-src 'none'; connect-src 'self'; img-src data: https://fastapi.tiangolo.com; frame-ancestors 'none'; "
    b"script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'unsafe-inline' https://cdn.jsdelivr.net"
)


class ClientGoneError(Exception):
    """The client closed the connection before its request, or its answer, was whole.

    Attributes:
        status: Under which metrics and traces count it: nginx's. Nobody else reads it.
    """

    status: ClassVar[int] = 499


class Answer:
    """Sends an answer, adds security headers, and knows how far it has come.

    Attributes:
        status: HTTP status; 0: not begun.
        ended: Whether its last byte was sent.
        plain: Whether the headers of the app are left as they are.
    """

    __slots__ = ("_is_stream", "_path", "_send", "ended", "plain", "status")

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._path = path
        self._is_stream = False
        self.status = 0
        self.ended = False
        self.plain = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer, as ASGI has it."""
        if message["type"] == "http.response.start":
            self._begin(message)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True
        await self._send(message)

    async def refuse(self, error: GatewayError) -> None:
        """Answer with an error; a stream that has begun gets it as its last event, anything else is just broken off."""
        if not self.status:
            await send_error(self, error)
        elif self._is_stream and not self.ended:
            await self({"type": "http.response.body", "body": self._event(error)})

    def _begin(self, message: MutableMapping[str, Any]) -> None:
        self.status = message["status"]
        headers = message.setdefault("headers", [])
        names = {name.lower(): value for name, value in headers}
        self._is_stream = names.get(b"content-type", b"").startswith(b"text/event-stream")
        if not self.plain:
            csp = _DOCS if self._path == "/docs" else _NOTHING
            extra = [(name, value) for name, value in (*_HEADERS, (_CSP, csp)) if name not in names]
            message["headers"] = [*headers, *extra]

    def _event(self, error: GatewayError) -> bytes:
        """Return an error as the last event; the empty line before it ends one that was cut in two."""
        detail = error.body["error"]
        if self._path.startswith("/api/chat/"):
            data = {name: detail[name] for name in ("message", "code", "param")}
            return b"\n\nevent: error\ndata: " + json.dumps(data).encode() + b"\n\n"
        return b"\n\ndata: " + json.dumps(error.body).encode() + b"\n\n"


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a header of a request, by its name in small letters."""
    return next((value for key, value in scope["headers"] if key == name), None)


async def read_body(scope: Scope, receive: Receive, limit: int, setting: str = "server.request_bytes") -> bytes:
    """Return a request's body.

    Args:
        scope: Of the request.
        receive: Gives its parts.
        limit: Bytes that it may have.
        setting: By which the limit is set, for the error.

    Raises:
        TooLargeError: It is over the limit.
        SlowBodyError: It did not come within `BODY_SECONDS`.
        ClientGoneError: The client went away before its end.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_body(scope, receive, limit, setting)
    except TimeoutError as error:
        raise SlowBodyError(
            f"the request's body was not whole within {BODY_SECONDS:g} s: send it again, in one go",
            headers={"Connection": "close"},
        ) from error


async def _read_body(scope: Scope, receive: Receive, limit: int, setting: str) -> bytes:
    length = header(scope, b"content-length")
    too_large = length is not None and length.isdigit() and int(length) > limit
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            too_large = True
            parts.clear()
        elif not too_large:
            parts.append(part)
        if size > 2 * limit:
            break  # A client that is nearly done reads its answer better when it may end; this one is not.
        more = message.get("more_body", False)
    if too_large:
        raise TooLargeError(
            f"the request's body is over {limit} bytes: shorten the messages, or raise {setting}",
            headers={"Connection": "close"},
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that has been read, and then what comes after it."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
