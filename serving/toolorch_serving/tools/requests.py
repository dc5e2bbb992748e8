"""Requests to services that the app has named: bounded time, bounded retries, bounded answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import httpx

from toolorch_serving.tools.errors import SearchLimitedError, ToolError

Result = TypeVar("Result")

RETRIES = 2
ANSWER_BYTES = 8 * 2**20
_PASSING = frozenset({408, 425, 500, 502, 503, 504})
_LIMITED = frozenset({429, 432, 433})  # 432 and 433 are Tavily's words for a plan's limit that is used up
_LONGEST_PAUSE = 5.0


class PassingError(ToolError):
    """A failure that may be gone at the next try."""


def post_json(
    service: str, url: str, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, timeout: float
) -> Any:
    """Send JSON and return the JSON of the answer.

    Args:
        service: Name for messages.
        url: Where to; the app's own choice, so it may be a private address.
        body: What is asked.
        headers: Sent with it.
        timeout: Seconds for one try, and so for the whole answer.

    Raises:
        SearchLimitedError: The service refuses further requests for now.
        ToolError: It gave no usable answer after the retries.
    """
    return with_retries(lambda: _post(service, url, body, headers, timeout))


def with_retries(attempt: Callable[[], Result], retries: int = RETRIES) -> Result:
    """Return what an attempt brings; a `PassingError` is tried again after a pause, a few times."""
    for tried in range(retries + 1):
        try:
            return attempt()
        except PassingError:
            if tried == retries:
                raise
            time.sleep(min(_LONGEST_PAUSE, 0.25 * 2**tried))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _post(service: str, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None, timeout: float) -> Any:
    started = time.monotonic()
    content = bytearray()
    try:
        with _client().stream("POST", url, json=body, headers=dict(headers or {}), timeout=timeout) as reply:
            for piece in reply.iter_bytes():
                content += piece
                if len(content) > ANSWER_BYTES:
                    raise ToolError(f"{service} sent more than {ANSWER_BYTES} bytes.")
                if time.monotonic() - started > timeout:
                    raise PassingError(f"{service} did not answer within {timeout:g} s.")
    except httpx.TimeoutException as error:
        raise PassingError(f"{service} did not answer within {timeout:g} s.") from error
    except httpx.InvalidURL as error:
        raise ToolError(f"The address of {service}, {url!r}, is not valid: {error}.") from error
    except httpx.HTTPError as error:
        raise PassingError(f"{service} at {url} cannot be reached: {error or type(error).__name__}.") from error
    return _read(service, reply.status_code, reply.headers, bytes(content))


def _read(service: str, status: int, headers: httpx.Headers, content: bytes) -> Any:
    said = content[:300].decode("utf-8", errors="replace")
    if status in _LIMITED:
        after = f" for {headers['retry-after']} s" if "retry-after" in headers else ""
        raise SearchLimitedError(f"{service} takes no further requests{after} (status {status}): {said}")
    if status in _PASSING:
        raise PassingError(f"{service} failed with status {status}: {said}")
    if status in (401, 403):
        raise ToolError(f"{service} refuses the key (status {status}): {said}")
    if status != 200:
        raise ToolError(f"{service} refuses the request (status {status}): {said}")
    try:
        return json.loads(content)
    except ValueError as error:
        raise ToolError(f"{service} did not answer with JSON: {said}") from error


@cache
def _client() -> httpx.Client:
    return httpx.Client(limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=4.0))
