"""Which policy version answers a run: the one that serves, or a candidate that a share of the live runs tries out.

A conversation stays on one version: the choice is a hash of its key, so every process makes the same one, and it is
kept for as long as the conversation goes on, whatever is promoted meanwhile. Only a candidate that is taken back loses
its conversations at once.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from toolorch_integrations.plain import content_hash

logger = logging.getLogger(__name__)

REFRESH = 2.0
"""Seconds for which routes are believed before they are read again."""
KEPT = 65_536
"""Conversations whose version is kept; the one that has been silent for longest is let go."""

CONVERSATION_HEADER = "x-toolorch-conversation"
"""Names the conversation of a policy call by a hash: a balancer in front of several servers keeps it on one of them, so
that its prefix stays cached. Runs of the same request may share it, so it names no trace."""

_key: ContextVar[str] = ContextVar("toolorch_conversation", default="")


@dataclass(frozen=True, slots=True)
class Routes:
    """Who answers.

    Attributes:
        current: Version that serves.
        candidate: Version that is tried out; empty: none.
        share: Of the conversations, that the candidate gets.
    """

    current: str
    candidate: str = ""
    share: float = 0.0

    def choose(self, key: str) -> str:
        """Return the version for a conversation: the same in every process."""
        return self.candidate if self.candidate and tries(key, self.candidate, self.share) else self.current


def tries(key: str, candidate: str, share: float) -> bool:
    """Say whether a conversation is among the `share` that tries a candidate out.

    The candidate's name is hashed too, so that it is not always the same conversations that try.
    """
    digest = hashlib.blake2b(f"{candidate}\x00{key}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


class VersionRouter:
    """Says which version answers a conversation. Safe across threads.

    Args:
        source: Reads the routes, such as `PromotionRecords.routes`. One that fails is asked again later, and the routes
            that were read last hold until then: routing never breaks a run.
        refresh: Seconds between reads.
    """

    def __init__(self, source: Callable[[], Routes], refresh: float = REFRESH) -> None:
        self._source = source
        self._refresh = refresh
        self._lock = threading.Lock()
        self._routes = source()
        self._read_at = time.monotonic()
        self._kept: OrderedDict[str, str] = OrderedDict()

    @property
    def routes(self) -> Routes:
        """The routes, read again when they are old."""
        with self._lock:
            due = time.monotonic() - self._read_at >= self._refresh
            if due:
                self._read_at = time.monotonic()  # before the read: the other threads go on with what there is
        if due:
            try:
                found = self._source()
            except Exception as error:  # a database that is down must not end a run
                logger.warning("routes of policy versions cannot be read, the last ones hold: %s", error)
            else:
                self._take(found)
        return self._routes

    def version_for(self, key: str) -> str:
        """Return the version that answers a conversation, the same one each time."""
        routes = self.routes
        with self._lock:
            version = self._kept.setdefault(key, routes.choose(key))
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return version

    def _take(self, routes: Routes) -> None:
        with self._lock:
            old, self._routes = self._routes, routes
            if old.candidate and old.candidate not in (routes.candidate, routes.current):
                for key in [key for key, version in self._kept.items() if version == old.candidate]:
                    del self._kept[key]


@contextmanager
def conversation(key: str) -> Iterator[None]:
    """Name the conversation that policy calls within belong to, where the framework has no thread for it."""
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def conversation_name() -> str:
    """Return the name that `conversation` gave to what runs here and now, or an empty text."""
    return _key.get()


def conversation_key(messages: Sequence[Mapping[str, Any]], thread: str = "") -> str:
    """Return what a conversation is routed by.

    Args:
        messages: Of the policy call, in OpenAI's format.
        thread: The framework's name for the conversation, if it has one.

    Returns:
        The key of `conversation`, else the thread, else a hash of the first paragraph that the user said: the rest of a
        `select` prompt changes with each step.
    """
    first = next((message.get("content") for message in messages if message.get("role") == "user"), "")
    return (
        conversation_name() or thread or content_hash(first.partition("\n\n")[0] if isinstance(first, str) else first)
    )


def conversation_header(messages: Sequence[Mapping[str, Any]], thread: str = "") -> dict[str, str]:
    """Return the header that names a conversation; see `conversation_key` for the arguments."""
    key = conversation_key(messages, thread).encode("utf-8", "replace")
    return {CONVERSATION_HEADER: hashlib.blake2b(key, digest_size=16).hexdigest()}
