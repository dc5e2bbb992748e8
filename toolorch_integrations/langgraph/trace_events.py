"""LangChain's runs and results as capture's events; called on the recorder's thread, away from the app's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from toolorch_integrations.entry import Price
from toolorch_integrations.events import CallEnded, PolicyCalled, TraceStatus, sampling_of
from toolorch_integrations.langgraph.messages import conversation_of, to_openai
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.prompt import request_of


@dataclass
class OpenTrace:
    """A root run that is under way."""

    id: str
    root: UUID
    runs: set[UUID] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    status: TraceStatus | None = None
    error: str = ""
    orchestrated: bool = False
    """An orchestrator works in it: model calls that it does not make are not the policy's."""
    annotated: bool = False


@dataclass(slots=True)
class PendingCall:
    """A model or tool call that has begun."""

    trace: OpenTrace
    started: float
    clock: float
    subject: Any
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]
    price: Price | None = None
    """What an orchestrator pays for a model call, where its model does not say; None: no orchestrator made it."""
    is_policy: bool = True


def policy_called(pending: PendingCall, response: LLMResult, seconds: float) -> PolicyCalled:
    """Return a model call that ended."""
    generation = response.generations[0][0]
    message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
    assert isinstance(message, AIMessage)
    metadata = message.response_metadata
    logprobs = (metadata.get("logprobs") or {}).get("content")
    usage: Mapping[str, Any] = message.usage_metadata or {}
    tokens = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    token_ids = metadata.get("token_ids")
    return PolicyCalled(
        trace_id=pending.trace.id,
        messages=conversation_of(pending.subject),
        reply=to_openai(message),
        prompt_token_ids=metadata.get("prompt_token_ids"),
        token_ids=token_ids,
        logprobs=[token["logprob"] for token in logprobs] if logprobs and token_ids is not None else None,
        model=metadata.get("model_name") or pending.metadata.get("ls_model_name") or "",
        response_id=metadata.get("id") or "",
        sampling=sampling_of(pending.options),
        logprobs_mode=metadata.get("logprobs_mode") or "",
        tools=pending.options.get("tools"),
        finish_reason=metadata.get("finish_reason") or "",
        usage={"prompt_tokens": tokens[0], "completion_tokens": tokens[1], **_held(metadata)},
        started=pending.started,
        seconds=seconds,
        dollars=metadata.get("dollars", (pending.price or Price()).dollars(*tokens)),
        agent=pending.metadata.get("lc_agent_name") or "",
        is_policy=pending.is_policy,
        invalid_tool_calls=[dict(call) for call in message.invalid_tool_calls],
    )


def policy_failed(pending: PendingCall, error: str, seconds: float) -> PolicyCalled:
    """Return a model call that failed."""
    return PolicyCalled(
        trace_id=pending.trace.id,
        messages=conversation_of(pending.subject),
        model=pending.metadata.get("ls_model_name") or "",
        started=pending.started,
        seconds=seconds,
        is_policy=pending.is_policy,
        status=CallStatus.ERROR,
        error=error,
    )


def tool_called(pending: PendingCall, output: Any, status: CallStatus, seconds: float) -> Iterable[CallEnded]:
    """Yield a tool call that ended, or the calls that a specialist made for it."""
    message = output if isinstance(output, ToolMessage) else None
    artifact = message.artifact if message is not None else None
    call_id = pending.options["call_id"] or (message.tool_call_id if message is not None else "")
    if message is not None and message.status == "error":
        status = CallStatus.ERROR
    text = message.text if message is not None else str(output)
    if isinstance(artifact, Mapping) and artifact.get("calls"):
        calls = [Call.from_dict(call) for call in artifact["calls"]]
    else:
        calls = [Call(CallKind.TOOL, pending.options["name"], status, seconds=seconds)]
    for call in calls:
        call.call_id = call_id
        if call.status is not CallStatus.OK:
            call.error = call.error or text
        yield CallEnded(pending.trace.id, call, pending.subject, text, pending.started)


def request_in(inputs: Any) -> str:
    """Return the user's words in the input of a root run, whatever form the app gives it."""
    messages = inputs.get("messages") if isinstance(inputs, Mapping) else None
    if not isinstance(messages, list):
        return inputs if isinstance(inputs, str) else ""
    last = messages[-1] if messages else ""
    if isinstance(last, BaseMessage):
        return request_of(conversation_of([m for m in messages if isinstance(m, BaseMessage)]))
    if isinstance(last, tuple):
        return str(last[-1])
    return str(last.get("content", "")) if isinstance(last, Mapping) else str(last)


def answer_of(outputs: Any) -> str:
    """Return the answer in the output of a root run, or an empty text."""
    messages = outputs.get("messages") if isinstance(outputs, Mapping) else None
    last = messages[-1] if isinstance(messages, list) and messages else outputs
    return last.text if isinstance(last, BaseMessage) else last if isinstance(last, str) else ""


def _held(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return how many ids of the prompt were held, where the policy is sent token ids."""
    return {} if metadata.get("held_tokens") is None else {"held_tokens": metadata["held_tokens"]}


def size_of(response: LLMResult) -> int:
    """Return roughly how many bytes a reply keeps alive while it waits."""
    generation = response.generations[0][0]
    metadata = generation.message.response_metadata if isinstance(generation, ChatGeneration) else {}
    ids = len(metadata.get("prompt_token_ids") or ()) + len(metadata.get("token_ids") or ())
    return 2000 + 40 * ids
