"""One policy call through the proxy: asked, passed on, captured; whatever happens to it, exactly once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from toolorch_integrations.events import EncodedEvents, Event
from toolorch_integrations.versions import conversation_key
from toolorch_integrations.wire_call import WireCall, WireFacts
from toolorch_serving.gateway.answer import ClientGoneError
from toolorch_serving.gateway.errors import GatewayError
from toolorch_serving.gateway.proxy import peek
from toolorch_serving.gateway.proxy.conversations import Asked, Conversations
from toolorch_serving.gateway.proxy.exchange import Exchange
from toolorch_serving.gateway.proxy.extras import USAGE, Extras, refused_in
from toolorch_serving.gateway.proxy.headers import RawHeaders
from toolorch_serving.gateway.proxy.request import CHAT, ProxyRequest
from toolorch_serving.gateway.proxy.settings import ProxySettings
from toolorch_serving.gateway.proxy.upstream import Upstream
from toolorch_serving.gateway.proxy.watch import Watch

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_WORKED = frozenset((ClientGoneError.status, 503))
"""How calls end that were given up before their answer began, while the server worked on it."""
_GONE = "the client went away before its answer was whole"


@dataclass(frozen=True, slots=True)
class Proxied:
    """A call that has ended, for metrics and limits."""

    model: str
    """That answered, as the server names it."""
    status: int
    """That the client was given; 499: it went away."""
    seconds: float
    input_tokens: int
    """0 where it is not known."""
    output_tokens: int
    dollars: float
    """By an estimate of the tokens where they are not known."""


class Sink(Protocol):
    """Takes captured calls: a recorder."""

    def put(self, event: Event | EncodedEvents) -> None:
        """Take an event; it never raises, and does not block."""


class Ended(Protocol):
    """Is told of every call that has ended."""

    def __call__(self, scope: Scope, call: Proxied, /) -> None:
        """Take note of a call."""


@dataclass(slots=True)
class Services:
    """What all calls of a proxy share."""

    upstream: Upstream
    recorder: Sink
    settings: ProxySettings
    conversations: Conversations
    ended: Ended
    extras: Extras
    pause: Callable[[], float] = lambda: 0.0
    """Seconds by which answers are to be delayed, as capture does not keep up."""


class PolicyCall:
    """One call of a conversation."""

    def __init__(
        self,
        services: Services,
        scope: Scope,
        send: Send,
        request: ProxyRequest,
        asked: Asked,
        headers: RawHeaders,
    ) -> None:
        conversation = asked.conversation
        self._services = services
        self._scope = scope
        self._request = request
        self._asked = asked
        self._headers = headers
        self._exchange = Exchange(send, conversation.trace_id, services.settings.kept_bytes)
        self._clock = time.perf_counter()
        self._started = time.time()
        self._sent = request.body
        self._captured = False
        self._waited = max(0.0, self._started - conversation.answered) if conversation.answered else 0.0

    async def run(self, receive: Receive) -> None:
        """Answer the client, and have the call captured before the last byte goes out."""
        exchange = self._exchange
        try:
            async with Watch(receive):
                await self._ask()
                self._capture(exchange.status)
                seconds = self._services.pause()
                if seconds > 0.0:
                    await asyncio.sleep(seconds)
                await exchange.finish()
        except ClientGoneError:
            self._capture(ClientGoneError.status, _GONE)
        except GatewayError as error:
            self._capture(error.status, str(error))
            await exchange.fail(error)
        except asyncio.CancelledError:
            self._capture(503, "the gateway was stopped before the answer was whole")
            raise

    async def _ask(self) -> None:
        extras, exchange, model = self._services.extras, self._exchange, self._version()
        wanted, refusal = extras.of(model), b""
        refused: frozenset[str] = frozenset()
        while True:  # as often as there are extras that can be refused
            self._sent, added = self._request.sent(model, wanted - refused)
            await self._take(without_usage=USAGE in added)
            found = refused_in(exchange.status, exchange.body, added)
            if not found:
                break
            refused, refusal = refused | found, exchange.body
            exchange.forget()
        if refused and exchange.status < 400:
            extras.remember(model, refused, refusal)

    async def _take(self, *, without_usage: bool) -> None:
        query = self._scope.get("query_string") or b""
        path = f"{self._request.path}?{query.decode('latin-1')}" if query else self._request.path
        upstream = self._services.upstream
        response = await upstream.ask("POST", path, self._headers, self._sent)
        try:
            await self._exchange.take(response, without_usage=without_usage)
        finally:
            upstream.done(response)

    def _version(self) -> str:
        """Return the policy version that answers the conversation."""
        settings, request = self._services.settings, self._request
        if settings.router is None or request.model != settings.policy:
            return request.model
        conversation = self._asked.conversation
        if request.path == CHAT:
            key = conversation_key(request.messages, conversation.thread_id)
        else:
            key = conversation.thread_id or conversation.trace_id
        return settings.router.version_for(key) or request.model

    def _capture(self, status: int, failure: str = "") -> None:
        if self._captured:
            return
        self._captured = True
        exchange, services, conversation = self._exchange, self._services, self._asked.conversation
        body, settings = exchange.body, services.settings
        if exchange.too_long:
            failure = failure or f"the answer was over the {settings.kept_bytes} bytes that capture keeps"
        facts = WireFacts(
            conversation.trace_id,
            self._request.path,
            exchange.status if exchange.begun else status,
            exchange.stream,
            failure,
            settings.app,
            conversation.caller,
            conversation.thread_id,
            conversation.begun,
            self._started,
            time.perf_counter() - self._clock,
            self._waited,
            self._asked.repeated,
            settings.price.input,
            settings.price.output,
            settings.price.call,
            settings.logprobs_mode,
        )
        call = WireCall(facts, self._sent, body)
        services.recorder.put(call)
        failed = bool(failure) or status >= 400
        waits = peek.asks_for_tools(body)
        services.conversations.end(self._asked, body, stream=exchange.stream, failed=failed, waits=waits)
        read, wrote = peek.usage_in(body)
        model = peek.model_in(body) or self._request.model
        services.ended(
            self._scope, Proxied(model, status, facts.seconds, read, wrote, self._dollars(status, read, wrote))
        )

    def _dollars(self, status: int, read: int, wrote: int) -> float:
        """Return what the call costs: nothing where the server refused it or could not be asked, else never nothing."""
        exchange = self._exchange
        if exchange.status >= 400 or not (exchange.status or status in _WORKED):
            return 0.0
        if not read and not wrote:
            read, wrote = peek.estimated_usage(self._request.body, exchange.body, exchange.size)
        return self._services.settings.price.dollars(read, wrote)
