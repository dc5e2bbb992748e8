"""The app's end of a recorder with a spool: a queue, and the files behind it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from toolorch_integrations.decoding import Decoder, trace_of
from toolorch_integrations.events import Deferred, Event, TraceEnded, TraceStarted
from toolorch_integrations.intake import Intake, Put, Queued, State, size_of
from toolorch_integrations.losses import Losses
from toolorch_integrations.spool.codec import pack
from toolorch_integrations.spool.folder import OwnPart, Spool, SpoolFullError

logger = logging.getLogger(__name__)


class SpooledIntake(Intake):
    """The queue, and the files behind it.

    Attributes:
        behind: Whether the writer is to read the files, since not everything in them is queued.
        part: This process's files; None: nothing was put yet, or the folder cannot be made now.
    """

    def __init__(
        self, spool: Spool, store_key: str, app: str, losses: Losses, decoder: Decoder, max_events: int, max_bytes: int
    ) -> None:
        super().__init__(losses, max_events, max_bytes)
        self.behind = False
        self.part: OwnPart | None = None
        self._new_part = partial(OwnPart, spool, store_key, app)
        self._eager = spool.eager
        self._decoder = decoder
        self._in_turn = Reentrant()
        self._warned = False

    @property
    def spooled_bytes(self) -> int:
        """Bytes in this process's files: what is stored already goes with the next segment."""
        part = self.part
        return 0 if part is None else part.size

    def put(self, item: Put, durable: bool) -> None:
        """Write an item to the spool and queue it; see `Intake.put`."""
        size = size_of(item)
        # What is private is redacted before it is written: on the writer thread, as the hook may be slow.
        later = isinstance(item, Deferred) or self._decoder.redacts
        if later and not durable and not self._eager:
            with self.lock:
                if self.has_room(item, size):
                    self._in_turn(partial(self._queue_raw, item, size))
                    return
            # A full queue: the thread that puts does the work, so that nothing is lost.
        events: Sequence[Put] = self._decoder(item) if later else [item]
        for event in events:
            try:
                kind, payload = pack(event)
            except Exception:
                logger.exception("an event cannot be written")
                self._losses.count("decode", trace_of(event))
                continue
            with self.lock:
                self._in_turn(partial(self._write, event, size, kind, payload))

    def write_decoded(self, number: int, events: list[Event]) -> None:
        """Write what the writer thread has decoded and the store does not take now."""
        for event in events:
            try:
                kind, payload = pack(event)
            except Exception:
                logger.exception("an event cannot be written")
                self._losses.count("decode", event.trace_id)
                continue
            with self.lock:
                if not self._append(kind, number, payload, event, decoded=True):
                    self._losses.count("spool", event.trace_id)

    def open_part(self) -> OwnPart | None:
        """Return this process's files, made with the first need of them; None: they cannot be made now."""
        with self.lock:
            if self.part is None:
                try:
                    self.part = self._new_part()
                except (OSError, SpoolFullError) as error:
                    self._warn(error)
            return self.part

    def after_fork(self) -> None:
        """In a forked child: close the parent's files, which keeps its lock."""
        if self.part is not None:
            self.part.leave()

    def _queue_raw(self, item: Put, size: int) -> None:
        if self.closed:
            self._losses.count("closed", trace_of(item))
            return
        self.last += 1
        self.enqueue(Queued(item, size, self.last))

    def _write(self, event: Put, size: int, kind: int, payload: bytes) -> None:
        if self.closed:
            self._losses.count("closed", trace_of(event))
            return
        self.last += 1
        spooled = self._append(kind, self.last, payload, event)
        if not self.behind and self.has_room(event, size):
            self.enqueue(Queued(event, size, self.last, State.SPOOLED if spooled else State.READY))
        elif spooled:
            self.behind = True
        else:
            self._losses.count("spool", trace_of(event))

    def _append(self, kind: int, number: int, payload: bytes, event: Put, *, decoded: bool = False) -> bool:
        part = self.open_part()
        if part is None:
            return False
        try:
            important = isinstance(event, TraceStarted | TraceEnded)
            part.append(kind, number, payload, decoded=decoded, important=important)
            return True
        except (OSError, SpoolFullError) as error:
            self._warn(error)
            return False

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("capture: events are not written to the spool: %s", error)


class Reentrant:
    """Runs steps one after another, also where one begins in the midst of another on the same thread.

    A garbage collection may end a run, whose end is put, while its thread is writing another event.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False

    def __call__(self, step: Callable[[], None]) -> None:
        """Run a step, now or after the one that runs."""
        self._waiting.append(step)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._busy = False
