"""Server-Sent Events of a run: sent as they come, ended with the client, drained with the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import orjson
from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from toolorch_serving.gateway.answer import ClientGoneError
from toolorch_serving.gateway.runner import RunStream
from toolorch_serving.gateway.state import GatewayState

PING_SECONDS = 15
SEND_SECONDS = 60.0
"""How long a reader may leave a full connection unread; then it is gone, and its run ends."""


def to_json(data: Mapping[str, Any]) -> str:
    """Return JSON of whatever a policy or a tool has written, half characters and huge numbers included."""
    try:
        return orjson.dumps(data, default=str).decode()
    except TypeError:
        return json.dumps(data, default=str)


def event(data: Mapping[str, Any], name: str | None = None) -> ServerSentEvent:
    """Return an event with JSON data."""
    return ServerSentEvent(data=to_json(data), event=name, sep="\n")


class RunResponse(EventSourceResponse):
    """The events of a run, which ends with the response: when the client has gone or reads no more, too.

    Args:
        state: Of the gateway.
        run: The run, entered already; it is left when the response is over, whether or not anything was sent.
        events: What is sent.
    """

    def __init__(
        self, state: GatewayState, run: AbstractAsyncContextManager[RunStream], events: AsyncIterator[ServerSentEvent]
    ) -> None:
        super().__init__(
            events,
            sep="\n",
            ping=PING_SECONDS,
            send_timeout=SEND_SECONDS,
            shutdown_event=anyio.Event(),
            shutdown_grace_period=state.config.server.drain_seconds,
        )
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        Raises:
            ClientGoneError: The client reads no more.
        """
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError as error:
            raise ClientGoneError from error
        finally:
            await self._run.__aexit__(None, None, None)


async def finish(stream: RunStream, request: Request) -> dict[str, Any] | None:
    """Follow a run to its end without sending anything.

    Returns:
        Its last event; None when the client has disconnected, and the run was ended for that.
    """
    gone = asyncio.ensure_future(_disconnected(request))
    end = asyncio.ensure_future(_last(stream))
    try:
        await asyncio.wait([gone, end], return_when=asyncio.FIRST_COMPLETED)
        return end.result() if end.done() else None
    finally:
        gone.cancel()
        end.cancel()
        await stream.aclose()


async def _last(stream: RunStream) -> dict[str, Any]:
    async for _ in stream:
        pass
    assert stream.ended is not None
    return stream.ended


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
