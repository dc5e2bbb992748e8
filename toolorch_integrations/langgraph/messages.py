"""LangChain messages as the core's plain messages, and the few facts that the face reads from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from toolorch_integrations import turns
from toolorch_integrations.prompt import OBSERVER
from toolorch_integrations.turns import Kind, since_request

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def to_openai(message: BaseMessage) -> dict[str, Any]:
    """Return a message in OpenAI's chat format, its reasoning included."""
    plain: dict[str, Any] = {"role": _ROLES.get(message.type, message.type), "content": _content(message)}
    if isinstance(message, HumanMessage) and message.name:
        plain["name"] = message.name
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        calls = [
            _function_call(call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False))
            for call in message.tool_calls
        ]
        calls += [_function_call(call["id"], call["name"], call["args"]) for call in message.invalid_tool_calls]
        if calls:
            plain["tool_calls"] = calls
        if reasoning := message.additional_kwargs.get("reasoning_content"):
            plain["reasoning"] = reasoning
    return plain


def conversation_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages in OpenAI's chat format."""
    return [to_openai(message) for message in messages]


def run_messages(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """Return what has happened since the newest user message, that message left out."""
    return since_request(messages, _is_request)


def trailing_results(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    """Return the tool results at the end of a conversation: those of the newest turn."""
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        results.append(message)
    return results[::-1]


def failed_turns(messages: Sequence[BaseMessage]) -> int:
    """Return how many turns at the end of the run brought nothing but errors."""
    newest_first = takewhile(lambda message: not _is_request(message), reversed(messages))
    return turns.failed_turns(map(_kind, newest_first))


def _is_request(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and message.name != OBSERVER


def _kind(message: BaseMessage) -> Kind:
    if isinstance(message, AIMessage):
        return Kind.REPLY
    if isinstance(message, ToolMessage) and message.status != "error":
        return Kind.RESULT
    return Kind.ERROR if isinstance(message, (ToolMessage, HumanMessage)) else Kind.OTHER


def _content(message: BaseMessage) -> str | list[Any] | None:
    content: str | list[Any] = message.content
    if isinstance(message, AIMessage) and not content and (message.tool_calls or message.invalid_tool_calls):
        return None
    return content


def _function_call(call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    return {"id": call_id or "", "type": "function", "function": {"name": name or "", "arguments": arguments or ""}}
