"""Pages of other sites in the user's own browser: which may call, and how a gateway without keys is safe from the rest.

A browser sends any page's plain POST to 127.0.0.1, and a name that its owner points at 127.0.0.1 makes a page of the
same site. With keys neither works: pages do not have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware

from toolorch_serving.gateway.answer import Scope, header
from toolorch_serving.gateway.config import ServerConfig
from toolorch_serving.gateway.errors import ForbiddenError
from toolorch_serving.gateway.proxy.headers import TRACE

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def check_origin(scope: Scope, server: ServerConfig) -> None:
    """Refuse what a page of another site has sent.

    Args:
        scope: Of the request.
        server: The configuration.

    Raises:
        ForbiddenError: The host is not this gateway's name, or the origin is another one.
    """
    host = (header(scope, b"host") or b"").decode("latin-1")
    name = _hostname(f"//{host}")
    own = scope.get("server") or ("",)
    if not server.open and name not in _LOOPBACK and name not in (server.host, own[0]):
        raise ForbiddenError(
            f"host {host!r} is not this gateway's: without keys it answers to 127.0.0.1 and localhost only; add "
            "[[keys]], or say server.open = true behind a proxy of your own"
        )
    origin = (header(scope, b"origin") or b"").decode("latin-1")
    if scope["method"] in _SAFE or not origin or origin in server.cors_origins:
        return
    if origin.partition("://")[2] != host:
        raise ForbiddenError(f"origin {origin!r} is another site's: add it to server.cors_origins if it may call")


def allowing(app: Any, origins: Sequence[str]) -> Any:
    """Return an ASGI app that lets pages of some origins read its answers; without any it is the app itself."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # clients send their own, such as x-stainless-* of OpenAI's
        expose_headers=["Retry-After", TRACE.decode()],
    )


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # such as an unfinished IPv6 address
        return None
