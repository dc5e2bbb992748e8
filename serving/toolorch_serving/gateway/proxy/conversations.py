"""Which conversation a request goes on with, when nothing but the messages tells.

A request continues the call whose whole prompt stands, unchanged, in front of one of its assistant messages. So the
index knows a call by the hash of its prompt, and needs no look at the answer. Only where several conversations had the
very same prompt (rollouts of one request, a question that two users asked) does the assistant message decide which
of their answers it is, and only then is an answer decoded here.

Everything is bounded: the least recently used prompt, conversation and kept answer go first. Used on one event loop.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from toolorch_integrations.plain import canonical
from toolorch_integrations.wire_answer import plain_message, read_answer
from toolorch_serving.gateway.errors import ConflictError
from toolorch_serving.gateway.proxy.headers import TRACE

PROMPTS = 32_768
"""Prompts that can still be continued."""
CONVERSATIONS = 8_192
IDLE = 3600.0
"""Seconds after which a run that waits for its tools counts as interrupted."""
ANSWER_BYTES = 16 * 2**20
"""Bytes of answers that are kept to tell equal prompts apart; of older ones only a hash, where one is needed."""
SAME_PROMPT = 256
"""Conversations with the very same prompt that are told apart; of more, the oldest is forgotten."""

_THREADS = uuid.UUID("5f0d8a52-3c0e-4f5e-9d62-6d7ef6b4f2a1")


@dataclass(slots=True)
class Conversation:
    """One trace."""

    trace_id: str
    caller: str
    """Who began it: nobody else's calls get into it."""
    thread_id: str = ""
    begun: float = field(default_factory=time.time)
    answered: float = 0.0
    """When its newest answer ended, epoch seconds; 0: it has none."""
    used: float = field(default_factory=time.monotonic)
    waits: bool = False
    """Its newest answer asks for tools."""


@dataclass(slots=True)
class Asked:
    """One call's prompt, and what came of it."""

    conversation: Conversation
    same: list[Asked]
    """All calls with this prompt, itself among them."""
    repeated: bool = False
    """The conversation had sent the same prompt before."""
    failed: bool = False
    continued: bool = False
    answer: bytes = b""
    stream: bool = False
    _replies: frozenset[str] | None = None

    def replies(self) -> frozenset[str]:
        """Return hashes of the messages in the answer, one for each choice."""
        if self._replies is None and self.answer:
            found = read_answer(self.answer, stream=self.stream).choices.values()
            self._replies = frozenset(_reply_key(choice.message) for choice in found)
        return self._replies or frozenset()

    def let_go(self) -> int:
        """Drop the answer's bytes, but for a hash where other calls have the same prompt; return how many."""
        if len(self.same) > 1:
            self.replies()
        number, self.answer = len(self.answer), b""
        return number


