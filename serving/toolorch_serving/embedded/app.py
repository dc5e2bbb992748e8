"""The embedded engine's HTTP face: the parts of vLLM's server that orchestrators, capture and promotion use."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import PreTrainedTokenizerBase

from toolorch_serving.embedded import engine as engines
from toolorch_serving.embedded.adapters import adapter_routes
from toolorch_serving.embedded.answer import AnswerReader
from toolorch_serving.embedded.completion import Completion
from toolorch_serving.embedded.protocol import ChatRequest, RequestError, template_messages

Delivery = engines.Step | Exception


def create_app(
    engine: engines.Engine,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    root: str,
    longest: int,
    defaults: dict[str, Any],
    reasoning: bool,
) -> FastAPI:
    """Return the app.

    Args:
        engine: The engine; started and stopped with the app.
        tokenizer: The policy's, with its chat template.
        name: Name under which the policy is served.
        root: Where the policy was loaded from.
        longest: Most tokens of prompt and answer together.
        defaults: Sampling settings that the model comes with.
        reasoning: Whether answers begin with reasoning (`--reasoning-parser qwen3`).
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="toolorch embedded engine", lifespan=lifespan)
    app.include_router(adapter_routes(engine, name))

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
                "owned_by": "toolorch",
                "root": root,
                "parent": parent,
                "max_model_len": longest,
            }

        return {
            "object": "list",
            "data": [entry(name, None), *(entry(adapter, name) for adapter in engine.model.adapters)],
        }

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, http: Request) -> JSONResponse | StreamingResponse:
        adapter = _adapter(body.model, name, engine.model.adapters)
        body.check()
        prompt = await asyncio.to_thread(_prompt, tokenizer, body)
        sampling = body.sampling(len(prompt), longest, defaults)
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        request = engines.Request(
            prompt,
            sampling,
            lambda item: loop.call_soon_threadsafe(arrived.put_nowait, item),
            adapter=adapter,
            # The tags of a call may be special tokens.
            skip_special=body.skip_special_tokens and not body.parses_calls,
        )
        thinks = reasoning and body.chat_template_kwargs.get("enable_thinking", True)
        reader = AnswerReader(tools=body.parses_calls, reasoning=thinks)
        completion = Completion(body, tokenizer, adapter or name, prompt, reader)
        engine.submit(request)
        if body.stream:
            return StreamingResponse(_events(completion, request, arrived), media_type="text/event-stream")
        steps = await _all_steps(request, arrived, http)
        return JSONResponse(completion.whole(steps))

    return app


def _adapter(model: str | None, name: str, adapters: tuple[str, ...]) -> str | None:
    if model in (None, name):
        return None
    if model in adapters:
        return model
    raise RequestError(
        f"the model `{model}` does not exist; served here: {', '.join((name, *adapters))}",
        "model",
        status=404,
        kind="NotFoundError",
    )


def _prompt(tokenizer: PreTrainedTokenizerBase, body: ChatRequest) -> list[int]:
    messages = template_messages(body.messages)
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=[tool.rendered() for tool in body.tools] if body.tools else None,
            tokenize=False,
            add_generation_prompt=body.add_generation_prompt,
            **body.chat_template_kwargs,
        )
    except Exception as error:
        # Templates raise errors of their own for conversations that they do not take.
        raise RequestError(f"the model's chat template refuses the messages: {error}", "messages") from error
    return list(tokenizer.encode(text, add_special_tokens=False))


async def _events(
    completion: Completion, request: engines.Request, arrived: asyncio.Queue[Delivery]
) -> AsyncIterator[str]:
    try:
        yield completion.first()
        while True:
            item = await arrived.get()
            if isinstance(item, Exception):
                yield f"data: {json.dumps(_failure(item).body)}\n\n"
                yield "data: [DONE]\n\n"
                return
            event = completion.next(item)
            if event is not None:
                yield event
            if item.finish is not None:
                break
        yield completion.end()
    finally:
        # Reached as well when the client has gone: the row leaves the batch.
        request.cancelled = True


async def _all_steps(request: engines.Request, arrived: asyncio.Queue[Delivery], http: Request) -> list[engines.Step]:
    async def client_gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass
        arrived.put_nowait(HTTPException(499, "the client closed the connection"))

    watch = asyncio.create_task(client_gone())
    steps: list[engines.Step] = []
    try:
        while not steps or steps[-1].finish is None:
            item = await arrived.get()
            if isinstance(item, HTTPException):
                raise item
            if isinstance(item, Exception):
                raise _failure(item)
            steps.append(item)
    finally:
        watch.cancel()
        request.cancelled = True
    return steps


def _failure(error: Exception) -> RequestError:
    return RequestError(
        f"the engine failed: {type(error).__name__}: {error}", None, status=500, kind="InternalServerError"
    )
