"""The token ids of conversations that are under way, found again by their messages."""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from toolorch_integrations.prompt import text_of

LIMIT = 16_000_000
"""Token ids that a process holds by default, 4 bytes each: the conversations used longest ago are let go."""

_scope: ContextVar[str] = ContextVar("toolorch_conversation", default="")


@contextmanager
def conversation(name: str) -> Iterator[None]:
    """Keep the conversations of this context apart from all others.

    Conversations are told apart by their messages, tool call ids among them. Two that hold the same words from first
    to last, in different tokens, cannot be: runs of the same task at once, say, whose policy answers in plain text.
    Give each run a context of its own then.

    Args:
        name: Any text that no other run has, a trace id for instance.
    """
    token = _scope.set(name)
    try:
        yield
    finally:
        _scope.reset(token)


@dataclass(frozen=True, slots=True)
class Held:
    """A conversation up to and with the policy's last reply.

    Attributes:
        ids: What the server saw and sampled, prompt and reply.
        rendered: The prompt as the chat template renders its messages; the same as in `ids` until something drifts.
        end: The token that ended the reply; None where the reply was cut off.
        reasoned: Whether the reply holds reasoning, which some templates leave out later.
    """

    ids: array[int]
    rendered: array[int]
    end: int | None
    reasoned: bool

    def __len__(self) -> int:
        return len(self.ids) + len(self.rendered)


class HeldConversations:
    """A bounded store of conversations. Safe to use from many threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Prepare an empty store for at most `limit` token ids."""
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[bytes, Held] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Held, int] | None:
        """Return the longest held beginning of a conversation, and how many of its messages that is.

        At least one message comes after it, and its last one is a reply of the policy, as the app sends it back.
        """
        keys = _keys(messages)
        with self._lock:
            for count in range(len(messages) - 1, 0, -1):
                key = keys[count - 1]
                if messages[count - 1].get("role") == "assistant" and key in self._held:
                    self._held.move_to_end(key)
                    return self._held[key], count
        return None

    def add(self, messages: Sequence[Mapping[str, Any]], reply: Mapping[str, Any], held: Held) -> None:
        """Hold a conversation.

        Args:
            messages: What was sent.
            reply: The assistant message that came back.
            held: Its ids.
        """
        key = _keys([*messages, reply])[-1]
        with self._lock:
            self._size += len(held) - len(self._held.pop(key, ()))
            self._held[key] = held
            while self._size > self._limit and self._held:
                self._size -= len(self._held.popitem(last=False)[1])


def _keys(messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return a key for each beginning of a conversation, each made from the one before."""
    keys, key = [], _scope.get().encode()
    for message in messages:
        text = json.dumps(_comparable(message), sort_keys=True, ensure_ascii=False, default=str)
        key = hashlib.blake2b(key + text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        keys.append(key)
    return keys


def _comparable(message: Mapping[str, Any]) -> list[Any]:
    """Return what makes a message the same one when an app sends it back.

    Apps send replies without their reasoning, with other white space around them and with arguments as they wrote
    them again; the ids that are held decide what the policy reads.
    """
    if message.get("role") != "assistant":
        return [message.get("role"), message.get("content"), message.get("tool_call_id"), message.get("name")]
    calls = [
        [call.get("id"), function.get("name"), _arguments(function.get("arguments"))]
        for call in message.get("tool_calls") or ()
        for function in [call.get("function") or {}]
    ]
    return ["assistant", text_of(message).strip(), calls]


def _arguments(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text
