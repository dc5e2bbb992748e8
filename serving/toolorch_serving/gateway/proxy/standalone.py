"""The capturing proxy as an ASGI app of its own, for use without the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool import Spool
from toolorch_integrations.store import TraceStore
from toolorch_serving.gateway.errors import TooLargeError, send_error
from toolorch_serving.gateway.proxy.proxy import CapturingProxy
from toolorch_serving.gateway.proxy.settings import ProxySettings
from toolorch_serving.gateway.proxy.upstream import Upstream

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_BYTES = 64 * 2**20


def capturing_proxy_app(
    url: str,
    store: TraceStore | Recorder | DetachedRecorder | str | Path,
    *,
    spool: Spool | str | Path | None = None,
    settings: ProxySettings | None = None,
    timeout: float = 300.0,
    request_bytes: int = REQUEST_BYTES,
) -> App:
    """Return an ASGI app that passes everything on to a policy server, and captures its completions.

    It knows no keys and no limits: serve it where only your own apps can reach it, or use `toolorch serve gateway`.

    Args:
        url: Base URL of the policy server, `/v1` included.
        store: Where traces go: a store, its file name or URL, or a recorder (which stays yours to close).
        spool: Folder on a local disk in which calls wait for the store; by default beside an SQLite store, else
            `toolorch-spool` in the current folder.
        settings: How requests are treated.
        timeout: Seconds that the policy server may stay silent.
        request_bytes: Largest request.

    Example:
        >>> uvicorn.run(capturing_proxy_app("http://127.0.0.1:8000/v1", "traces.db"))  # doctest: +SKIP
    """
    recorder = store if isinstance(store, Recorder | DetachedRecorder) else _recorder(store, spool)
    pause = recorder.pause if isinstance(recorder, DetachedRecorder) else lambda: 0.0
    proxy = CapturingProxy(Upstream(url, timeout), recorder, settings, pause=pause)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await proxy.close()
            if recorder is not store:
                recorder.close()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            body = await _read(receive, request_bytes)
            if body is None:
                await send_error(send, TooLargeError(f"the request is over the limit of {request_bytes} bytes"))
            else:
                await proxy(scope, receive, send, body)

    return app


def _recorder(store: TraceStore | str | Path, spool: Spool | str | Path | None) -> DetachedRecorder:
    opened = store if isinstance(store, TraceStore) else TraceStore(store)
    beside = None if opened.file is None else f"{opened.file}-spool"
    return DetachedRecorder(store, spool=spool or beside or "toolorch-spool")


async def _read(receive: Receive, most: int) -> bytes | None:
    """Return a request's body; None: it is too large."""
    pieces: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return b"".join(pieces)
        pieces.append(event.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            return None
        if not event.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
