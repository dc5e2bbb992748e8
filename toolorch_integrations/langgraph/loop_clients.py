"""An asynchronous client for each event loop.

LangChain shares one client among all models of a process, and its connections belong to the event loop that opened
them: used from a second loop while the first one runs, requests fail or wait for ever. The loop that comes first keeps
LangChain's client; any other gets one of its own.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from functools import cache
from ssl import SSLContext

import httpx
import openai

_first: weakref.WeakKeyDictionary[httpx.AsyncClient, weakref.ref[asyncio.AbstractEventLoop]]
_first = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class LoopClients:
    """The clients of one model."""

    def __init__(self) -> None:
        self._own: dict[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = {}

    def here(self, shared: openai.AsyncOpenAI) -> openai.AsyncOpenAI:
        """Return the running loop's client: `shared`, or one like it with connections of its own."""
        loop = asyncio.get_running_loop()
        with _lock:
            first = _first.setdefault(shared._client, weakref.ref(loop))
            if first() is loop:
                return shared
            for other in [other for other in self._own if other.is_closed()]:
                del self._own[other]
            if loop not in self._own:
                # Not the client's own default: that one would close its connections on whatever loop collects it.
                self._own[loop] = shared.with_options(http_client=openai.DefaultAsyncHttpxClient(verify=_context()))
            return self._own[loop]


@cache
def _context() -> SSLContext:
    """Return the process's certificates: loading them takes longer than many calls."""
    return httpx.create_ssl_context()
