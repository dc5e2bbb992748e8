"""A test double of the gateway, for the page: it speaks the gateway's HTTP contract, and its runs come from scripts.

It proves what the page makes of events, refusals and data; it proves nothing about the gateway. The first word of a
question chooses the script (see `scripts`); every request's body is kept, so that tests see what the page sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tests import page_data as data
from toolorch_serving.web import page_routes

Event = tuple[str, dict[str, Any]]


@dataclass
class PageGateway:
    """The double's state.

    Attributes:
        keys: Roles by API key; empty: no key is asked for.
        pause: Seconds between two events of a run.
        asked: Bodies of the chat requests, in order.
        feedback: Bodies of the feedback requests.
        cancelled: Set when a client left in the middle of a run.
        traces: Headers of the list.
        versions: What /v1/versions answers; promote and roll back change it.
    """

    keys: dict[str, set[str]] = field(default_factory=dict)
    pause: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    feedback: list[dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    traces: list[dict[str, Any]] = field(default_factory=lambda: data.headers(60))
    versions: dict[str, Any] = field(default_factory=data.versions)
    url: str = ""

    def reset(self) -> None:
        """Forget all that happened, as if it were new."""
        for name, value in vars(PageGateway(url=self.url)).items():
            setattr(self, name, value)

    def app(self) -> FastAPI:
        """Return the routes of the contract that the page uses, and the page."""
        app = FastAPI()
        app.include_router(page_routes())
        app.middleware("http")(self._check_key)
        app.post("/api/chat/orchestrator/stream", response_model=None)(self._chat)
        app.get("/v1/models")(self._models)
        app.get("/v1/catalog")(lambda: {"data": data.CATALOG})
        app.get("/v1/traces", response_model=None)(self._list)
        app.get("/v1/traces/{trace_id}", response_model=None)(self._trace)
        app.get("/v1/routing")(data.routing)
        app.get("/v1/versions")(lambda: self.versions)
        app.post("/v1/versions/promote")(self._promote)
        app.post("/v1/versions/roll_back")(self._roll_back)
        app.post("/v1/feedback", status_code=201)(self._feedback)
        app.get("/health")(lambda: {"status": "ok", "store": "ok", "policy": "ok"})
        return app

    async def _check_key(self, request: Request, call_next: Any) -> Any:
        path = request.url.path
        if not self.keys or not path.startswith(("/v1/", "/api/")):
            return await call_next(request)
        roles = self.keys.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if roles is None:
            return refused(401, "The request carries no API key that this gateway knows.", "invalid_api_key")
        if path.startswith("/v1/versions/") and "admin" not in roles:
            return refused(403, "The key 'reader' lacks the role admin.", "missing_role")
        return await call_next(request)

    async def _chat(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        word = str(body["query"]).split(" ")[0].lower()
        if word == "lost" and "thread_id" in body:
            return refused(404, "thread_id is not known here: another gateway has it.", "thread_not_found")
        if word == "limit":
            return refused(429, "The key has used its 5 requests a minute.", "rate_limit", {"Retry-After": "12"})
        events = decided(body) if body.get("decisions") else SCRIPTS.get(word, answered)(body)
        return StreamingResponse(self._stream(events, hold=word == "slow"), media_type="text/event-stream")

    async def _stream(self, events: list[Event], hold: bool) -> AsyncIterator[str]:
        try:
            for name, content in events:
                yield f"event: {name}\ndata: {json.dumps(content)}\n\n"
                await asyncio.sleep(self.pause)
            while hold:  # until the client leaves
                yield ": still here\n\n"
                await asyncio.sleep(0.05)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    def _models(self) -> dict[str, Any]:
        names = {"orchestrator": "toolorch", "shop": "toolorch", "policy": "vllm"}
        return {"object": "list", "data": [{"id": name, "owned_by": owner} for name, owner in names.items()]}

    def _list(self, limit: int = 25, before: str = "", status: str = "", app: str = "", thread_id: str = "") -> Any:
        found = [
            trace
            for trace in self.traces
            if status in ("", trace["status"]) and app in ("", trace["app"]) and thread_id in ("", trace["thread_id"])
        ]
        start = int(before or 0)
        return {
            "data": found[start : start + limit],
            "next": str(start + limit) if len(found) > start + limit else None,
        }

    def _trace(self, trace_id: str) -> Any:
        known = next((trace for trace in self.traces if trace["id"] == trace_id), None)
        if known is None:
            return refused(404, f"There is no trace {trace_id!r}.", "unknown_trace")
        return known | data.trace_body()

    async def _feedback(self, request: Request) -> dict[str, str]:
        self.feedback.append(await request.json())
        return {"id": f"f{len(self.feedback)}"}

    async def _promote(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        return self._step(body["version"], "promoted", body["reason"])

    async def _roll_back(self, request: Request) -> dict[str, Any]:
        return self._step("policy-v2", "rolled back", (await request.json())["reason"])

    def _step(self, current: str, step: str, reason: str) -> dict[str, Any]:
        before = self.versions["current"]
        record = data.promotion(current, before, step, reason, time.time())
        self.versions |= {"current": current, "candidate": None, "share": 0.0}
        self.versions["history"].append(record)
        return self.versions

    @contextlib.contextmanager
    def serve(self) -> Iterator[PageGateway]:
        """Serve on a free port of loopback while the context is open."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(self.app(), log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(10)


