"""The gateway as an ASGI app: who is let in, where a request goes, how long it may take, and how it all ends.

Requests to /v1/chat/completions and /v1/completions do not pass through FastAPI unless `model` names an orchestrator:
their body goes to the capturing proxy as it is.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from toolorch_serving.gateway.answer import Answer, ClientGoneError, Receive, Scope, header, read_body, replayed
from toolorch_serving.gateway.errors import (
    GatewayError,
    InternalError,
    NotFoundError,
    Send,
    TimeLimitError,
    UnavailableError,
)
from toolorch_serving.gateway.keys import CALLER, Caller
from toolorch_serving.gateway.limits import PERMIT
from toolorch_serving.gateway.origin import allowing, check_origin
from toolorch_serving.gateway.routes import make_routes
from toolorch_serving.gateway.state import GatewayState

logger = logging.getLogger(__name__)

POLICY_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
SPENDING_PATHS = POLICY_PATHS | {"/api/chat/orchestrator/stream"}
"""POST requests that are admitted before their body is read: `scope[limits.PERMIT]` is the permit then, which is closed
when the request ends."""
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose bodies mean nothing, and are not read."""
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
"""A field of this name in JSON, wherever it stands: quotes within strings are escaped."""
_WHILE_DRAINING = frozenset({"/health", "/metrics"})
_REFUSAL_SECONDS = 3.0
"""How long a client may take to read that its request was ended: one that reads nothing never would."""
_CUTTING_SECONDS = 15.0
"""How long requests may take to end after they were cut off: a run has `run_stream.CLOSING_SECONDS` of it."""


