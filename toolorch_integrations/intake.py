"""The app's end of a recorder: a bounded queue."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from toolorch_integrations.decoding import trace_of
from toolorch_integrations.events import EncodedEvents, Event, TraceEnded, TraceStarted
from toolorch_integrations.losses import Losses

BATCH = 256
"""Events that one transaction takes at most."""

Put: TypeAlias = Event | EncodedEvents


class State(IntEnum):
    """What has been done with a queued item."""

    RAW = 0
    """Nothing: it is to be decoded and redacted."""
    READY = 1
    """It is decoded and redacted, and not in the spool, which had no room for it."""
    SPOOLED = 2
    """It stands in the spool."""


class Queued(NamedTuple):
    """One item on its way to the writer thread."""

    item: Put
    size: int
    number: int = 0
    """Place among all that was put."""
    state: State = State.RAW


class Flush(threading.Event):
    """Set once everything up to a number is stored, or was dropped."""

    number = 0
    ends = False
    """Whether the recorder is closed with it."""


@dataclass(slots=True)
class Taken:
    """What the writer thread took from the queue."""

    items: list[Queued] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)


class Intake:
    """The queue.

    Attributes:
        lock: Guards all of it.
        closed: Whether nothing is taken any more.
        last: Number of the newest item.
    """

    def __init__(self, losses: Losses, max_events: int, max_bytes: int) -> None:
        self.lock = threading.RLock()
        self.closed = False
        self.last = 0
        self._queue: queue.SimpleQueue[Queued | Flush] = queue.SimpleQueue()
        self._losses = losses
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._waiting = 0
        self._bytes = 0

    @property
    def spooled_bytes(self) -> int:
        """Bytes in the files of a spool."""
        return 0

    def put(self, item: Put, durable: bool) -> None:
        """Take an item, or count it as lost where there is no room.

        Args:
            item: What was put.
            durable: Whether a spool has it before this returns.
        """
        size = size_of(item)
        with self.lock:
            if self.closed:
                self._losses.count("closed", trace_of(item))
            elif self.has_room(item, size):
                self.last += 1
                self.enqueue(Queued(item, size, self.last))
            else:
                self._losses.count("overflow", trace_of(item))

    def flush(self, *, ends: bool = False) -> Flush:
        """Queue a mark that is set when all before it is stored; the lock is held."""
        mark = Flush()
        mark.number, mark.ends = self.last, ends
        self._queue.put(mark)
        return mark

    def has_room(self, item: Put, size: int) -> bool:
        """Whether an item fits into the queue."""
        # How a run began and ended is small and worth more than its middle.
        factor = 2 if isinstance(item, TraceStarted | TraceEnded) else 1
        return self._waiting < factor * self._max_events and self._bytes + size <= factor * self._max_bytes

    def enqueue(self, queued: Queued) -> None:
        """Queue an item for which there is room."""
        self._waiting += 1
        self._bytes += queued.size
        self._queue.put(queued)

    def take(self, timeout: float | None = None) -> Taken:
        """Return what is queued, up to a batch or a mark; waits for the first.

        Args:
            timeout: Seconds; None waits for ever.
        """
        taken = Taken()
        try:
            found = self._queue.get(timeout=timeout) if timeout is None or timeout > 0 else self._queue.get_nowait()
            while True:
                if isinstance(found, Flush):
                    taken.flushes.append(found)
                    return taken
                taken.items.append(found)
                with self.lock:
                    self._waiting -= 1
                    self._bytes -= found.size
                if len(taken.items) == BATCH:
                    return taken
                found = self._queue.get_nowait()
        except queue.Empty:
            return taken

    @property
    def empty(self) -> bool:
        """Whether nothing is queued."""
        return self._queue.empty()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's files alone."""


def size_of(item: Put) -> int:
    """Return roughly how many bytes an item keeps alive."""
    try:
        return item.size()
    except Exception:  # A faulty event is for the writer to count.
        return 1000
