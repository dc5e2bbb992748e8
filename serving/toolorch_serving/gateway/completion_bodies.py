"""OpenAI's chat completions for orchestrators: what is taken from a request, and the bodies of answers."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolorch_integrations.budget import Budget
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter
from toolorch_serving.gateway.errors import GatewayError

SAMPLING = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
)
"""Fields that go to the policy as they are."""
_WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "reasoning_effort",
        "verbosity",
    }
)
"""Fields of OpenAI's that say nothing to an orchestrator, and are taken as clients send them on their own."""
_FIXED = {
    "tools": "it has its own; `changes` hides or renames them",
    "tool_choice": "it chooses by itself; `changes` hides what it must not use",
    "functions": "it has its own tools",
    "function_call": "it chooses by itself",
    "response_format": "it answers in text",
    "logprobs": "they stand in the trace: GET /v1/traces/{trace_id}",
    "top_logprobs": "the policy's stand in the trace: GET /v1/traces/{trace_id}",
    "audio": "it answers in text",
    "modalities": "it answers in text",
    "web_search_options": "searching is one of its tools",
}
"""Fields of OpenAI's that an orchestrator cannot honour, and why."""


Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message in OpenAI's format."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The content in one piece."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """Body of POST /v1/chat/completions for an orchestrator: OpenAI's fields, and those of an orchestrator.

    Attributes:
        preferences: What the caller cares about.
        budget: Limits of the run.
        changes: What is hidden, renamed, re-priced or shortlisted in the catalogue.
        thread_id: A conversation that an earlier answer named. The gateway remembers it: of `messages` only those
            after the last of the assistant's are taken.
        decisions: By call id, true or false for each of the `confirmations` that the conversation waits for; `messages`
            may be empty then.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    preferences: Preferences | None = None
    budget: Budget | None = None
    changes: CatalogFilter | None = None
    thread_id: str = ""
    decisions: dict[str, bool] | None = None

    def check(self) -> None:
        """Refuse what an orchestrator cannot honour, and what nobody knows.

        Raises:
            GatewayError: A field asks for it.
        """
        for field, value in (self.model_extra or {}).items():
            if field in _WITHOUT_EFFECT or value in (None, False, [], {}, "auto", "none", 0):
                continue
            if field not in _FIXED:
                near = difflib.get_close_matches(field, type(self).model_fields, 1)
                fix = f"did you mean {near[0]!r}?" if near else "leave it out."
                raise GatewayError(
                    f"An orchestrator does not know {field!r}: {fix}", param=field, code="unknown_parameter"
                )
            raise GatewayError(
                f"{self.model!r} is an orchestrator, for which {field} cannot be given: {_FIXED[field]}. Leave it out.",
                param=field,
                code="unsupported_parameter",
            )

    def sampling(self) -> dict[str, Any]:
        """Return the parameters for the policy."""
        given = {name: getattr(self, name) for name in SAMPLING}
        given["max_tokens"] = given.pop("max_completion_tokens") or given["max_tokens"]
        return {name: value for name, value in given.items() if value is not None}

    def conversation(self) -> list[dict[str, str]]:
        """Return what users and assistants said; the words of a system message open the first user message.

        The policy has a system message of its own, and chat templates allow one. Calls and results of tools are left
        out: they are another model's.
        """
        system = "\n\n".join(m.text for m in self.messages if m.role in ("system", "developer") and m.text)
        said = [
            {"role": m.role, "content": m.text}
            for m in self.messages
            if m.role == "user" or (m.role == "assistant" and m.text)
        ]
        first = next((message for message in said if message["role"] == "user"), None)
        if system and first is not None:
            first["content"] = f"{system}\n\n{first['content']}"
        return said


def answer_text(ended: Mapping[str, Any]) -> str:
    """Return what any client shows: the answer, or what a person is asked."""
    if not ended["confirmations"]:
        return str(ended["answer"])
    asked = "\n".join(
        f"- {item['tool']} {json.dumps(item['arguments'], ensure_ascii=False)} (call {item['call_id']})"
        for item in ended["confirmations"]
    )
    return f"A person must decide before anything is done:\n{asked}"


def finish_reason(ended: Mapping[str, Any]) -> str:
    """Return OpenAI's word for how a run ended."""
    return "length" if ended["status"] == "budget" else "stop"


def usage(ended: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger as OpenAI's usage, tokens of specialists included, with money and time beside it."""
    ledger = ended["ledger"]
    return {
        "prompt_tokens": ledger["input_tokens"],
        "completion_tokens": ledger["output_tokens"],
        "total_tokens": ledger["input_tokens"] + ledger["output_tokens"],
        "ledger": {name: ledger[name] for name in ("dollars", "seconds", "turns", "calls")},
    }


def own_fields(ended: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer holds besides OpenAI's fields."""
    return {name: ended[name] for name in ("trace_id", "thread_id", "status", "policy_version", "confirmations")}


def completion(ended: Mapping[str, Any], model: str, created: int) -> dict[str, Any]:
    """Return the body of an answer that is not streamed."""
    message = {"role": "assistant", "content": answer_text(ended), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(ended)}
    return {
        "id": f"chatcmpl-{ended['trace_id']}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage(ended),
        **own_fields(ended),
    }


class Chunks:
    """The chunks of one streamed answer.

    Args:
        trace_id: Of the run.
        model: The orchestrator's name.
        created: Epoch seconds.
        with_usage: Whether the client asked for usage, which stands in a chunk of its own and is null in all others.
    """

    def __init__(self, trace_id: str, model: str, created: int, with_usage: bool) -> None:
        self._head = {
            "id": f"chatcmpl-{trace_id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self.with_usage = with_usage

    def delta(self, delta: Mapping[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
        """Return a chunk with a part of the message."""
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        nothing = {"usage": None} if self.with_usage else {}
        return {**self._head, "choices": [choice], **nothing, **fields}

    def usage(self, ended: Mapping[str, Any]) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return {**self._head, "choices": [], "usage": usage(ended)}