class Conversations:
    """Finds the conversation of each request.

    Args:
        abandoned: Called with a conversation that waited for its tools and is forgotten: none came for `idle` seconds,
            or there were too many others.
        idle: Seconds.
    """

    def __init__(
        self,
        abandoned: Callable[[Conversation], None] = lambda _: None,
        *,
        idle: float = IDLE,
        prompts: int = PROMPTS,
        conversations: int = CONVERSATIONS,
        answer_bytes: int = ANSWER_BYTES,
    ) -> None:
        self._abandoned = abandoned
        self._idle = idle
        self._most_prompts = prompts
        self._most_conversations = conversations
        self._most_bytes = answer_bytes
        self._prompts: OrderedDict[bytes, list[Asked]] = OrderedDict()
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._answers: deque[Asked] = deque()
        self._bytes = 0

    def __contains__(self, trace_id: str) -> bool:
        """Whether a trace is known here."""
        return trace_id in self._conversations

    def begin(
        self, caller: str, model: str, messages: Sequence[Any], *, trace_id: str = "", thread_id: str = ""
    ) -> Asked:
        """Say which conversation a request belongs to.

        Args:
            caller: Who asks: conversations of different callers never meet.
            model: Whom; calls of different models are one conversation only where the client has named the trace.
            messages: Of the request; any JSON.
            trace_id: The trace that the client named.
            thread_id: The conversation that the client named: it has one trace, in every process and for ever.

        Raises:
            ConflictError: Another caller began the trace.
        """
        scope = f"{caller}\x00{model}"
        whole, prefixes = _digests(scope, messages)
        if trace_id or thread_id:
            key = trace_id or uuid.uuid5(_THREADS, f"{scope}\x00{thread_id}").hex
            conversation = self._conversations.get(key) or Conversation(key, caller, thread_id)
            if conversation.caller != caller:
                raise trace_taken(key)
        else:
            found = self._continued(prefixes, messages) or self._retried(whole)
            conversation = found or Conversation(uuid.uuid4().hex, caller)
        self._touch(conversation)
        return self._add(whole, conversation)

    def end(self, asked: Asked, answer: bytes, *, stream: bool, failed: bool, waits: bool) -> None:
        """Take note of how a call ended.

        Args:
            asked: What `begin` gave.
            answer: Body of the answer.
            stream: Whether it is a stream of events.
            failed: Whether it gave no whole answer: the same request again is a retry.
            waits: Whether it asks for tools.
        """
        conversation = asked.conversation
        conversation.answered, conversation.used = time.time(), time.monotonic()
        conversation.waits = waits and not failed
        asked.failed = failed
        if failed:
            return
        asked.answer, asked.stream = answer, stream
        self._answers.append(asked)
        self._bytes += len(answer)
        while self._bytes > self._most_bytes:
            self._bytes -= self._answers.popleft().let_go()

    def _continued(self, prefixes: Sequence[tuple[int, bytes]], messages: Sequence[Any]) -> Conversation | None:
        for place, digest in reversed(prefixes):
            same = self._prompts.get(digest)
            if same is None:
                continue
            self._prompts.move_to_end(digest)
            asked = same[0] if len(same) == 1 else _whose(same, messages[place])
            asked.continued = True
            return asked.conversation
        return None

    def _retried(self, digest: bytes) -> Conversation | None:
        """Return the conversation of a call that failed and is made again."""
        for asked in reversed(self._prompts.get(digest, ())):
            if asked.failed and not asked.continued:
                asked.continued = True
                return asked.conversation
        return None

    def _add(self, digest: bytes, conversation: Conversation) -> Asked:
        same = self._prompts.setdefault(digest, [])
        asked = Asked(conversation, same, repeated=any(other.conversation is conversation for other in same))
        same.append(asked)
        if len(same) > SAME_PROMPT:
            del same[0]
        self._prompts.move_to_end(digest)
        while len(self._prompts) > self._most_prompts:
            self._prompts.popitem(last=False)
        return asked

    def _touch(self, conversation: Conversation) -> None:
        now = conversation.used = time.monotonic()
        kept = self._conversations
        kept[conversation.trace_id] = conversation
        kept.move_to_end(conversation.trace_id)
        while True:
            oldest = next(iter(kept.values()))
            if len(kept) <= self._most_conversations and now - oldest.used < self._idle:
                return
            del kept[oldest.trace_id]
            if oldest.waits:
                self._abandoned(oldest)


def trace_taken(trace_id: str) -> ConflictError:
    """Return the error of a call that names another caller's trace."""
    return ConflictError(
        f"the header x-toolorch-trace names {trace_id}, which another caller began: send an id of your own, such as "
        "uuid.uuid4().hex, that all calls of one run share",
        param=TRACE.decode(),
        code="trace_taken",
    )


def _digests(scope: str, messages: Sequence[Any]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the hash of the whole prompt, and the place of each assistant message with that of what precedes it."""
    digest = hashlib.blake2b(scope.encode("utf-8", "replace"), digest_size=16)
    prefixes = []
    for place, message in enumerate(messages):
        if place and isinstance(message, dict) and message.get("role") == "assistant":
            prefixes.append((place, digest.copy().digest()))
        digest.update(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
    return digest.digest(), prefixes


def _whose(same: Sequence[Asked], message: Mapping[str, Any]) -> Asked:
    """Return the call whose answer an assistant message is; the newest that goes on with nothing yet, if in doubt."""
    key = _reply_key(plain_message(message))
    found = [asked for asked in same if key in asked.replies()] or list(same)
    return next((asked for asked in reversed(found) if not asked.continued), found[-1])


def _reply_key(message: Mapping[str, Any]) -> str:
    """Return what tells an answer from others: apps send it back without its reasoning, and perhaps stripped."""
    kept = {key: message[key] for key in ("content", "tool_calls") if message.get(key)}
    if isinstance(kept.get("content"), str):
        kept["content"] = kept["content"].strip()
    return hashlib.blake2b(canonical(kept).encode("utf-8", "replace"), digest_size=12).hexdigest()
