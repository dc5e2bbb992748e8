"""Conversations that the gateway keeps between requests, within bounds of number and size."""

from __future__ import annotations

import re
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
_CHECKPOINTS = uuid.UUID("0c4b3e8e-5a0f-4f0a-8a55-3d1f6f2f9f6e")

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
        id: Its name, which the client knows it by; also that of the traces.
        owner: Whose conversation it is; see `RunRequest`.
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

    @property
    def checkpoints(self) -> str:
        """LangGraph's thread."""
        return checkpoint_thread(self.owner, self.orchestrator, self.id)


def checkpoint_thread(owner: str, orchestrator: str, thread_id: str) -> str:
    """Return the LangGraph thread under which an app's own checkpointer has a conversation of the gateway.

    A checkpointer outlives the gateway, and serves several: the name that a client chose says nothing of whose the
    conversation is. So the thread is made of the API key's name too, and no key reaches another's history, whatever
    names it tries. Use it to look a conversation up in the checkpointer, or to put one there that began elsewhere.

    Args:
        owner: Name of the API key; empty on a gateway without keys. All its callers are one owner, and the thread is
            the client's name as it is.
        orchestrator: Its name in the gateway.
        thread_id: The client's name of the conversation.

    Example:
        >>> checkpoint_thread("", "support", "chat 7")
        'chat 7'
        >>> checkpoint_thread("web-app", "support", "chat 7") != checkpoint_thread("batch", "support", "chat 7")
        True
    """
    if not owner:
        return thread_id
    return str(uuid.uuid5(_CHECKPOINTS, "\0".join((owner, orchestrator, thread_id))))


class Threads:
    """The conversations of a process; the one that has been silent for longest is let go first.

    Each belongs to one caller and one orchestrator: another's of the same name is another conversation. Those that wait
    for a person are let go last. All methods are for the event loop's thread.

    Args:
        most: Conversations that are kept.
        most_bytes: Bytes that they may hold together.
    """

    def __init__(self, most: int = MAX_THREADS, most_bytes: int = MAX_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._threads: OrderedDict[tuple[str, str, str], Thread] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._threads)

    def take(
        self,
        thread_id: str,
        owner: str,
        orchestrator: str,
        decisions: Mapping[str, bool] | None = None,
        *,
        may_begin: bool = True,
    ) -> Thread:
        """Return a conversation for a run, and keep others from it until `give_back`.

        Args:
            thread_id: Its name; empty makes a new one.
            owner: Who asks.
            orchestrator: Who is asked.
            decisions: By call id, where the run is to go on that has stopped for a person.
            may_begin: Whether a conversation may begin under a name that a gateway has made. It must not where it would
                begin empty: what was said in it is with another gateway, or gone.

        Raises:
            NotFoundError: The caller has no such conversation, and decisions for it, or it may not begin here.
            ConflictError: A run of it is under way, or it does not wait for what was decided.
            GatewayError: The name or the decisions cannot be used.
        """
        if len(thread_id) > MAX_ID or not thread_id.isprintable():
            raise GatewayError(
                f"thread_id must be at most {MAX_ID} printable characters; leave it out to begin a conversation.",
                param="thread_id",
            )
        thread = self._threads.get((owner, orchestrator, thread_id)) if thread_id else None
        if thread is None:
            if decisions is not None or not (may_begin or _MADE.fullmatch(thread_id) is None):
                raise NotFoundError(_UNKNOWN.format(thread_id or ""), param="thread_id", code="thread_not_found")
            thread = Thread(thread_id or _PREFIX + uuid.uuid4().hex, owner, orchestrator)
            self._threads[_key(thread)] = thread
        _check(thread, decisions)
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
        self._threads.move_to_end(_key(thread))
        while len(self._threads) > self._most or self._bytes > self._most_bytes:
            idle = [other for other in self._threads.values() if not other.busy]
            if not idle:
                return
            self._drop(next((other for other in idle if other.waiting is None), idle[0]))

    def _drop(self, thread: Thread) -> None:
        del self._threads[_key(thread)]
        self._bytes -= thread.size
        thread.forget()


_PREFIX = "thread_"
_MADE = re.compile(_PREFIX + "[0-9a-f]{32}")
"""Names of conversations that gateways make, which nobody else makes up."""
_UNKNOWN = (
    "thread_id {!r} is not known here: it was let go, or another gateway has it. To begin a conversation leave out "
    "thread_id, and decisions; or send the whole conversation as messages, where they can be sent."
)


def _key(thread: Thread) -> tuple[str, str, str]:
    return thread.owner, thread.orchestrator, thread.id


def _check(thread: Thread, decisions: Mapping[str, bool] | None) -> None:
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
