"""The embedded engine's HTTP face: the parts of vLLM's server that orchestrators, capture and promotion use."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from toolorch_serving.embedded.adapters import adapter_routes
from toolorch_serving.embedded.answer import AnswerReader
from toolorch_serving.embedded.completion import Completion
from toolorch_serving.embedded.messages import render
from toolorch_serving.embedded.protocol import ChatRequest, RequestError
from toolorch_serving.embedded.running import Running, Served
from toolorch_serving.embedded.token_routes import token_routes
from toolorch_serving.embedded.weight_routes import weight_routes


def create_app(served: Served) -> FastAPI:
    """Return the app that serves a policy; the engine is started and stopped with it."""
    engine, name = served.engine, served.name

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="toolorch embedded engine", lifespan=lifespan)
    app.include_router(adapter_routes(engine, name))
    app.include_router(token_routes(served))
    app.include_router(weight_routes(engine))

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(HTTPException)
    async def refuse_http(_: Request, error: HTTPException) -> JSONResponse:
        body = RequestError(str(error.detail), None, status=error.status_code, kind="HTTPException").body
        return JSONResponse(body, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        parameter = ".".join(str(part) for part in first["loc"] if part != "body") or None
        return await refuse(_, RequestError(f"{parameter or 'body'}: {first['msg']}", parameter))

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        def entry(model: str, parent: str | None) -> dict[str, Any]:
            return {
                "id": model,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "embedded",  # not a gateway, whose orchestrators are "toolorch"
                "root": served.root,
                "parent": parent,
                "max_model_len": served.longest,
            }

        return {
            "object": "list",
            "data": [entry(name, None), *(entry(adapter, name) for adapter in engine.model.adapters)],
        }

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, http: Request) -> JSONResponse | StreamingResponse:
        adapter = served.adapter(body.model)
        body.check()
        prompt = await asyncio.to_thread(render, served.tokenizer, body)
        sampling = body.sampling(len(prompt), served.longest)
        # The tags of a call may be special tokens.
        skip_special = body.skip_special_tokens and not body.parses_calls
        running = served.submit(prompt, sampling, adapter, skip_special=skip_special)
        completion = Completion(body, served.tokenizer, running, prompt, reader_of(body, served))
        if body.stream:
            return StreamingResponse(_events(completion, running), media_type="text/event-stream")
        return JSONResponse(completion.whole(await running.all_steps(http)))

    return app


def reader_of(body: ChatRequest, served: Served) -> AnswerReader:
    """Return what reads the answer to a chat request."""
    thinks = served.reasoning and body.chat_template_kwargs.get("enable_thinking", True)
    return AnswerReader(tools=body.parses_calls, reasoning=thinks)


async def _events(completion: Completion, running: Running) -> AsyncIterator[str]:
    first = True
    try:
        async with aclosing(running.steps()) as steps:  # type: ignore[type-var]
            async for step in steps:
                if first:  # Only now is it known which version answers.
                    yield completion.first()
                    first = False
                event = completion.next(step)
                if event is not None:
                    yield event
    except RequestError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
        yield "data: [DONE]\n\n"
        return
    yield completion.end()
