"""Conversations that the gateway keeps between requests, within bounds of number and size."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.ledger import Ledger
from toolorch_serving.gateway.errors import ConflictError, GatewayError, NotFoundError

MAX_THREADS = 10_000
MAX_BYTES = 256 * 2**20
MAX_ID = 200
"""Characters of a thread's id."""

Confirmation = Mapping[str, Any]
"""`call_id`, `tool` and `arguments` of a call that a person must decide about."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that has stopped for a person.

    Attributes:
        trace_id: Its trace, which goes on when the person has decided.
        confirmations: What is asked.
        ledger: What it has called so far.
        sampling: With which the policy was asked.
        asked: What a face needs to hand the decisions over.
        origin: The conversation as it was before the run, which a failure after the decisions leads back to: what they
            allowed is not to be done twice.
    """

    trace_id: str
    confirmations: Sequence[Confirmation]
    ledger: Ledger
    sampling: Mapping[str, Any]
    asked: Any = None
    origin: Any = None


@dataclass(eq=False, slots=True)
class Thread:
    """One conversation.

    Attributes:
        id: Its name; also LangGraph's thread, and that of the traces.
        owner: Name of the caller whose conversation it is.
        orchestrator: Whom it is with.
        busy: Whether a run is under way.
        begun: Whether a run of it has ended well: its history is known here.
        waiting: The run that has stopped for a person, if the last one has.
        state: What a face keeps of it.
        size: Bytes of that.
        forget: Called when the gateway lets the conversation go.
    """

    id: str
    owner: str
    orchestrator: str
    busy: bool = False
    begun: bool = False
    waiting: Waiting | None = None
    state: Any = None
    size: int = 0
    forget: Callable[[], None] = field(default=lambda: None)


class Threads:
    """The conversations of a process; the one that has been silent for longest is let go first.

    Those that wait for a person are let go last. All methods are for the event loop's thread.

    Args:
        most: Conversations that are kept.
        most_bytes: Bytes that they may hold together.
    """

    def __init__(self, most: int = MAX_THREADS, most_bytes: int = MAX_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._threads)

    def take(
        self, thread_id: str, owner: str, orchestrator: str, decisions: Mapping[str, bool] | None = None
    ) -> Thread:
        """Return a conversation for a run, and keep others from it until `give_back`.

        Args:
            thread_id: Its name; empty makes a new one.
            owner: Who asks.
            orchestrator: Who is asked.
            decisions: By call id, where the run is to go on that has stopped for a person.

        Raises:
            NotFoundError: There is no such conversation, and decisions for it.
            ConflictError: It is another's, a run is under way, or it does not wait for what was decided.
            GatewayError: The name or the decisions cannot be used.
        """
        if len(thread_id) > MAX_ID or not thread_id.isprintable():
            raise GatewayError(
                f"thread_id must be at most {MAX_ID} printable characters; leave it out to begin a conversation.",
                param="thread_id",
            )
        thread = self._threads.get(thread_id) if thread_id else None
        if thread is None:
            if decisions is not None:
                raise NotFoundError(_UNKNOWN.format(thread_id or ""), param="thread_id", code="thread_not_found")
            thread = Thread(thread_id or uuid.uuid4().hex, owner, orchestrator)
            self._threads[thread.id] = thread
        _check(thread, owner, orchestrator, decisions)
        thread.busy = True
        return thread

    def give_back(self, thread: Thread, size: int) -> None:
        """Take note that a run has ended.

        Args:
            thread: Its conversation.
            size: Bytes that the conversation holds now.
        """
        thread.busy = False
        self._bytes += size - thread.size
        thread.size = size
        self._threads.move_to_end(thread.id)
        while len(self._threads) > self._most or self._bytes > self._most_bytes:
            idle = [other for other in self._threads.values() if not other.busy]
            if not idle:
                return
            self._drop(next((other for other in idle if other.waiting is None), idle[0]))

    def _drop(self, thread: Thread) -> None:
        del self._threads[thread.id]
        self._bytes -= thread.size
        thread.forget()


_UNKNOWN = (
    "thread_id {!r} is not known here, so there is nothing to decide about: it was let go, or another gateway has it. "
    "Ask again without decisions."
)


def _check(thread: Thread, owner: str, orchestrator: str, decisions: Mapping[str, bool] | None) -> None:
    if thread.owner != owner or thread.orchestrator != orchestrator:
        raise ConflictError(
            f"thread_id {thread.id!r} belongs to another caller or orchestrator: leave it out to begin a conversation.",
            param="thread_id",
            code="thread_taken",
        )
    if thread.busy:
        raise ConflictError(
            f"A run of the conversation {thread.id!r} is under way: wait for its end.",
            param="thread_id",
            code="thread_busy",
        )
    waiting = thread.waiting
    if decisions is None:
        if waiting is not None:
            raise ConflictError(
                f"The conversation {thread.id!r} waits for decisions about {_ids(waiting)}: send `decisions`, true or "
                "false for each, or leave out thread_id to begin another conversation.",
                param="decisions",
                code="decisions_missing",
            )
        return
    if waiting is None:
        raise ConflictError(
            f"The conversation {thread.id!r} waits for no decision: leave out `decisions`.",
            param="decisions",
            code="nothing_to_decide",
        )
    wanted = {str(item["call_id"]) for item in waiting.confirmations}
    unknown, missing = sorted(set(decisions) - wanted), sorted(wanted - set(decisions))
    if unknown or missing:
        wrong = f"{unknown[0]!r} is none of them" if unknown else f"{missing[0]!r} is missing"
        raise GatewayError(
            f"`decisions` must hold true or false for each of {_ids(waiting)}: {wrong}.",
            param=f"decisions.{unknown[0]}" if unknown else "decisions",
            code="decisions_unknown" if unknown else "decisions_missing",
        )


def _ids(waiting: Waiting) -> str:
    return ", ".join(repr(str(item["call_id"])) for item in waiting.confirmations)
