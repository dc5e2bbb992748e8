"""Server-Sent Events of a run: sent as they come, ended with the client, drained with the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import orjson
from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from toolorch_serving.gateway.runner import RunStream
from toolorch_serving.gateway.state import GatewayState

PING_SECONDS = 15
SEND_SECONDS = 60.0
"""How long a reader may leave a full connection unread; then it is gone, and its run ends."""


def event(data: Mapping[str, Any], name: str | None = None) -> ServerSentEvent:
    """Return an event with JSON data."""
    return ServerSentEvent(data=orjson.dumps(data).decode(), event=name, sep="\n")


def event_source(state: GatewayState, events: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """Return a response that sends events; it closes their iterator when the client has gone or reads no more."""
    return EventSourceResponse(
        events,
        sep="\n",
        ping=PING_SECONDS,
        send_timeout=SEND_SECONDS,
        shutdown_event=anyio.Event(),
        shutdown_grace_period=state.config.server.drain_seconds,
    )


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
