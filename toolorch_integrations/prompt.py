"""The `chat` rendering: what the policy and the specialists are told, in one place for both faces.

Messages are dictionaries in OpenAI's chat format. The same request must give the same messages, and so the same
tokens, whichever framework asks: nothing here knows a framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolorch_integrations.budget import Budget
from toolorch_integrations.entry import Specialist
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogView

Message = Mapping[str, Any]
"""A message in OpenAI's chat format: `role`, `content`, and where they apply `tool_calls`, `tool_call_id`, `name`."""

ORCHESTRATOR_PROMPT = (
    "Solve the request step by step. At each step call tools, hand the step to a specialist, or answer."
)

OBSERVER = "orchestrator"
"""`name` of a user message that the orchestrator wrote itself, to say that a reply was no step."""


def system_prompt(app_prompt: str | None, preferences: Preferences, budget: Budget, view: CatalogView) -> str:
    """Return the policy's system message: the app's own words, the task, preferences and budget.

    It is the same at every step of a run, so that each step's prompt extends the one before.
    """
    parts = [app_prompt or "", ORCHESTRATOR_PROMPT, preferences.sentence(view.aliases), budget.sentence()]
    return "\n\n".join(part for part in parts if part)


def specialist_messages(
    specialist: Specialist, conversation: Sequence[Message], task: str | None = None
) -> list[dict[str, Any]]:
    """Return what a specialist is asked.

    Args:
        specialist: Who is asked.
        conversation: The run's messages so far, the policy's call of the specialist last or left out.
        task: What the policy wrote, or None to hand over the request.

    Returns:
        A system message where the specialist has one, the earlier exchange of the conversation as plain text
        messages, and a user message with the task and the results of this request's calls.
    """
    start = request_index(conversation)
    request = text_of(conversation[start]) if conversation else ""
    messages: list[dict[str, Any]] = []
    if specialist.system_prompt:
        messages.append({"role": "system", "content": specialist.system_prompt})
    if specialist.context == "task":
        return [*messages, {"role": "user", "content": task or request}]
    messages += [
        {"role": message["role"], "content": text_of(message)}
        for message in conversation[:start]
        if message["role"] in ("user", "assistant") and text_of(message)
    ]
    parts = [request]
    results = results_of(conversation[start:])
    if results:
        parts.append("Results so far:\n" + "\n".join(f"[{name}] {text}" for name, text in results))
    if task:
        parts.append(f"Your task: {task}")
    return [*messages, {"role": "user", "content": "\n\n".join(part for part in parts if part)}]


def results_of(conversation: Sequence[Message]) -> list[tuple[str, str]]:
    """Return name and text of each tool result of a conversation, in order."""
    names = {
        call["id"]: call["function"]["name"] for message in conversation for call in message.get("tool_calls") or ()
    }
    return [
        (message.get("name") or names.get(message.get("tool_call_id"), "tool"), text_of(message))
        for message in conversation
        if message["role"] == "tool"
    ]


def request_of(conversation: Sequence[Message]) -> str:
    """Return the text of the newest user message: the request that a run works on."""
    return text_of(conversation[request_index(conversation)]) if conversation else ""


def text_of(message: Message) -> str:
    """Return a message's text, of plain content or of content blocks."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") if isinstance(block, Mapping) else str(block) for block in content or ())


def most_tokens(conversation: Sequence[Message]) -> int:
    """Return a number of tokens that a prompt made from a conversation does not exceed.

    No tokenizer makes more tokens of a text than it has bytes. What a conversation costs is bounded by this; what it
    did cost is counted by the endpoint.
    """
    texts = [
        text_of(message) + "".join(call["function"]["arguments"] for call in message.get("tool_calls") or ())
        for message in conversation
    ]
    return sum(len(text.encode("utf-8", "replace")) + 100 for text in texts)


def request_index(conversation: Sequence[Message]) -> int:
    """Return where the newest user message stands, the orchestrator's own left out; 0 where there is none."""
    for index in range(len(conversation) - 1, -1, -1):
        if conversation[index]["role"] == "user" and conversation[index].get("name") != OBSERVER:
            return index
    return 0
