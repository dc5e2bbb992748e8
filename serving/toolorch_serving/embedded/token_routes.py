"""Tokens in, tokens out, as vLLM's server does it: render a chat, generate from ids, read what the ids mean.

Completions take a prompt of ids as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from toolorch_serving.embedded.answer import AnswerReader
from toolorch_serving.embedded.completion import Completion
from toolorch_serving.embedded.engine import Step
from toolorch_serving.embedded.messages import render
from toolorch_serving.embedded.protocol import ChatRequest, RequestError, SamplingRequest
from toolorch_serving.embedded.running import Running, Served
from toolorch_serving.embedded.sampling import Sampled


class CompletionRequest(SamplingRequest):
    """The body of a completion request, its prompt given as ids."""

    prompt: list[int] = Field(min_length=1)
    stream: bool = False


class GenerateRequest(BaseModel):
    """Ids to go on from."""

    token_ids: list[int] = Field(min_length=1)
    sampling_params: dict[str, Any]
    model: str | None = None
    return_token_ids: bool | None = None
    stream: bool = False


class DerenderRequest(BaseModel):
    """Sampled ids to read."""

    generate_response: dict[str, Any]
    chat_request: ChatRequest
    model: str | None = None
    prompt_tokens: int = 0


class DetokenizeRequest(BaseModel):
    """Ids whose text is asked for."""

    tokens: list[int]
    model: str | None = None


def token_routes(served: Served) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/v1/chat/completions/render")
    async def render_chat(body: ChatRequest) -> dict[str, Any]:
        served.adapter(body.model)
        body.check()
        prompt = await asyncio.to_thread(render, served.tokenizer, body)
        body.sampling(len(prompt), served.longest)  # Refuses what is out of range.
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "ignore_eos")
        most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        sampling = {name: value for name in names if (value := getattr(body, name)) is not None}
        sampling["max_tokens"] = served.longest - len(prompt) if most is None else most
        sampling["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
        sampling["skip_special_tokens"] = body.skip_special_tokens and not body.parses_calls
        return {"token_ids": prompt, "sampling_params": sampling, "model": body.model, "stream": False}

    @router.post("/inference/v1/generate")
    async def generate(body: GenerateRequest, http: Request) -> JSONResponse:
        if body.stream:
            raise RequestError("stream is not supported by the embedded engine for ids: leave it out", "stream")
        wanted = body.sampling_params.get("logprobs")
        params = {**body.sampling_params, "logprobs": wanted is not None, "top_logprobs": wanted or None}
        running, steps = await _run(SamplingRequest(**params), body.token_ids, body.model, http)
        choice = {
            "index": 0,
            "finish_reason": steps[-1].finish,
            "stop_reason": steps[-1].stop_reason,
            "token_ids": [step.sampled.token for step in steps],
            "logprobs": None if wanted is None else {"content": [_logprob(step.sampled) for step in steps]},
            "weight_versions": [{"version": running.version or "default", "start": 0, "end": len(steps)}],
        }
        usage = _usage(len(body.token_ids), len(steps))
        named = {"request_id": running.id, "model": running.request.adapter or served.name, "created": running.created}
        ids = body.token_ids if body.return_token_ids else None
        return JSONResponse({**named, "choices": [choice], "usage": usage, "prompt_token_ids": ids})

    @router.post("/v1/chat/completions/derender")
    async def derender(body: DerenderRequest) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(_derender, served, body))

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        check_ids(body.tokens, "tokens")
        return {"prompt": str(await asyncio.to_thread(lambda: served.tokenizer.decode(body.tokens)))}

    @router.post("/v1/completions")
    async def complete(body: CompletionRequest, http: Request) -> JSONResponse:
        if body.stream:
            raise RequestError("stream is not supported by the embedded engine for completions: leave it out", "stream")
        running, steps = await _run(body, body.prompt, body.model, http)
        exact = body.return_token_ids
        choice = {
            "index": 0,
            "text": "".join(step.text for step in steps),
            "finish_reason": steps[-1].finish,
            "stop_reason": steps[-1].stop_reason,
            "token_ids": [step.sampled.token for step in steps] if exact else None,
            "prompt_token_ids": body.prompt if exact else None,
            "logprobs": {"token_logprobs": [step.sampled.logprob for step in steps]} if body.logprobs else None,
        }
        head = {"id": running.id, "object": "text_completion", "created": running.created, "model": running.model}
        return JSONResponse({**head, "choices": [choice], "usage": _usage(len(body.prompt), len(steps))})

    def check_ids(ids: list[int], field: str) -> None:
        vocabulary = served.engine.model.vocabulary
        if any(not 0 <= token < vocabulary for token in ids):
            raise RequestError(f"token ids must be from 0 to {vocabulary - 1}", field)

    async def _run(
        body: SamplingRequest, prompt: list[int], model: str | None, http: Request
    ) -> tuple[Running, list[Step]]:
        check_ids(prompt, "prompt")
        adapter = served.adapter(model)
        sampling = body.sampling(len(prompt), served.longest)
        running = served.submit(prompt, sampling, adapter, skip_special=body.skip_special_tokens)
        return running, await running.all_steps(http)

    return router


@dataclass(frozen=True)
class _Name:
    model: str


def _derender(served: Served, body: DerenderRequest) -> dict[str, Any]:
    chat, choice = body.chat_request, body.generate_response["choices"][0]
    text = served.tokenizer.decode(
        choice["token_ids"], skip_special_tokens=chat.skip_special_tokens and not chat.parses_calls
    )
    logprobs = (choice.get("logprobs") or {}).get("content") or [{}] * len(choice["token_ids"])
    steps = [
        Step(Sampled(token, entry.get("logprob", 0.0)), "", choice.get("finish_reason") or "stop")
        for token, entry in zip(choice["token_ids"], logprobs, strict=True)
    ]
    steps[-1] = Step(steps[-1].sampled, str(text), steps[-1].finish)
    thinks = served.reasoning and chat.chat_template_kwargs.get("enable_thinking", True)
    reader = AnswerReader(tools=chat.parses_calls, reasoning=thinks)
    prompt = [0] * body.prompt_tokens
    whole = Completion(chat, served.tokenizer, _Name(body.model or served.name), prompt, reader).whole(steps)
    return {**whole, "id": body.generate_response["request_id"], "prompt_token_ids": None}


def _logprob(sampled: Sampled) -> dict[str, Any]:
    top = [{"token_id": token, "logprob": max(logprob, -9999.0)} for token, logprob in sampled.top]
    return {"token_id": sampled.token, "logprob": max(sampled.logprob, -9999.0), "top_logprobs": top}


def _usage(prompt: int, sampled: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}
