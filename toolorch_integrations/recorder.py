"""The way from an app into a trace store: a bounded queue, and one writer thread that never disturbs the app."""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import TypeAlias

from toolorch_integrations.events import Deferred, Event, TraceEnded, TraceStarted
from toolorch_integrations.losses import Losses
from toolorch_integrations.redaction import Redact, Redactor
from toolorch_integrations.store import TraceStore
from toolorch_integrations.writer import Writer

MAX_EVENTS = 10_000
MAX_BYTES = 256 * 2**20
BATCH = 256
"""Events that one transaction takes at most."""

_FORK_SECONDS = 5.0
"""How long a fork waits for a write to end."""

_Item: TypeAlias = "tuple[Event | Deferred, int] | threading.Event"


class Recorder:
    """Takes events from any thread or event loop and writes them to a store on a thread of its own.

    Attributes:
        store: The store that is written.

    Example:
        >>> recorder = Recorder("traces.db")
        >>> recorder.put(TraceStarted(trace_id=uuid.uuid4().hex, request="What is 2 + 2?"))
        >>> recorder.close()
    """

    def __init__(
        self,
        store: TraceStore | str | Path,
        *,
        app: str = "",
        redact: Redact | None = None,
        redact_token_ids: bool = True,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        retry_seconds: float = 30.0,
    ) -> None:
        """Take a store; it is connected to when the first event comes, on the writer thread.

        Args:
            store: The store, or its file name or URL.
            app: Name for the traces, in place of the one that their events give.
            redact: Hook that takes private text out of messages before they are stored.
            redact_token_ids: Whether the token ids of redacted text are dropped too, as they hold the text.
            max_events: Events that may wait; more are dropped.
            max_bytes: Bytes, roughly, that waiting events may keep alive.
            retry_seconds: How long one batch is tried again while the store is locked, full or down.

        Raises:
            StoreError: The URL is not usable, or the database's driver is not installed.
        """
        self.store = store if isinstance(store, TraceStore) else TraceStore(store)
        self._owns_store = not isinstance(store, TraceStore)
        self._app = app
        self._redactor = None if redact is None else Redactor(redact, token_ids=redact_token_ids)
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._retry_seconds = retry_seconds
        self._forked = False
        self._reset()
        _recorders.add(self)

    def _reset(self) -> None:
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._bytes = 0
        self._closed = False
        self._losses = Losses()
        self._writer = Writer(self.store, self._losses, self._app, self._redactor, self._retry_seconds)

    @property
    def dropped(self) -> Counter[str]:
        """How many events were lost, by reason.

        "overflow": the queue was full. "store": it could not be written. "decode": a callable or an event was faulty.
        "redaction": messages whose hook failed. "closed": put after `close`.
        """
        return self._losses.dropped

    def put(self, event: Event | Deferred, *, trace_id: str = "", size: int | None = None) -> None:
        """Hand over an event, or a callable that returns events; never blocks and never raises.

        Args:
            event: What happened.
            trace_id: The trace of a callable's events, for the count of lost ones in its metadata.
            size: Roughly how many bytes a callable keeps alive, for the bound of the queue.
        """
        if size is None:
            try:
                size = 1000 if callable(event) else event.size()
            except Exception:  # A faulty event is for the writer to count.
                size = 1000
        with self._lock:
            if self._closed:
                self._losses.count("closed", trace_id or getattr(event, "trace_id", ""))
            elif self._overflows(event, size):
                self._losses.count("overflow", trace_id or getattr(event, "trace_id", ""))
            else:
                self._waiting += 1
                self._bytes += size
                self._queue.put((event, size))
                if self._thread is None:
                    self._start()
        self._losses.warn()

    def flush(self, timeout: float | None = 30.0) -> bool:
        """Wait until all that was put before is in the store, or was dropped.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            False when the time ran out.
        """
        with self._lock:
            done = threading.Event()
            if self._thread is None:
                done.set()
            else:
                self._queue.put(done)
        finished = done.wait(timeout)
        self._losses.warn()
        return finished

    def close(self, timeout: float | None = 30.0) -> bool:
        """Flush, mark traces that still run as interrupted, and end the writer thread.

        Args:
            timeout: Seconds; what is not stored by then is dropped. None waits for ever.

        Returns:
            False when the time ran out.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            already, self._closed = self._closed, True
            if timeout is not None:
                self._writer.deadline = time.monotonic() + timeout
            if thread is not None:
                self._queue.put(_END)
        if thread is not None:
            thread.join(timeout)
        finished = thread is None or not thread.is_alive()
        if self._owns_store and finished and not already:
            self.store.close()
        _recorders.discard(self)
        self._losses.warn()
        return finished

    @property
    def trace_ids(self) -> list[str]:
        """Ids of the newest traces that were written, oldest first; a resumed trace counts under its own id."""
        return list(self._writer.trace_ids)

    def _overflows(self, event: Event | Deferred, size: int) -> bool:
        # How a run began and ended is small and worth more than its middle.
        factor = 2 if isinstance(event, TraceStarted | TraceEnded) else 1
        return self._waiting >= factor * self._max_events or self._bytes + size > factor * self._max_bytes

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="toolorch-recorder", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # The interpreter is shutting down, or has no more threads.
            self._thread = None
        multiprocessing = sys.modules.get("multiprocessing.util")
        if self._forked and multiprocessing is not None:
            # Its children end without atexit handlers, and forget what was registered before they began.
            multiprocessing.Finalize(self, self.close, exitpriority=10)

    def _run(self) -> None:
        ended = False
        while not ended:
            batch: list[Event | Deferred] = []
            flushes: list[threading.Event] = []
            item = self._queue.get()
            while True:
                if isinstance(item, threading.Event):
                    flushes.append(item)
                    ended = item is _END
                    break
                batch.append(item[0])
                with self._lock:
                    self._waiting -= 1
                    self._bytes -= item[1]
                if len(batch) == BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._writer.process(batch)
            if ended:
                self._writer.finish()
            for done in flushes:
                if done is not _END:
                    done.set()

    def _after_fork(self) -> None:
        """In a forked child: nothing of the parent's queue, thread and connections is touched."""
        self.store.after_fork()
        self._reset()
        self._forked = True


_END = threading.Event()
_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _close_all() -> None:
    for recorder in list(_recorders):
        recorder.close(timeout=5.0)


def _before_fork() -> None:
    _held.extend(recorder for recorder in list(_recorders) if recorder._writer.in_store.acquire(timeout=_FORK_SECONDS))


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._writer.in_store.release()


def _after_fork_in_child() -> None:
    _held.clear()
    for recorder in list(_recorders):
        recorder._after_fork()


_held: list[Recorder] = []

atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
