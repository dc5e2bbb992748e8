"""Which client a chat model uses on which event loop.

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

from toolorch_integrations.per_loop import PerLoop

_first: weakref.WeakKeyDictionary[httpx.AsyncClient, weakref.ref[asyncio.AbstractEventLoop]]
_first = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def client_here(shared: openai.AsyncOpenAI, own: PerLoop[openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    """Return the running loop's client: `shared`, or one like it with connections of its own, kept in `own`."""
    loop = asyncio.get_running_loop()
    with _lock:
        first = _first.setdefault(shared._client, weakref.ref(loop))
    if first() is loop:
        return shared
    # Not the client's own default: that one would close its connections on whatever loop collects it.
    return own.here(lambda: shared.with_options(http_client=openai.DefaultAsyncHttpxClient(verify=_context())))


@cache
def _context() -> SSLContext:
    """Return the process's certificates: loading them takes longer than many calls."""
    return httpx.create_ssl_context()
