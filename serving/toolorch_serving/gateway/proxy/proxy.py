"""The capturing proxy: passes completions on to a policy server, and has every call captured, token for token."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from toolorch_integrations.events import TraceEnded, TraceStatus
from toolorch_serving.gateway.answer import ClientGoneError
from toolorch_serving.gateway.errors import GatewayError, send_error
from toolorch_serving.gateway.proxy import headers as http
from toolorch_serving.gateway.proxy.call import Ended, PolicyCall, Services, Sink
from toolorch_serving.gateway.proxy.claims import Claims
from toolorch_serving.gateway.proxy.conversations import Conversation, Conversations
from toolorch_serving.gateway.proxy.exchange import Exchange
from toolorch_serving.gateway.proxy.extras import Extras
from toolorch_serving.gateway.proxy.request import CHAT, TEXT, ProxyRequest
from toolorch_serving.gateway.proxy.settings import ProxySettings
from toolorch_serving.gateway.proxy.upstream import Upstream
from toolorch_serving.gateway.proxy.watch import Watch

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TRACE_ID = re.compile("[0-9a-f]{32}")
_THREAD_LENGTH = 500


class CapturingProxy:
    """Passes requests on to a policy server and captures completions; an ASGI callable but for the body.

    Args:
        upstream: The policy server.
        recorder: Takes the calls.
        settings: How requests are treated.
        caller: Says who asks: conversations of different callers never meet.
        ended: Is told of every call that has ended.
        claims: Knows who began the traces of the store; None: there is one caller only.
        conversations: Finds a request's conversation; by default a new index.
        pause: Says by how many seconds answers are to be delayed, as capture does not keep up; see
            `DetachedRecorder.pause`.
    """

    def __init__(
        self,
        upstream: Upstream,
        recorder: Sink,
        settings: ProxySettings | None = None,
        *,
        caller: Callable[[Scope], str] = lambda _: "",
        ended: Ended = lambda _scope, _call: None,
        claims: Claims | None = None,
        conversations: Conversations | None = None,
        pause: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._recorder = recorder
        self._caller = caller
        self._claims = claims
        found = conversations or Conversations(self._abandoned)
        settings = settings or ProxySettings()
        extras = Extras(upstream.url, exact=settings.exact)
        self._services = Services(upstream, recorder, settings, found, ended, extras, pause)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Answer a request whose body has been read."""
        path = scope["path"]
        request = ProxyRequest.read(path, body) if path in (CHAT, TEXT) and scope["method"] == "POST" else None
        services = self._services
        sent = http.for_upstream(scope["headers"], services.settings.key, pass_key=services.settings.pass_key)
        try:
            if request is None:
                await self._pass(scope, receive, send, body, sent)
                return
            trace_id, thread_id = _names(scope["headers"])
            caller = self._caller(scope)
            if trace_id and self._claims is not None and trace_id not in services.conversations:
                await self._claims.check(trace_id, caller)
            asked = services.conversations.begin(
                caller, request.model, request.messages, trace_id=trace_id, thread_id=thread_id
            )
        except GatewayError as error:
            await send_error(send, error)
            return
        await PolicyCall(services, scope, send, request, asked, sent).run(receive)

    async def close(self) -> None:
        """Close the connections to the policy server."""
        await self._services.upstream.close()

    async def _pass(self, scope: Scope, receive: Receive, send: Send, body: bytes, headers: http.RawHeaders) -> None:
        """Pass on what is not captured: other paths, and bodies that only the policy server can say the fault of."""
        exchange = Exchange(send, kept=0)
        upstream = self._services.upstream
        try:
            async with Watch(receive):
                response = await upstream.ask(scope["method"], path_of(scope), headers, body)
                try:
                    await exchange.take(response)
                finally:
                    upstream.done(response)
                await exchange.finish()
        except ClientGoneError:
            logger.info("the client went away before it had its answer from %s", scope["path"])
        except GatewayError as error:
            await exchange.fail(error)

    def _abandoned(self, conversation: Conversation) -> None:
        why = "the policy asked for tools, and no further call of the conversation came"
        self._recorder.put(TraceEnded(conversation.trace_id, TraceStatus.INTERRUPTED, error=why))


def path_of(scope: Scope) -> str:
    """Return a request's path and query as they came."""
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope.get("query_string") or b""
    return f"{path}?{query.decode('latin-1')}" if query else path


def _names(headers: http.RawHeaders) -> tuple[str, str]:
    """Return the trace and the conversation that a client names, empty where it does not.

    Raises:
        GatewayError: One of them cannot be used.
    """
    trace_id, thread_id = http.one(headers, http.TRACE).lower().replace("-", ""), http.one(headers, http.THREAD)
    if trace_id and not _TRACE_ID.fullmatch(trace_id):
        raise GatewayError(
            "the header x-toolorch-trace must be a UUID, such as uuid.uuid4().hex, that all calls of one run share",
            param=http.TRACE.decode(),
        )
    if len(thread_id) > _THREAD_LENGTH:
        raise GatewayError(
            f"the header x-toolorch-thread must have {_THREAD_LENGTH} characters at most, got {len(thread_id)}",
            param=http.THREAD.decode(),
        )
    return trace_id, thread_id
