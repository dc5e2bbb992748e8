"""The capturing proxy as an ASGI app of its own, for use without the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool import Spool
from toolorch_integrations.spool.place import spool_folder
from toolorch_integrations.store import TraceStore
from toolorch_serving.gateway.answer import ClientGoneError, read_body
from toolorch_serving.gateway.errors import GatewayError, send_error
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
        spool: Folder on a local disk in which calls wait for the store; by default the one that a gateway on the same
            store has, which then takes over what this app has left.
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
            try:
                body = await read_body(scope, receive, request_bytes, "request_bytes")
            except GatewayError as error:
                await send_error(send, error)
            except ClientGoneError:
                return  # half a request is nobody's
            else:
                await proxy(scope, receive, send, body)

    return app


def _recorder(store: TraceStore | str | Path, spool: Spool | str | Path | None) -> DetachedRecorder:
    return DetachedRecorder(store, spool=spool or spool_folder(store))
