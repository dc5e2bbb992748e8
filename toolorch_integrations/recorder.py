"""The way from an app into a trace store: a bounded queue, and one writer thread that never disturbs the app."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

from toolorch_integrations.decoding import Decoder
from toolorch_integrations.events import EncodedEvents, Event
from toolorch_integrations.feed import Feed
from toolorch_integrations.intake import Intake
from toolorch_integrations.losses import Losses
from toolorch_integrations.redaction import Redact
from toolorch_integrations.spool import Spool
from toolorch_integrations.spool.feed import SpooledFeed, spooled
from toolorch_integrations.store import TraceStore
from toolorch_integrations.writer import Writer

MAX_EVENTS = 10_000
MAX_BYTES = 256 * 2**20
SPOOL_PATIENCE = 1.0
"""Seconds for which a write is tried again before the files of a spool take over from the queue."""

_FORK_SECONDS = 5.0
"""How long a fork waits for a write to end."""


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
        spool: Spool | str | Path | None = None,
    ) -> None:
        """Take a store; it is connected to when the first event comes, on the writer thread.

        Args:
            store: The store, or its file name or URL.
            app: Name for the traces, in place of the one that their events give.
            redact: Hook that takes private text out of messages before they are stored.
            redact_token_ids: Whether the token ids of redacted text are dropped too, as they hold the text.
            max_events: Events that may wait; more are dropped.
            max_bytes: Bytes, roughly, that waiting events may keep alive.
            retry_seconds: How long one batch is tried again while the store is locked, full or down; then it is
                dropped. With a spool nothing is dropped.
            spool: Folder in which events wait for the store, so that they survive the process and any outage; what
                dead processes have left there is delivered. See `toolorch_integrations.spool`.

        Raises:
            StoreError: The URL is not usable, the database's driver is not installed, or the folder cannot be made.
        """
        self.store = store if isinstance(store, TraceStore) else TraceStore(store)
        self._owns_store = not isinstance(store, TraceStore)
        self._app = app
        self._redact = redact
        self._redact_token_ids = redact_token_ids
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._retry_seconds = retry_seconds
        self._spool = spool
        self._forked = False
        self._reset()
        _recorders.add(self)
        if self._feed.has_work:
            with self._intake.lock:
                self._start()

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._losses = losses = Losses()
        decoder = Decoder(losses, self._redact, redact_token_ids=self._redact_token_ids)
        self._intake: Intake
        self._feed: Feed | SpooledFeed
        if self._spool is None:
            self._writer = Writer(self.store, losses, self._app, self._retry_seconds)
            self._intake = Intake(losses, self._max_events, self._max_bytes)
            self._feed = Feed(self._intake, self._writer, decoder)
        else:
            self._writer = Writer(self.store, losses, self._app, min(self._retry_seconds, SPOOL_PATIENCE))
            self._intake, self._feed = spooled(
                self._spool, self._writer, decoder, losses, self._app, self._max_events, self._max_bytes
            )

    @property
    def dropped(self) -> Counter[str]:
        """How many events were lost, by reason.

        "overflow": the queue was full. "store": it could not be written. "decode": an event was faulty, or could not be
        decoded. "redaction": messages whose hook failed. "closed": put after `close`. "spool": its files have all the
        bytes that they may have, or the disk is full, while the store is down. A trace that the store has says what was
        lost of it in `metadata["dropped"]`, at the latest after the next `flush` or `close` while the store takes it;
        only what is put after `close` stands nowhere but here.
        """
        return self._losses.dropped

    @property
    def spooled_bytes(self) -> int:
        """Bytes in this process's files of the spool: about what the store does not have yet; 0 without a spool."""
        return self._intake.spooled_bytes

    def put(self, event: Event | EncodedEvents, *, durable: bool = False) -> None:
        """Hand over an event, or what it is decoded from; never blocks and never raises.

        With a spool, an event is in a file when this returns. What a `Deferred` gives is so a little later, unless
        it is to be durable; the same holds for everything where a redaction hook must see it first.

        Args:
            event: What happened.
            durable: Decode a `Deferred`, and call the redaction hook, at once on this thread: only with a spool.
        """
        self._intake.put(event, durable)
        if self._thread is None and not self._intake.closed:
            with self._intake.lock:
                if self._thread is None and not self._intake.closed:
                    self._start()
        self._losses.warn()

    def flush(self, timeout: float | None = 30.0) -> bool:
        """Wait until all that was put before is in the store, or was dropped.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            False when the time ran out.
        """
        with self._intake.lock:
            done = self._intake.flush()
            if self._thread is None:
                done.set()
        finished = done.wait(timeout)
        self._losses.warn()
        return finished

    def close(self, timeout: float | None = 30.0) -> bool:
        """Flush, mark traces that still run as interrupted, and end the writer thread.

        Args:
            timeout: Seconds; what is not stored by then is dropped, or stays in the spool. None waits for ever.

        Returns:
            False when the time ran out.
        """
        with self._intake.lock:
            thread, self._thread = self._thread, None
            already, self._intake.closed = self._intake.closed, True
            if timeout is not None:
                self._writer.patience.deadline = time.monotonic() + timeout
            if thread is not None:
                self._intake.flush(ends=True)
        if thread is not None:
            thread.join(None if timeout is None else timeout + self._feed.grace)
        ended = thread is None or not thread.is_alive()
        if self._owns_store and ended and not already:
            self.store.close()
        _recorders.discard(self)
        self._losses.warn()
        return thread is None or self._feed.complete

    @property
    def trace_ids(self) -> list[str]:
        """Ids of the newest traces that were written, oldest first; a resumed trace counts under its own id."""
        return list(self._writer.trace_ids)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._feed.run, name="toolorch-recorder", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # The interpreter is shutting down, or has no more threads.
            self._thread = None
        multiprocessing = sys.modules.get("multiprocessing.util")
        if self._forked and multiprocessing is not None:
            # Its children end without atexit handlers, and forget what was registered before they began.
            multiprocessing.Finalize(self, self.close, exitpriority=10)

    def _after_fork(self) -> None:
        """In a forked child: nothing of the parent's queue, thread and connections is touched."""
        self._feed.after_fork()
        self.store.after_fork()
        self._reset()
        self._forked = True


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _close_all() -> None:
    for recorder in list(_recorders):
        recorder.close(timeout=5.0)


def _before_fork() -> None:
    _held.extend(
        recorder for recorder in list(_recorders) if recorder._writer.patience.in_store.acquire(timeout=_FORK_SECONDS)
    )


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._writer.patience.in_store.release()


def _after_fork_in_child() -> None:
    _held.clear()
    for recorder in list(_recorders):
        recorder._after_fork()


_held: list[Recorder] = []

atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
