"""The gateway's HTTP server: uvicorn, with a drain in place of its own end."""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType

import uvicorn

from toolorch_serving.gateway.app import Gateway

logger = logging.getLogger(__name__)

_LEFT_SECONDS = 5
"""How long connections may stay open after the drain: what answers then is a stream's last bytes."""


class GatewayServer(uvicorn.Server):
    """Serves a gateway until a signal comes, then drains it.

    From the first SIGTERM or SIGINT on `/health` says 503, new requests are refused, and those that run may end until
    `server.drain_seconds`. A second signal ends at once.

    Args:
        gateway: The app.
        log_level: Of uvicorn.
    """

    def __init__(self, gateway: Gateway, *, log_level: str = "warning") -> None:
        server = gateway.state.config.server
        super().__init__(
            uvicorn.Config(
                gateway,
                host=server.host,
                port=server.port,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_level=log_level,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=4096,
                timeout_graceful_shutdown=_LEFT_SECONDS,
            )
        )
        self.gateway = gateway
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens; the port is known once it has started."""
        listening = next((sock for server in self.servers for sock in server.sockets), None)
        port = self.config.port if listening is None else listening.getsockname()[1]
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{port}"

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._drain is None and self._loop is not None and sig in (signal.SIGTERM, signal.SIGINT):
            self._loop.call_soon_threadsafe(self.begin_drain)
        else:
            self.force_exit = self.should_exit
            self.should_exit = True

    def begin_drain(self) -> None:
        """Begin the drain; to be called on the server's event loop."""
        if self._drain is None:
            logger.info("draining")
            self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        try:
            await self.gateway.drain(self.gateway.state.config.server.drain_seconds)
        finally:
            self.should_exit = True
