"""Tokens in, tokens out, as vLLM's server does it: render a chat, generate from ids, read what the ids mean.

Completions take a prompt of ids as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, field_validator
from transformers import PreTrainedTokenizerBase

from toolorch_serving.embedded.answer import AnswerReader
from toolorch_serving.embedded.completion import Completion
from toolorch_serving.embedded.messages import render
from toolorch_serving.embedded.protocol import ChatRequest, CountingRequest, RequestError
from toolorch_serving.embedded.request import Finish, Step
from toolorch_serving.embedded.running import Running, Served
from toolorch_serving.embedded.sampling import Sampled

_INCLUDE_STOP = "include_stop_str_in_output"


class CompletionRequest(CountingRequest):
    """The body of a completion request, its prompt given as ids."""

    prompt: list[int] = Field(min_length=1)
    stream: bool = False

    @field_validator("prompt", mode="before")
    @classmethod
    def _are_ids(cls, prompt: Any) -> Any:
        if isinstance(prompt, str):
            raise ValueError("the embedded engine takes a list of token ids here: send text as a chat")
        return prompt


class GenerateRequest(BaseModel):
    """Ids to go on from."""

    token_ids: list[int] = Field(min_length=1)
    sampling_params: CountingRequest
    model: str | None = None
    return_token_ids: bool | None = None
    stream: bool = False


class TokenLogprob(BaseModel):
    """How likely a sampled token was."""

    logprob: float = 0.0


class ChoiceLogprobs(BaseModel):
    """How likely the tokens of an answer were."""

    content: list[TokenLogprob] | None = None


class GeneratedChoice(BaseModel):
    """Ids that were sampled."""

    token_ids: list[int] = Field(min_length=1)
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Finish | None = None


class Generated(BaseModel):
    """What generation by ids has answered."""

    request_id: str
    choices: list[GeneratedChoice] = Field(min_length=1)


class DerenderRequest(BaseModel):
    """Sampled ids to read."""

    generate_response: Generated
    chat_request: ChatRequest
    model: str | None = None
    prompt_tokens: int = Field(0, ge=0)


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
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "ignore_eos", _INCLUDE_STOP)
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
        params = body.sampling_params
        running, steps = await _run(params, body.token_ids, "token_ids", body.model, http)
        choice = {
            "index": 0,
            "finish_reason": steps[-1].finish,
            "stop_reason": steps[-1].stop_reason,
            "token_ids": [step.sampled.token for step in steps],
            "logprobs": {"content": [_logprob(step.sampled) for step in steps]} if params.logprobs else None,
            "weight_versions": [{"version": running.version or "default", "start": 0, "end": len(steps)}],
        }
        usage = _usage(len(body.token_ids), len(steps))
        named = {"request_id": running.id, "model": running.request.adapter or served.name, "created": running.created}
        ids = body.token_ids if body.return_token_ids else None
        return JSONResponse({**named, "choices": [choice], "usage": usage, "prompt_token_ids": ids})

    @router.post("/v1/chat/completions/derender")
    async def derender(body: DerenderRequest) -> JSONResponse:
        check_ids(body.generate_response.choices[0].token_ids, "generate_response.choices.0.token_ids")
        return JSONResponse(await asyncio.to_thread(_derender, served, body))

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        check_ids(body.tokens, "tokens")
        return {"prompt": str(await asyncio.to_thread(lambda: served.tokenizer.decode(body.tokens)))}

    @router.post("/v1/completions")
    async def complete(body: CompletionRequest, http: Request) -> JSONResponse:
        if body.stream:
            raise RequestError("stream is not supported by the embedded engine for completions: leave it out", "stream")
        running, steps = await _run(body, body.prompt, "prompt", body.model, http)
        exact = body.return_token_ids
        choice = {
            "index": 0,
            "text": "".join(step.text for step in steps),
            "finish_reason": steps[-1].finish,
            "stop_reason": steps[-1].stop_reason,
            "token_ids": [step.sampled.token for step in steps] if exact else None,
            "prompt_token_ids": body.prompt if exact else None,
            "logprobs": _text_logprobs(served.tokenizer, steps) if body.logprobs else None,
        }
        head = {"id": running.id, "object": "text_completion", "created": running.created, "model": running.model}
        return JSONResponse({**head, "choices": [choice], "usage": _usage(len(body.prompt), len(steps))})

    def check_ids(ids: list[int], field: str) -> None:
        vocabulary = served.engine.model.vocabulary
        if any(not 0 <= token < vocabulary for token in ids):
            raise RequestError(f"{field}: token ids must be from 0 to {vocabulary - 1}", field)

    async def _run(
        body: CountingRequest, prompt: list[int], field: str, model: str | None, http: Request
    ) -> tuple[Running, list[Step]]:
        check_ids(prompt, field)
        adapter = served.adapter(model)
        sampling = body.sampling(len(prompt), served.longest)
        running = served.submit(prompt, sampling, adapter, skip_special=body.skip_special_tokens)
        return running, await running.all_steps(http)

    return router


@dataclass(frozen=True)
class _Name:
    model: str


def _derender(served: Served, body: DerenderRequest) -> dict[str, Any]:
    chat, choice = body.chat_request, body.generate_response.choices[0]
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    if logprobs is not None and len(logprobs) != len(choice.token_ids):
        field = "generate_response.choices.0.logprobs"
        raise RequestError(f"{field}: there are {len(logprobs)} for {len(choice.token_ids)} token ids", field)
    skip_special = chat.skip_special_tokens and not chat.parses_calls
    text = served.tokenizer.decode(choice.token_ids, skip_special_tokens=skip_special)
    sampled = [
        Sampled(token, entry.logprob)
        for token, entry in zip(choice.token_ids, logprobs or repeat(TokenLogprob()), strict=False)
    ]
    steps = [Step(one, "") for one in sampled[:-1]] + [Step(sampled[-1], str(text), choice.finish_reason or "stop")]
    thinks = served.reasoning and chat.chat_template_kwargs.get("enable_thinking", True)
    reader = AnswerReader(tools=chat.parses_calls, reasoning=thinks)
    prompt = [0] * body.prompt_tokens
    whole = Completion(chat, served.tokenizer, _Name(body.model or served.name), prompt, reader).whole(steps)
    return {**whole, "id": body.generate_response.request_id, "prompt_token_ids": None}


def _logprob(sampled: Sampled) -> dict[str, Any]:
    top = [{"token_id": token, "logprob": max(logprob, -9999.0)} for token, logprob in sampled.top]
    return {"token_id": sampled.token, "logprob": max(sampled.logprob, -9999.0), "top_logprobs": top}


def _text_logprobs(tokenizer: PreTrainedTokenizerBase, steps: list[Step]) -> dict[str, Any]:
    """Return log-probabilities as text completions have them: a list for each kind of fact."""
    tokens = [str(tokenizer.decode([step.sampled.token])) for step in steps]
    return {
        "tokens": tokens,
        "token_logprobs": [max(step.sampled.logprob, -9999.0) for step in steps],
        "top_logprobs": [
            {str(tokenizer.decode([token])): max(logprob, -9999.0) for token, logprob in step.sampled.top}
            for step in steps
        ],
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=0)),
    }


def _usage(prompt: int, sampled: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}
