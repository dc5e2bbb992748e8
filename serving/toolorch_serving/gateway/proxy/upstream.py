"""The policy server behind the proxy: where it is, and the connections to it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from urllib.parse import urlsplit

from toolorch_serving.gateway.errors import ConfigError, UpstreamError
from toolorch_serving.gateway.proxy.connection import Connection, StaleConnectionError
from toolorch_serving.gateway.proxy.headers import RawHeaders

logger = logging.getLogger(__name__)

_KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: uvicorn, and so vLLM, closes its own after five."""
_CONNECT = 10.0
_PAUSE = 0.05
"""Before the one retry, so that the loop hears of the other connections that a restarted server has left."""


class Upstream:
    """A policy server. Belongs to one event loop, on which it opens connections as they are needed.

    Args:
        url: Base URL, `/v1` included.
        timeout: Seconds that the server may stay silent: until its answer begins, and between two pieces of it.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url {url!r} of the policy server must be like http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._root = parts.path.rstrip("/").removesuffix("/v1").encode()
        self._own_headers = [(b"host", parts.netloc.rpartition("@")[2].encode())]
        self._idle: list[Connection] = []

    async def ask(self, method: str, path: str, headers: RawHeaders, body: bytes) -> Connection:
        """Send a request; returns when the head of the answer is there. `done` has to be called with what it returns.

        A connection that turns out to be closed before a byte of the answer came is replaced once: the server was
        restarted, or had given the idle connection up.

        Args:
            method: HTTP method.
            path: With `/v1` in front, and the query.
            headers: To be sent, without `host` and length.
            body: To be sent.

        Raises:
            UpstreamError: The server cannot be reached, or does not answer.
            TimeLimitError: It was silent for too long.
        """
        request = method.encode(), self._root + path.encode("latin-1"), [*self._own_headers, *headers], body
        try:
            return await self._asked(await self._connection(), *request)
        except StaleConnectionError:
            logger.info("%s closed a connection without an answer: the request is sent again", self.url)
        await asyncio.sleep(_PAUSE)
        return await self._asked(await self._connection(), *request)

    def done(self, connection: Connection) -> None:
        """Take a connection back; one whose answer was not read to its end is closed."""
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()

    async def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    async def _asked(
        self, connection: Connection, method: bytes, path: bytes, headers: RawHeaders, body: bytes
    ) -> Connection:
        try:
            await connection.ask(method, path, headers, body)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and loop.time() - connection.idle_since < _KEEP_ALIVE:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(_CONNECT):
                _, connection = await loop.create_connection(
                    lambda: Connection(self.url, self._timeout), self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            raise UpstreamError(
                f"the policy server {self.url} cannot be reached ({error or 'no answer'}): start it "
                "(`toolorch serve policy`), or correct `url` in [policy]",
                code="upstream_unreachable",
            ) from error
        return connection