class Gateway:
    """Outermost ASGI callable.

    Args:
        state: What all routes share; see `opening.open_state`.
    """

    def __init__(self, state: GatewayState) -> None:
        self.state = state
        self._routes = make_routes(state)
        self._entry = allowing(self._timed, state.config.server.cors_origins)
        self._spending = 0
        self._running: dict[Answer, asyncio.Timeout] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._routes(scope, receive, send)
        elif scope["type"] == "http":
            await self._entry(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def drain(self, seconds: float) -> None:
        """Take no more requests, wait for those that run, and cut off what still runs after some time."""
        self.state.draining = True
        if await self._idle_within(seconds):
            return
        logger.warning("%d requests still run after %g s: they are cut off", len(self._running), seconds)
        now = asyncio.get_running_loop().time()
        for deadline in self._running.values():
            if not deadline.expired():  # one that has run out is being ended already
                deadline.reschedule(now)
        if not await self._idle_within(_CUTTING_SECONDS):
            logger.error("%d requests did not end when they were cut off: they are left", len(self._running))

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _timed(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, answer = time.perf_counter(), Answer(send, scope["path"])
        try:
            failure = await self._run(scope, receive, answer)
            if failure is not None:
                await self._break_off(answer, failure)
        finally:
            self.state.metrics.request(_route(scope), answer.status, time.perf_counter() - begun)

    async def _run(self, scope: Scope, receive: Receive, answer: Answer) -> GatewayError | None:
        """Answer a request within its time; return what is still to be said to the client when that went wrong."""
        self._idle.clear()
        try:
            async with asyncio.timeout(self.state.config.server.request_seconds) as deadline:
                self._running[answer] = deadline
                self.state.metrics.running = len(self._running)
                await self._checked(scope, receive, answer)
        except ClientGoneError as error:
            answer.status = error.status
        except Exception as error:  # whatever it is, the client learns that there was something
            if deadline.expired():
                return self._late()
            logger.exception("%s %s failed", scope["method"], scope["path"])
            return InternalError.of(error)
        finally:
            self._running.pop(answer, None)
            if not self._running:
                self._idle.set()
            self.state.metrics.running = len(self._running)
        return None

    async def _break_off(self, answer: Answer, error: GatewayError) -> None:
        """Tell a client that its request was ended, if it reads; an answer without its end makes uvicorn close."""
        try:
            async with asyncio.timeout(_REFUSAL_SECONDS):
                await answer.refuse(error)
        except TimeoutError:
            logger.warning("a client reads nothing of its answer: its connection is closed (%s)", error)
            answer.status = ClientGoneError.status

    async def _checked(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        try:
            await self._dispatched(scope, receive, answer)
        except GatewayError as error:
            await answer.refuse(error)

    async def _dispatched(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        path, server = scope["path"], self.state.config.server
        if self.state.draining and path not in _WHILE_DRAINING:
            raise UnavailableError(
                "the gateway is about to end: try again, another one may answer",
                headers={"Retry-After": "1", "Connection": "close"},
            )
        if self.state.keys.is_open:
            check_origin(scope, server)
        if scope["method"] == "POST" and path in SPENDING_PATHS:
            await self._admitted(scope, receive, answer)
            return
        if scope["method"] in _BODILESS:
            await self._routes(scope, receive, answer)
            return
        self._identified(scope)
        body = await read_body(scope, receive, server.request_bytes)
        await self._routes(scope, replayed(body, receive), answer)

    def _identified(self, scope: Scope) -> Caller:
        """Return who asks, and note it in the scope: nobody's body is read who has no key."""
        caller = scope[CALLER] = self.state.keys.identify(header(scope, b"authorization"))
        return caller

    async def _admitted(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        caller = self._identified(scope)
        caller.require("chat")
        with self._place(), self.state.limits.admit(caller) as permit:
            scope[PERMIT] = permit
            body = await read_body(scope, receive, self.state.config.server.request_bytes)
            if scope["path"] in POLICY_PATHS and self._is_for_policy(body, caller, scope["path"]):
                answer.plain = True
                await self._proxy(scope, receive, answer, body)
            else:
                await self._routes(scope, replayed(body, receive), answer)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Take one of the places of requests that may spend money."""
        if self._spending >= (most := self.state.config.server.requests_at_once):
            raise UnavailableError(
                f"{most} requests run already (server.requests_at_once): try again in some seconds",
                code="overloaded",
                headers={"Retry-After": "5"},
            )
        self._spending += 1
        try:
            yield
        finally:
            self._spending -= 1

    async def _proxy(self, scope: Scope, receive: Receive, answer: Answer, body: bytes) -> None:
        if self.state.proxy is None:
            known = ", ".join(sorted(self.state.runners)) or "none"
            raise NotFoundError(
                f"there is no such model here, and no policy server ([policy] url) behind; orchestrators are {known}",
                param="model",
                code="model_not_found",
            )
        await self.state.proxy(scope, receive, answer, body)

    def _is_for_policy(self, body: bytes, caller: Caller, path: str) -> bool:
        """Whether a request goes to the policy server; the caller may ask the model that it names."""
        if not caller.models and not self._may_name_orchestrator(body):
            return True  # It is not decoded here: the proxy reads it.
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise GatewayError(f"the request's body is not JSON: {error}", code="invalid_json") from error
        if not isinstance(found, dict):
            raise GatewayError("the request's body must be a JSON object with model and messages")
        model = found.get("model")
        if caller.models:
            caller.require_model(str(model or ""))
        return path != "/v1/chat/completions" or not isinstance(model, str) or model not in self.state.runners

    def _may_name_orchestrator(self, body: bytes) -> bool:
        """Whether a field `model`, perhaps not the outermost, holds an orchestrator's name, however it is escaped."""
        return any(_string(found) in self.state.runners for found in _MODEL.findall(body))

    def _late(self) -> GatewayError:
        if self.state.draining:
            return UnavailableError("the gateway ended, and the request with it: send it again")
        seconds = self.state.config.server.request_seconds
        return TimeLimitError(
            f"the request took over {seconds:g} s: give a smaller budget, or raise server.request_seconds"
        )


def _string(text: bytes) -> str:
    try:
        return str(orjson.loads(text))
    except orjson.JSONDecodeError:
        return ""  # Half a character, for instance: no orchestrator has such a name.


def _route(scope: Any) -> str:
    """Return the pattern of a request's path."""
    if scope["path"] in SPENDING_PATHS:
        return str(scope["path"])
    return str(getattr(scope.get("route"), "path", "other"))
