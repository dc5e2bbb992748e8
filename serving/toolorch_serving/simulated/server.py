"""The HTTP face of the simulated specialists: OpenAI's chat completions, and faults on request.

A fault is asked for by the header `x-simulated-fault` or by the model name (`coder!slow`): `down` closes the
connection without an answer, `slow` waits ten seconds, `nonsense` answers what is no chat completion, `429` and `500`
answer that status. `first-500` and the like fail only the first time that a request is seen, for retries.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from toolorch_serving.simulated.specialists import SPECIALISTS, SimulatedSpecialist
from toolorch_serving.simulated.tokens import content_of, count, count_messages

FAULT_HEADER = "x-simulated-fault"
FAULTS = ("down", "slow", "nonsense", "429", "500")
SLOW_SECONDS = 10.0


def create_app(
    specialists: Sequence[SimulatedSpecialist] = SPECIALISTS, *, seed: int = 0, latency_scale: float = 1.0
) -> FastAPI:
    """Return the server.

    Args:
        specialists: Who answers; the model name chooses among them.
        seed: Decides which answers go wrong.
        latency_scale: Factor on everybody's latency; 0 answers at once.
    """
    app = FastAPI(title="Simulated specialists")
    known = {specialist.name: specialist for specialist in specialists}
    seen: set[str] = set()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "simulated"} for name in known]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        name, _, fault = str(body.get("model", "")).partition("!")
        fault = request.headers.get(FAULT_HEADER) or fault
        if fault.startswith("first-"):
            mark = json.dumps([fault, body], sort_keys=True)
            fault = "" if mark in seen else fault.removeprefix("first-")
            seen.add(mark)
        specialist = known.get(name)
        if specialist is None:
            return _error(404, f"There is no model {name!r}; choose one of {list(known)}.")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return _error(400, "`messages` must be a list with at least one message.")
        if fault:
            return await _faulty(fault)
        prompt = next((content_of(item) for item in reversed(messages) if item.get("role") == "user"), "")
        # Some questions are answered by running a program, which must not hold up the other requests.
        text = await asyncio.to_thread(specialist.answer, prompt, seed)
        await asyncio.sleep(specialist.latency * latency_scale)
        usage = {"prompt_tokens": count_messages(messages), "completion_tokens": count(text)}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        if body.get("stream"):
            wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(
                _stream(head, text, usage if wants_usage else None), media_type="text/event-stream"
            )
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    return app


async def _stream(head: Mapping[str, Any], text: str, usage: Mapping[str, int] | None) -> AsyncIterator[str]:
    def chunk(delta: dict[str, str], reason: str | None = None) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices})}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    for word in text.split(" ")[:1] + [f" {word}" for word in text.split(" ")[1:]]:
        yield chunk({"content": word})
    yield chunk({}, "stop")
    if usage is not None:
        yield f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


async def _faulty(fault: str) -> Response:
    if fault == "down":
        return _Cut()
    if fault == "slow":
        await asyncio.sleep(SLOW_SECONDS)
        return _error(504, "Too slow, as asked.")
    if fault == "nonsense":
        return PlainTextResponse("<html>It works!</html>")
    if fault in ("429", "500"):
        return _error(int(fault), f"Failing with {fault}, as asked.")
    return _error(400, f"There is no fault {fault!r}; choose one of {list(FAULTS)}.")


class _Cut(Response):
    """Announces a body and ends without it, so that the connection is closed under the client."""

    def __init__(self) -> None:
        super().__init__(b"", headers={"content-length": "100"})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "simulated", "code": status}}, status_code=status)
