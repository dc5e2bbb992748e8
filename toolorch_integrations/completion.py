"""Calls of OpenAI-compatible chat endpoints, for specialists: bounded retries, bounded time, counted tokens."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

from toolorch_integrations.entry import Endpoint
from toolorch_integrations.errors import EndpointError
from toolorch_integrations.per_loop import PerLoop
from toolorch_integrations.prompt import text_of

_RETRY_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
_LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=4.0)

_async_clients = PerLoop[httpx.AsyncClient]()


@dataclass(frozen=True, slots=True)
class Completion:
    """What an endpoint answered.

    Attributes:
        text: The answer.
        model: Model that answered, as the endpoint reports it.
        input_tokens: Tokens read; estimated from the text's length where the endpoint reports none.
        output_tokens: Tokens written, likewise.
        seconds: Wall clock, retries included.
        attempts: Requests sent.
    """

    text: str
    model: str
    input_tokens: int
    output_tokens: int
    seconds: float
    attempts: int


def complete(endpoint: Endpoint, messages: Sequence[Mapping[str, Any]], retries: int = 2) -> Completion:
    """Ask an endpoint and wait.

    Raises:
        EndpointError: It gave no usable answer within its timeout and the retries.
        MissingVariableError: Its key's environment variable is not set.
    """
    request, headers = _request(endpoint, messages)
    started = time.monotonic()
    client = _sync_client()
    for attempt in range(1, retries + 2):
        try:
            clock = _Clock(endpoint.timeout)
            with client.stream(
                "POST", _url(endpoint), json=request, headers=headers, timeout=endpoint.timeout
            ) as reply:
                body = bytearray()
                for piece in reply.iter_bytes():
                    body += clock.check(piece)
            return _read(endpoint, reply.status_code, bytes(body), request, started, attempt)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, EndpointError) as error:
            pause = _pause_before_retry(endpoint, error, attempt, retries, started)
        time.sleep(pause)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def acomplete(endpoint: Endpoint, messages: Sequence[Mapping[str, Any]], retries: int = 2) -> Completion:
    """Do as `complete`, on the running event loop."""
    request, headers = _request(endpoint, messages)
    started = time.monotonic()
    client = _async_client()
    for attempt in range(1, retries + 2):
        try:
            async with asyncio.timeout(endpoint.timeout):
                reply = await client.post(_url(endpoint), json=request, headers=headers, timeout=endpoint.timeout)
            return _read(endpoint, reply.status_code, reply.content, request, started, attempt)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, EndpointError) as error:
            pause = _pause_before_retry(endpoint, error, attempt, retries, started)
        await asyncio.sleep(pause)
    raise AssertionError("unreachable: the last attempt returns or raises")


def estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return a rough number of tokens (four characters each), where nobody has counted them."""
    return sum(len(str(message.get("content") or "")) for message in messages) // 4 + 1


def _url(endpoint: Endpoint) -> str:
    return endpoint.url.rstrip("/") + "/chat/completions"


def _request(endpoint: Endpoint, messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    request: dict[str, Any] = {
        "model": endpoint.model,
        "messages": list(messages),
        endpoint.max_tokens_field: endpoint.max_tokens,
    }
    if endpoint.temperature is not None:
        request["temperature"] = endpoint.temperature
    headers = dict(endpoint.headers)
    key = endpoint.key()
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return request, headers


class _Clock:
    """Ends a response that comes in drops: httpx's timeout begins anew with each piece."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def check(self, piece: bytes) -> bytes:
        if time.monotonic() > self._end:
            raise TimeoutError
        return piece


def _read(
    endpoint: Endpoint, status: int, body: bytes, request: Mapping[str, Any], started: float, attempt: int
) -> Completion:
    if status >= 300:
        raise EndpointError(
            f"{endpoint.url} answered {status} for model {endpoint.model!r}: {body[:300].decode(errors='replace')}",
            retryable=status in _RETRY_STATUS,
        )
    try:
        data = json.loads(body)
        text = text_of(data["choices"][0]["message"])
        usage = data.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EndpointError(
            f"{endpoint.url} answered no chat completion for model {endpoint.model!r}: "
            f"{body[:300].decode(errors='replace')!r}"
        ) from error
    return Completion(
        text=text,
        model=str(data.get("model") or endpoint.model),
        input_tokens=tokens[0] or estimate_tokens(request["messages"]),
        output_tokens=tokens[1] or len(text) // 4 + 1,
        seconds=time.monotonic() - started,
        attempts=attempt,
    )


def _pause_before_retry(endpoint: Endpoint, error: Exception, attempt: int, retries: int, started: float) -> float:
    """Return the seconds to wait before the next attempt; raise the error when there is none."""
    if isinstance(error, EndpointError):
        failure = error
    elif isinstance(error, (httpx.TimeoutException, TimeoutError)):
        failure = EndpointError(f"{endpoint.url} did not answer within {endpoint.timeout:g} s.", retryable=True)
    elif isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        failure = EndpointError(f"The endpoint's `url` {endpoint.url!r} is not one: {error}")
    else:
        failure = EndpointError(f"{endpoint.url} cannot be reached: {error or type(error).__name__}", retryable=True)
    failure.attempts = attempt
    out_of_time = time.monotonic() - started >= endpoint.timeout
    if not failure.retryable or attempt > retries or out_of_time:
        if failure is error:
            raise failure
        raise failure from error
    return min(4.0, 0.2 * 2.0 ** (attempt - 1)) * (0.5 + random.random())


@cache
def _sync_client() -> httpx.Client:
    """Return the process's client: it may be used from all threads at once."""
    return httpx.Client(limits=_LIMITS)


os.register_at_fork(after_in_child=_sync_client.cache_clear)  # two processes cannot share connections


def _async_client() -> httpx.AsyncClient:
    """Return this event loop's client."""
    return _async_clients.here(lambda: httpx.AsyncClient(limits=_LIMITS))
