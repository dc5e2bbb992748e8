"""Taking private text out of events before anything is stored.

Token ids hold the text that they stand for, and a prompt's ids hold all earlier messages. Where a hook changes any
message of a call, the call is therefore kept without ids, unless the caller says that ids may stay.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeAlias

from toolorch_integrations.events import CallEnded, Event, Message, PolicyCalled, TraceEnded, TraceStarted
from toolorch_integrations.plain import canonical, plain

Redact: TypeAlias = Callable[[Message], "Message | None"]
"""Gets a copy of a message and returns what may be stored; None leaves only role and ids of it.

Requests, answers, arguments, results and error texts come as messages too. Metadata, preferences, the catalogue and
tool schemas do not come."""

FAILED = "[redaction failed]"
LEFT_OUT = "[redacted]"


class Redactor:
    """Applies a hook to events.

    Attributes:
        failures: How often the hook raised, or returned something else than a message.
    """

    def __init__(self, hook: Redact, *, token_ids: bool = True) -> None:
        """Take a hook.

        Args:
            hook: See `Redact`.
            token_ids: Whether the ids of redacted text are dropped too.
        """
        self._hook = hook
        self._token_ids = token_ids
        self.failures = 0

    def event(self, event: Event) -> Event:
        """Return the event as it may be stored."""
        match event:
            case TraceStarted():
                return dataclasses.replace(event, request=self._text("user", event.request))
            case TraceEnded():
                answer, error = self._text("assistant", event.answer), self._text("error", event.error)
                return dataclasses.replace(event, answer=answer, error=error)
            case CallEnded():
                return self._call(event)
            case PolicyCalled():
                return self._policy_call(event)
        return event

    def _policy_call(self, event: PolicyCalled) -> PolicyCalled:
        before = self.failures
        messages = [self._message(message) for message in event.messages]
        reply = None if event.reply is None else self._message(event.reply)
        raw_text = self._text("assistant", event.raw_text)
        invalid = [{"name": call.get("name")} for call in event.invalid_tool_calls]
        kept = dataclasses.replace(
            event,
            messages=messages,
            reply=reply,
            raw_text=raw_text,
            invalid_tool_calls=invalid,
            error=self._text("error", event.error),
        )
        pairs = [*zip(event.messages, messages, strict=True), (event.reply or {}, reply or {})]
        changed = raw_text != event.raw_text or any(canonical(old) != canonical(new) for old, new in pairs)
        if self.failures > before or (self._token_ids and changed):
            kept = dataclasses.replace(kept, prompt_token_ids=None, token_ids=None, logprobs=None)
        return kept

    def _call(self, event: CallEnded) -> CallEnded:
        call = dataclasses.replace(event.call, error=self._text("error", event.call.error))
        result = self._message({"role": "tool", "name": call.name, "content": event.result})
        arguments = event.arguments
        if arguments:
            text = arguments if isinstance(arguments, str) else json.dumps(plain(arguments))
            function = {"name": call.name, "arguments": text}
            asked = {
                "role": "assistant",
                "tool_calls": [{"id": call.call_id, "type": "function", "function": function}],
            }
            calls = self._message(asked).get("tool_calls") or [{}]
            text = str((calls[0].get("function") or {}).get("arguments", "{}"))
            try:
                arguments = json.loads(text)
            except ValueError:
                arguments = text
        return dataclasses.replace(event, call=call, result=_content(result), arguments=arguments)

    def _text(self, role: str, text: str) -> str:
        return _content(self._message({"role": role, "content": text})) if text else ""

    def _message(self, message: Message) -> Message:
        try:
            kept = self._hook(plain(message))
        except Exception:
            self.failures += 1
            return _bare(message, FAILED)
        if kept is None:
            return _bare(message, LEFT_OUT)
        if not isinstance(kept, dict):
            self.failures += 1
            return _bare(message, FAILED)
        return kept


def _bare(message: Message, content: str) -> Message:
    """Return a message without its text, still fit to hang calls on."""
    kept: dict[str, Any] = {key: message[key] for key in ("role", "tool_call_id") if message.get(key)}
    kept["content"] = content
    if message.get("tool_calls"):
        kept["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": (call.get("function") or {}).get("name"), "arguments": "{}"},
            }
            for call in message["tool_calls"]
        ]
    return kept


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "" if content is None else json.dumps(content, default=str)
