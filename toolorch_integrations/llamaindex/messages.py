"""LlamaIndex messages as the core's plain messages, and the few facts that the face reads from them.

A message of the orchestrator keeps what LlamaIndex has no field for under `MARKS` in its `additional_kwargs`; all of it
is JSON-safe, so that a context can be restored in another process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.llms.openai.utils import to_openai_message_dict

from toolorch_integrations import turns
from toolorch_integrations.prompt import OBSERVER
from toolorch_integrations.turns import Kind, since_request

MARKS = "toolorch"
"""Key of `additional_kwargs`: `name` of a user or tool message, `status`, and of a tool message `error`, `final` and
`context` (what a call of the `select` rendering brought)."""

_OWN_BLOCKS = (TextBlock, ThinkingBlock, ToolCallBlock)


def to_openai(message: ChatMessage) -> dict[str, Any]:
    """Return a message in OpenAI's chat format, its reasoning included."""
    if not all(isinstance(block, _OWN_BLOCKS) for block in message.blocks):
        return dict(to_openai_message_dict(message))  # images, audio and files
    calls = calls_of(message)
    plain: dict[str, Any] = {"role": _role(message), "content": text_of(message)}
    name = _mark(message, "name")
    if name and plain["role"] == "user":
        plain["name"] = name
    if plain["role"] == "tool":
        plain["tool_call_id"] = message.additional_kwargs.get("tool_call_id") or ""
    if plain["role"] == "assistant":
        if calls:
            plain["content"] = plain["content"] or None
            plain["tool_calls"] = calls
        if reasoning := reasoning_of(message):
            plain["reasoning"] = reasoning
    return plain


def conversation_of(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return messages in OpenAI's chat format."""
    return [to_openai(message) for message in messages]


def text_of(message: ChatMessage) -> str:
    """Return a message's text, without the newlines that `ChatMessage.content` puts between blocks."""
    return "".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def reasoning_of(message: ChatMessage) -> str:
    """Return a message's reasoning, or an empty string."""
    return "".join(block.content or "" for block in message.blocks if isinstance(block, ThinkingBlock))


def calls_of(message: ChatMessage) -> list[dict[str, Any]]:
    """Return a message's calls in OpenAI's format, those that could not be read last."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if not blocks:  # as LLMs of the time before blocks leave them
        return [dict(_plain_call(call)) for call in message.additional_kwargs.get("tool_calls") or ()]
    ordered = sorted(blocks, key=lambda block: _parsed(block) is None)
    return [
        {
            "id": block.tool_call_id or "",
            "type": "function",
            "function": {"name": block.tool_name, "arguments": _arguments(block)},
        }
        for block in ordered
    ]


def readable_calls(message: ChatMessage) -> list[ToolCallBlock]:
    """Return the calls of a reply whose arguments can be read, as dictionaries."""
    return [
        block.model_copy(update={"tool_kwargs": arguments})
        for block in message.blocks
        if isinstance(block, ToolCallBlock) and (arguments := _parsed(block)) is not None
    ]


def broken_calls(message: ChatMessage) -> list[ToolCallBlock]:
    """Return the calls of a reply whose arguments cannot be read; they hold the raw text."""
    return [block for block in message.blocks if isinstance(block, ToolCallBlock) and _parsed(block) is None]


def call_block(call_id: str, name: str, arguments: str) -> ToolCallBlock:
    """Return a call as a block: with parsed arguments, or with the raw text where they cannot be read."""
    block = ToolCallBlock(tool_call_id=call_id, tool_name=name, tool_kwargs=arguments)
    parsed = _parsed(block)
    if parsed is not None:
        block.tool_kwargs = parsed
    return block


def tool_message(
    text: str,
    call_id: str,
    name: str,
    *,
    error: bool = False,
    final: bool = False,
    context: Mapping[str, Any] | None = None,
) -> ChatMessage:
    """Return the observation of a call, with what it brings to the context where it brings something."""
    marks: dict[str, Any] = {"name": name}
    if error:
        marks["error"] = True
    if final:
        marks["final"] = True
    if context:
        marks["context"] = dict(context)
    return ChatMessage(
        role=MessageRole.TOOL,
        blocks=[TextBlock(text=text)],
        additional_kwargs={"tool_call_id": call_id, MARKS: marks},
    )


def observer_message(text: str) -> ChatMessage:
    """Return a user message that the orchestrator wrote itself."""
    return ChatMessage(
        role=MessageRole.USER, blocks=[TextBlock(text=text)], additional_kwargs={MARKS: {"name": OBSERVER}}
    )


def run_messages(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Return what has happened since the newest user message, that message left out."""
    return since_request(messages, lambda m: m.role == MessageRole.USER and _mark(m, "name") != OBSERVER)


def contributions_of(messages: Sequence[ChatMessage]) -> list[Mapping[str, Any]]:
    """Return what the calls of this run brought to its context, in order."""
    found = (_mark(message, "context") for message in run_messages(messages) if message.role == MessageRole.TOOL)
    return [context for context in found if isinstance(context, Mapping)]


def final_reply(messages: Sequence[ChatMessage]) -> str | None:
    """Return the reply of a specialist that was called to answer the user, if the newest turn has one."""
    found: str | None = None
    for message in reversed(messages):
        if message.role != MessageRole.TOOL:
            break
        if _mark(message, "final") is True:
            found = text_of(message)
    return found


def failed_turns(messages: Sequence[ChatMessage]) -> int:
    """Return how many turns at the end of the run brought nothing but errors."""
    return turns.failed_turns(map(_kind, reversed(run_messages(messages))))


def _kind(message: ChatMessage) -> Kind:
    if message.role == MessageRole.ASSISTANT:
        return Kind.REPLY
    if message.role == MessageRole.TOOL and not _mark(message, "error"):
        return Kind.RESULT
    return Kind.ERROR if message.role in (MessageRole.TOOL, MessageRole.USER) else Kind.OTHER


def _parsed(block: ToolCallBlock) -> dict[str, Any] | None:
    """Return the arguments of a call, which some LLMs leave as text; None where they cannot be read."""
    arguments = block.tool_kwargs
    if isinstance(arguments, dict):
        return arguments
    if not arguments:
        return {}
    try:
        parsed = json.loads(arguments, strict=False)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _mark(message: ChatMessage, key: str) -> Any:
    marks = message.additional_kwargs.get(MARKS)
    return marks.get(key) if isinstance(marks, Mapping) else None


def _role(message: ChatMessage) -> str:
    role = message.role.value
    return "assistant" if role == "chatbot" else "user" if role == "model" else role


def _arguments(block: ToolCallBlock) -> str:
    arguments = block.tool_kwargs
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _plain_call(call: Any) -> Mapping[str, Any]:
    plain: Mapping[str, Any] = call if isinstance(call, Mapping) else call.model_dump(exclude_none=True)
    return plain
