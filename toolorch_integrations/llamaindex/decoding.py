"""LlamaIndex objects as capture's events; runs on the recorder's thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole, TextBlock
from llama_index.core.tools import ToolOutput
from pydantic import BaseModel

from toolorch_integrations.call_step import specialist_calls
from toolorch_integrations.entry import Price
from toolorch_integrations.events import CallEnded, PolicyCalled, sampling_of
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.llamaindex.messages import broken_calls, conversation_of, to_openai


@dataclass(slots=True)
class LlmCall:
    """A model call that has begun.

    Attributes:
        trace_id: The trace that it belongs to.
        started: Epoch seconds.
        clock: `time.perf_counter()` at the start.
        messages: The prompt: messages, or one text.
        options: What was given with the request.
        llm: The LLM; None where it is not known.
        agent: The subagent that asks.
        price: What an orchestrator pays, where the LLM does not say; None: no orchestrator makes the call.
        is_policy: Whether it is the policy's; see `PolicyCalled`.
        chunks: What a stream of an LLM that puts nothing together has brought.
    """

    trace_id: str
    started: float
    clock: float
    messages: Sequence[ChatMessage] | str
    options: Mapping[str, Any]
    llm: Any
    agent: str
    price: Price | None = None
    is_policy: bool = True
    chunks: list[Any] = field(default_factory=list)


def policy_called(call: LlmCall, response: ChatResponse | CompletionResponse | None, seconds: float) -> PolicyCalled:
    """Return a model call that ended."""
    data = _raw(call, response)
    choice: Mapping[str, Any] = next(iter(data.get("choices") or ()), {})
    logprobs = (choice.get("logprobs") or {}).get("content")
    token_ids = choice.get("token_ids")
    usage = {**(data.get("usage") or {}), "held_tokens": data.get("held_tokens")}
    tokens = {key: usage.get(key) or 0 for key in ("prompt_tokens", "completion_tokens")}
    said = response.additional_kwargs.get("dollars") if response is not None else None
    message = _message(response)
    return PolicyCalled(
        trace_id=call.trace_id,
        messages=_prompt(call),
        reply=to_openai(message),
        prompt_token_ids=data.get("prompt_token_ids") if token_ids is not None else None,
        token_ids=token_ids if data.get("prompt_token_ids") is not None else None,
        logprobs=[token["logprob"] for token in logprobs] if logprobs and token_ids is not None else None,
        model=data.get("model") or _model(call),
        response_id=data.get("id") or "",
        sampling=_sampling(call),
        logprobs_mode=getattr(call.llm, "logprobs_mode", ""),
        tools=call.options.get("tools"),
        finish_reason=choice.get("finish_reason") or "",
        usage=tokens | {key: usage[key] for key in ("held_tokens",) if usage[key] is not None},
        started=call.started,
        seconds=seconds,
        dollars=(call.price or Price()).dollars(*tokens.values()) if said is None else said,
        agent=call.agent,
        is_policy=call.is_policy,
        invalid_tool_calls=[
            {"id": block.tool_call_id, "name": block.tool_name, "args": block.tool_kwargs}
            for block in broken_calls(message)
        ],
    )


def policy_failed(call: LlmCall, error: str, seconds: float) -> PolicyCalled:
    """Return a model call that failed."""
    return PolicyCalled(
        trace_id=call.trace_id,
        messages=_prompt(call),
        model=_model(call),
        started=call.started,
        seconds=seconds,
        agent=call.agent,
        is_policy=call.is_policy,
        status=CallStatus.ERROR,
        error=error,
    )


def tool_called(
    trace_id: str, call_id: str, name: str, arguments: Any, output: Any, started: float, seconds: float
) -> Iterable[CallEnded]:
    """Return what a tool call of anybody's agent was."""
    failed = isinstance(output, BaseException) or (isinstance(output, ToolOutput) and output.is_error)
    text = f"{type(output).__name__}: {output}" if isinstance(output, BaseException) else str(output)
    status = CallStatus.ERROR if failed else CallStatus.OK
    calls = specialist_calls(output.raw_output) if isinstance(output, ToolOutput) else []
    for call in calls or [Call(CallKind.TOOL, name, status, seconds=seconds)]:
        call.call_id = call_id
        if call.status is not CallStatus.OK:
            call.error = call.error or text
        yield CallEnded(trace_id, call, arguments, text, started)


def text_in(result: Any) -> str:
    """Return the answer in what a run returned."""
    result = getattr(result, "result", result)  # a workflow's StopEvent
    message = getattr(result, "response", None)  # an agent's output
    if isinstance(message, ChatMessage):
        return message.content or ""
    if isinstance(result, ChatResponse):
        return result.message.content or ""
    if isinstance(result, CompletionResponse):
        return result.text
    return "" if result is None else str(result)


def size_of(response: Any) -> int:
    """Return roughly how many bytes a response holds in memory."""
    raw = getattr(response, "raw", None)
    if not isinstance(raw, Mapping):
        return 4000
    choice: Mapping[str, Any] = next(iter(raw.get("choices") or ()), {})
    return 2000 + 40 * (len(raw.get("prompt_token_ids") or ()) + len(choice.get("token_ids") or ()))


def _message(response: ChatResponse | CompletionResponse | None) -> ChatMessage:
    if isinstance(response, ChatResponse):
        return response.message
    text = response.text if response is not None else ""
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=text)])


def _prompt(call: LlmCall) -> list[dict[str, Any]]:
    if isinstance(call.messages, str):
        return [{"role": "user", "content": call.messages}]
    return conversation_of(call.messages)


def _model(call: LlmCall) -> str:
    model = getattr(call.llm, "model", "")
    return model if isinstance(model, str) else ""


def _sampling(call: LlmCall) -> dict[str, Any]:
    own = {name: getattr(call.llm, name, None) for name in ("temperature", "max_tokens")}
    further = getattr(call.llm, "additional_kwargs", None)
    options = {**own, **call.options, **(further if isinstance(further, Mapping) else {})}
    return sampling_of(options)


def _raw(call: LlmCall, response: ChatResponse | CompletionResponse | None) -> Mapping[str, Any]:
    """Return the endpoint's own answer as a dictionary, put together where only its chunks are known."""
    raw = response.raw if response is not None else None
    chunks = [_plain(chunk) for chunk in call.chunks]
    if not chunks or "message" in next(iter(_plain(raw).get("choices") or ()), {}):
        return _plain(raw)
    data: dict[str, Any] = {}
    ids: list[int] | None = None
    logprobs: list[Any] = []
    finish_reason = ""
    for chunk in chunks:
        data |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        for choice in chunk.get("choices") or ():
            if choice.get("token_ids") is not None:
                ids = (ids or []) + choice["token_ids"]
            logprobs += (choice.get("logprobs") or {}).get("content") or ()
            finish_reason = choice.get("finish_reason") or finish_reason
    whole = {"token_ids": ids, "logprobs": {"content": logprobs}, "finish_reason": finish_reason}
    return {**data, "choices": [whole]}


def _plain(raw: Any) -> Mapping[str, Any]:
    if isinstance(raw, BaseModel):
        dumped: Mapping[str, Any] = raw.model_dump()
        return dumped
    return raw if isinstance(raw, Mapping) else {}
