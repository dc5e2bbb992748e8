"""Transports of httpx that turn chat requests into requests by token ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import httpx

from toolorch_integrations.per_loop import PerLoop
from toolorch_integrations.steps import adrive, drive
from toolorch_integrations.tokens.reply import DERENDER, GENERATE, RENDER, Ask
from toolorch_integrations.tokens.turn import RefusedError, TokenTurns

_CHAT = "/chat/completions"
# Servers close idle connections after five seconds; a request sent on one of those would fail.
_LIMITS = httpx.Limits(max_connections=1024, max_keepalive_connections=256, keepalive_expiry=4.0)
_OWN_HEADERS = frozenset({"content-length", "content-type", "transfer-encoding"})


class _AnsweredError(Exception):
    """The server answered one of the requests with an error, which becomes the answer to the chat request."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


class TokenTransport(httpx.BaseTransport):
    """Sends a policy token ids instead of messages.

    It answers requests to `.../chat/completions`; all others go through unchanged. A streamed reply comes in one
    piece once it is whole, since parsing it token by token would take time with the square of its length. The
    server's errors come through as they are, so the client's own retries apply.

    Args:
        turns: The conversations; give two transports the same to let them continue each other's.
        inner: What sends the requests; by default `httpx.HTTPTransport()`.

    Example:
        >>> client = OpenAI(base_url=url, http_client=httpx.Client(transport=TokenTransport()))  # doctest: +SKIP
    """

    def __init__(self, turns: TokenTurns | None = None, inner: httpx.BaseTransport | None = None) -> None:
        self.turns = turns if turns is not None else TokenTurns()
        self._inner = inner if inner is not None else httpx.HTTPTransport(limits=_LIMITS)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        if not _is_chat(request):
            return self._inner.handle_request(request)
        body = json.loads(request.read())
        try:
            reply = drive(self.turns.steps(body), lambda asks: [self._ask(request, ask) for ask in asks])
            return _answer(request, body, reply)
        except RefusedError as error:
            return httpx.Response(400, json=error.body, request=request)
        except _AnsweredError as error:
            return error.response

    def _ask(self, request: httpx.Request, ask: Ask) -> dict[str, Any]:
        response = self._inner.handle_request(_request(request, ask))
        try:
            response.read()
        finally:
            response.close()
        return _read(response, ask)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class AsyncTokenTransport(httpx.AsyncBaseTransport):
    """Does as `TokenTransport`, for asynchronous clients, of any number of event loops.

    Args:
        turns: The conversations.
        inner: What sends the requests; by default an `httpx.AsyncHTTPTransport()` for each event loop, since
            connections cannot move between loops.
    """

    def __init__(self, turns: TokenTurns | None = None, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self.turns = turns if turns is not None else TokenTurns()
        self._given = inner
        self._inner = PerLoop[httpx.AsyncBaseTransport]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        if not _is_chat(request):
            return await self._transport().handle_async_request(request)
        body = json.loads(await request.aread())
        try:
            reply = await adrive(self.turns.steps(body), partial(self._ask_all, request))
            return _answer(request, body, reply)
        except RefusedError as error:
            return httpx.Response(400, json=error.body, request=request)
        except _AnsweredError as error:
            return error.response

    async def _ask_all(self, request: httpx.Request, asks: Sequence[Ask]) -> list[dict[str, Any]]:
        if len(asks) == 1:
            return [await self._ask(request, asks[0])]
        return list(await asyncio.gather(*(self._ask(request, ask) for ask in asks)))

    async def _ask(self, request: httpx.Request, ask: Ask) -> dict[str, Any]:
        response = await self._transport().handle_async_request(_request(request, ask))
        try:
            await response.aread()
        finally:
            await response.aclose()
        return _read(response, ask)

    def _transport(self) -> httpx.AsyncBaseTransport:
        if self._given is not None:
            return self._given
        return self._inner.here(lambda: httpx.AsyncHTTPTransport(limits=_LIMITS))

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        inner = self._given or self._inner.pop()
        if inner is not None:
            await inner.aclose()


def _is_chat(request: httpx.Request) -> bool:
    return request.method == "POST" and request.url.path.endswith(_CHAT)


def _request(request: httpx.Request, ask: Ask) -> httpx.Request:
    """Return a request to the same server, with the same credentials and time limits."""
    base = request.url.path.removesuffix(_CHAT)  # With /v1, or whatever a gateway has in its place.
    path = base + ask.path.removeprefix("/v1") if ask.path != GENERATE else base.removesuffix("/v1") + GENERATE
    headers = [(key, value) for key, value in request.headers.items() if key.lower() not in _OWN_HEADERS]
    url = request.url.copy_with(path=path)
    return httpx.Request("POST", url, headers=headers, json=ask.body, extensions=dict(request.extensions))


def _read(response: httpx.Response, ask: Ask) -> dict[str, Any]:
    if _is_missing(response):
        message = (
            f"the server does not serve {ask.path}: tokens in, tokens out needs {RENDER}, {GENERATE} and {DERENDER}. "
            "Start vLLM 0.32 with --enable-scale-out (VllmServer(..., training=True)), use the embedded engine, or "
            "leave `tokens` off"
        )
        error = {"error": {"message": message, "type": "NotFoundError", "param": "tokens", "code": 404}}
        raise _AnsweredError(httpx.Response(404, json=error))
    if response.status_code >= 300:
        raise _AnsweredError(httpx.Response(response.status_code, headers=_kept(response), content=response.content))
    data = response.json()
    if not isinstance(data, dict):
        raise _AnsweredError(httpx.Response(502, json={"error": {"message": f"{ask.path} answered no JSON object"}}))
    return data


def _is_missing(response: httpx.Response) -> bool:
    """Whether a server does not have the endpoint, or has it switched off: an unknown model has status 404, too."""
    text = response.text
    return (response.status_code == 403 and "--enable-scale-out" in text) or (
        response.status_code == 404 and '"Not Found"' in text
    )


def _kept(response: httpx.Response) -> dict[str, str]:
    """Return the headers that tell a client whether and when to try again."""
    names = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")
    return {name: response.headers[name] for name in names if name in response.headers}


def _answer(request: httpx.Request, body: Mapping[str, Any], completion: dict[str, Any]) -> httpx.Response:
    if not body.get("stream"):
        return httpx.Response(200, json=completion, request=request)
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in _events(completion, usage)]
    content = "".join([*lines, "data: [DONE]\n\n"]).encode()
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content, request=request)


def _events(completion: Mapping[str, Any], usage: bool) -> Iterator[dict[str, Any]]:
    """Yield a completion as the chunks of a stream."""
    head = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = completion["choices"][0]
    message = choice["message"]
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    exact = {key: completion[key] for key in ("prompt_token_ids", "held_tokens")}
    yield {**head, "choices": [first], **exact}
    delta = {key: message[key] for key in ("reasoning", "content") if message.get(key)}
    if message.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
    rest = {key: value for key, value in choice.items() if key != "message"}
    yield {**head, "choices": [{**rest, "delta": delta}]}
    if usage:
        yield {**head, "choices": [], "usage": completion["usage"]}