def refused(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers)


def start(body: dict[str, Any]) -> Event:
    thread = body.get("thread_id") or "thread-1"
    return "start", {"query": body["query"], "max_rounds": 30, "thread_id": thread, "trace_id": data.TRACE_ID}


def turn(number: int, text: str) -> Event:
    return "round_start", {"round": number, "text": text, "dollars": 0.000012, "seconds": 0.21}


def call(tool: str, arguments: dict[str, Any], call_id: str, kind: str = "tool") -> Event:
    return "tool_call", {"tool": tool, "arguments": arguments, "call_id": call_id, "kind": kind}


def result(tool: str, text: str, call_id: str, kind: str = "tool", status: str = "ok", turns: int = 1) -> Event:
    cost = {"dollars": 0.0011, "seconds": 0.84, "total": {"turns": turns, "dollars": 0.0011 * turns + 0.00003}}
    return "tool_result", {"tool": tool, "result": text, "call_id": call_id, "status": status, "kind": kind, **cost}


def complete(body: dict[str, Any], status: str = "answered", confirmations: tuple[Any, ...] = ()) -> Event:
    summary = {
        "status": status,
        "rounds": 3,
        "calls": {"search": 1, "analyst": 1},
        "dollars": 0.002236,
        "seconds": 2.31,
        "input_tokens": 1840,
        "output_tokens": 212,
        "trace_id": data.TRACE_ID,
        "thread_id": body.get("thread_id") or "thread-1",
        "policy_version": "policy-v2",
        "confirmations": list(confirmations),
    }
    return "complete", {"summary": summary}


def answered(body: dict[str, Any]) -> list[Event]:
    """Two turns with a tool, then a specialist, then the answer."""
    return [
        start(body),
        turn(1, "The population changes, so I look for a recent figure before I answer."),
        call("search", {"query": "population of Tokyo 2026"}, "c1"),
        result("search", data.LONG_RESULT, "c1"),
        turn(2, "The sources differ in what they count as Tokyo. The cheap analyst can settle that."),
        call("analyst", {"task": "Which of the figures is the prefecture's, and of when?"}, "c2", "specialist"),
        result(
            "analyst",
            "The prefecture: 14.2 million in 2025. The greater area: 37 million.",
            "c2",
            "specialist",
            turns=2,
        ),
        turn(3, data.ANSWER),
        ("final_answer", {"content": data.ANSWER}),
        complete(body),
    ]


WAITING = (
    {"call_id": "d1", "tool": "delete_project", "arguments": {"id": "p-17", "name": "Old website"}},
    {"call_id": "d2", "tool": "send_email", "arguments": {"to": "team@example.org", "text": "It is gone."}},
)


def destructive(body: dict[str, Any]) -> list[Event]:
    """A run that stops before two calls which need a yes."""
    text = "The project was named by you; deleting it and telling the team needs your yes."
    return [start(body), turn(1, text), complete(body, "interrupted", WAITING)]


def decided(body: dict[str, Any]) -> list[Event]:
    """What comes of the decisions on `WAITING`."""
    events = [start(body)]
    for wait in WAITING:
        tool, call_id = wait["tool"], wait["call_id"]
        if body["decisions"][call_id]:
            events += [call(tool, wait["arguments"], call_id), result(tool, f"{tool} is done.", call_id)]
        else:
            events.append(result(tool, "A person refused this call.", call_id, status="refused"))
    return [*events, turn(2, ""), ("final_answer", {"content": "I did what you allowed."}), complete(body)]


HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b>bold</b>'


def hostile(body: dict[str, Any]) -> list[Event]:
    """HTML in every text that a server writes."""
    return [
        start(body),
        turn(1, HOSTILE),
        call(HOSTILE, {HOSTILE: HOSTILE}, "c1"),
        result(HOSTILE, HOSTILE, "c1"),
        ("final_answer", {"content": HOSTILE}),
        complete(body, HOSTILE),
    ]


def failing(body: dict[str, Any]) -> list[Event]:
    """A run that ends in an error event."""
    text = "The policy server does not answer: is the one at [policy] url running?"
    events = [start(body), turn(1, "I search."), call("search", {"query": "x"}, "c1")]
    return [*events, ("error", {"message": text, "code": "policy_unreachable", "param": None}), complete(body, "error")]


def noted(body: dict[str, Any]) -> list[Event]:
    """A fault that the run gets over."""
    events = [start(body), turn(1, "I search."), call("search", {"query": "x"}, "c1")]
    events.append(result("search", "too many requests", "c1", status="error"))
    events.append(
        ("error", {"message": "The search is limited: wait a minute.", "code": "search_limited", "param": "search"})
    )
    return [*events, turn(2, ""), ("final_answer", {"content": "I do not know."}), complete(body)]


def cut(body: dict[str, Any]) -> list[Event]:
    """A stream that ends before its run."""
    return [start(body), turn(1, "I search."), call("search", {"query": "x"}, "c1")]


SCRIPTS = {"delete": destructive, "hostile": hostile, "fail": failing, "noted": noted, "cut": cut, "slow": cut}
