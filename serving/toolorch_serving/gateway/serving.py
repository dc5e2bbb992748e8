"""The gateway's HTTP server: uvicorn, with a drain in place of its own end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from toolorch_serving.gateway.app import Gateway
from toolorch_serving.gateway.config import ServerConfig
from toolorch_serving.gateway.errors import ConfigError
from toolorch_serving.gateway.sse import SEND_SECONDS

logger = logging.getLogger(__name__)

_BACKLOG = 4_096
"""Connections that may wait to be accepted: a thousand clients may come at once."""
_LEFT_SECONDS = 5
"""How long connections may stay open after the drain, for the last bytes of what was cut off: longer than a client may
take to read that it was (`app._REFUSAL_SECONDS`)."""


def listen(config: ServerConfig) -> socket.socket:
    """Return a socket that listens where the configuration says.

    Raises:
        ConfigError: It cannot, for instance because the port is taken.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"server.host and server.port: cannot listen on {config.host}, port {config.port} "
            f"({error.strerror or error}): choose others"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; what it accepts inherits it
        # A connection that is closed waits for its last bytes to be read: one whose client reads nothing would stay.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_SECONDS * 1_000))
    return listening


class GatewayServer(uvicorn.Server):
    """Serves a gateway until a signal comes, then drains it.

    From the first SIGTERM or SIGINT on `/health` says 503, new requests are refused, and those that run may end until
    `server.drain_seconds`. A second signal ends at once.

    Attributes:
        url: Where it listens.

    Args:
        gateway: The app.
        tell: Is called when it takes requests.

    Raises:
        ConfigError: It cannot listen there.
    """

    def __init__(self, gateway: Gateway, tell: Callable[[], None] = lambda: None) -> None:
        self.gateway = gateway
        self._tell = tell
        self._socket = listen(gateway.state.config.server)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        super().__init__(
            uvicorn.Config(
                gateway,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_LEFT_SECONDS,
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the drain is over."""
        super().run(sockets or [self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to take requests."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._drain is None and self._loop is not None and sig in (signal.SIGTERM, signal.SIGINT):
            self._loop.call_soon_threadsafe(self._begin_drain)
        else:
            self.force_exit = self.should_exit
            self.should_exit = True

    def _begin_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        try:
            await self.gateway.drain(self.gateway.state.config.server.drain_seconds)
        finally:
            self.should_exit = True
