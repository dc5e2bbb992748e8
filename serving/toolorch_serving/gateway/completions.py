"""POST /v1/chat/completions for orchestrators, as OpenAI's clients know it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from sse_starlette import ServerSentEvent

from toolorch_serving.gateway.accounting import counted, permit_of, runner_of, within_allowance
from toolorch_serving.gateway.answer import ClientGoneError
from toolorch_serving.gateway.completion_bodies import (
    Chunks,
    CompletionRequest,
    answer_text,
    completion,
    finish_reason,
    own_fields,
)
from toolorch_serving.gateway.errors import ErrorBody
from toolorch_serving.gateway.keys import Caller, caller
from toolorch_serving.gateway.readable import line
from toolorch_serving.gateway.runner import RunRequest, RunStream
from toolorch_serving.gateway.sse import RunResponse, event, finish, to_json
from toolorch_serving.gateway.state import GatewayState


def completion_routes(state: GatewayState) -> APIRouter:
    """Return the route by which OpenAI's clients ask an orchestrator."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/v1/chat/completions",
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "The answer, whole or as a stream"},
            400: {"model": ErrorBody},
            502: {"model": ErrorBody},
        },
    )
    async def complete(
        body: CompletionRequest, request: Request, who: Annotated[Caller, Depends(caller("chat"))]
    ) -> Response:
        """Ask an orchestrator, or the policy server: `model` says which."""
        body.check()
        runner = runner_of(state, body.model, who)
        permit = permit_of(state, request, who)
        wanted = RunRequest(
            messages=body.conversation(),
            thread_id=body.thread_id,
            owner=who.owner,
            preferences=body.preferences,
            budget=within_allowance(runner.options.budget, body.budget, permit),
            changes=body.changes,
            sampling=body.sampling(),
            decisions=body.decisions,
        )
        run = counted(state, runner, wanted, permit)
        if not body.stream:
            async with run as stream:
                return _answer(await finish(stream, request), body.model)
        stream = await run.__aenter__()  # what cannot be served is refused before the first byte
        options = body.stream_options
        chunks = Chunks(stream.trace_id, body.model, int(time.time()), options is not None and options.include_usage)

        async def events() -> AsyncIterator[ServerSentEvent]:
            async for item in _chunks(stream, chunks):
                yield event(item)
            yield ServerSentEvent(data="[DONE]", sep="\n")

        return RunResponse(state, run, events())

    return router


def _answer(ended: dict[str, Any] | None, model: str) -> Response:
    if ended is None:
        return Response(status_code=ClientGoneError.status)
    if "error" in ended:
        error = dict(ended["error"])
        status = error.pop("status")
        return _json({"error": error, **own_fields(ended)}, status)
    return _json(completion(ended, model, int(time.time())))


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(body), status, media_type="application/json")


async def _chunks(stream: RunStream, chunks: Chunks) -> AsyncIterator[dict[str, Any]]:
    yield chunks.delta({"role": "assistant", "content": ""}, trace_id=stream.trace_id, thread_id=stream.thread_id)
    async for item in stream:
        if item["type"] != "ended":
            yield chunks.delta({"reasoning_content": line(item) + "\n"}, toolorch=item)
        elif "error" in item:
            yield {"error": item["error"], **own_fields(item)}
        else:
            yield chunks.delta({"content": answer_text(item)})
            yield chunks.delta({}, finish_reason(item), **own_fields(item))
            if chunks.with_usage:
                yield chunks.usage(item)
