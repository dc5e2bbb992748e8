"""The writer's side of a recorder: from batches of events to committed transactions.

A batch is one transaction. What the store does not take now is tried again for a while, then dropped and counted;
the traces concerned are read back from the store before anything is added to them, so that what stands there is
whole whatever was lost.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import Event
from toolorch_integrations.journal import Journal
from toolorch_integrations.losses import Losses
from toolorch_integrations.store import SpoolPosition, StoreConflictError, TraceStore, TraceWrite

logger = logging.getLogger(__name__)

_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_TRANSIENT = (OperationalError, InterfaceError, InternalError, PoolTimeoutError, OSError)
_CONFLICTS = (IntegrityError, StoreConflictError)
_REMEMBERED_TRACES = 10_000


class Writer:
    """Stores events; used by one thread.

    Attributes:
        store: What is written.
        trace_ids: Ids of the newest traces that were written.
        deadline: `time.monotonic()` after which nothing is tried again.
        in_store: Held while the database is used: a child forked in the middle of that would inherit the locks of
            its library.
    """

    def __init__(
        self, store: TraceStore, losses: Losses, app: str, retry_seconds: float, beside: Writer | None = None
    ) -> None:
        """Take a store.

        Args:
            store: What is written.
            losses: Where lost events are counted.
            app: Name for the traces; empty: the one that their events give.
            retry_seconds: How long a write is tried again while the store is locked, full or down.
            beside: Another writer of the same thread.
        """
        self.trace_ids: deque[str] = deque(maxlen=_REMEMBERED_TRACES)
        self.deadline: float | None = None
        self.in_store: threading.RLock = threading.RLock() if beside is None else beside.in_store
        self.store = store
        self._losses = losses
        self._app = app
        self._retry_seconds = retry_seconds
        self._ready = False
        self._problem = ""
        self._journal = Journal(store, app)

    def process(self, events: list[Event]) -> None:
        """Write a batch; never raises: what the store does not take in time is dropped and counted."""
        try:
            if events:
                self._add(events)
        except Exception:
            logger.exception("the recorder dropped %d events", len(events))
            for event in events:
                self._losses.count("store", event.trace_id)
            self._journal = Journal(self.store, self._app)  # What it holds may not be whole; the store's state is.

    def deliver(self, events: list[Event], step: SpoolPosition) -> bool:
        """Write events that a spool keeps until they are stored, together with its position.

        Returns:
            False when the store cannot be written now: nothing was, and nothing is counted as lost.
        """
        try:
            delivered = self._add(events, step)
        except _CONFLICTS:  # Others write to the same trace all the time: later.
            delivered = False
        except Exception:
            self._journal.reset()
            raise
        if not delivered:
            self._journal.reset()
        return delivered

    def position(self, spool: str) -> int | None:
        """Return the number of the newest event of a spool that the store has; None: it cannot be read now."""
        found: list[int] = []
        if self._retry(lambda: found.append(self.store.spool_position(spool)), prepare=True):
            return found[-1]
        return None

    def forget_spool(self, spool: str) -> None:
        """Drop the position of a spool that is delivered and removed; one that stays does no harm."""
        with contextlib.suppress(Exception):
            self._retry(partial(self.store.forget_spool, spool))

    def _add(self, events: list[Event], step: SpoolPosition | None = None) -> bool:
        lost = self._losses.take()
        give_up = time.monotonic() + self._retry_seconds
        while True:
            applied, reachable = self._apply(events, step is None)
            lost_of_others = {key: counts for key, counts in lost.items() if not self._journal.count_lost(key, counts)}
            writes = self._journal.pending()
            try:
                written = (reachable or step is None) and self._write(writes, len(applied), reachable, step)
                break
            except _CONFLICTS:
                # Another process wrote to one of the traces: read what it wrote, and add to that.
                self._journal.forget(writes)
                if time.monotonic() > give_up:
                    self._losses.give_back(lost)
                    raise
                time.sleep(random.uniform(0.0, 0.02))
                events = applied
        self._losses.give_back(lost_of_others if written or step is None else lost)
        return written

    def _apply(self, events: list[Event], drop: bool) -> tuple[list[Event], bool]:
        """Add events to the journal; returns those that could be, and whether the store could be read."""
        applied: list[Event] = []
        reachable = self._look_up(events)
        for event in events:
            try:
                reachable = self._retry(partial(self._journal.prepare, event), patient=reachable, prepare=True)
                if reachable:
                    self._journal.apply(event)
                    applied.append(event)
                elif drop:
                    self._losses.count("store", event.trace_id)
                else:
                    break
            except Exception:
                logger.exception("an event of trace %s could not be applied", event.trace_id)
                self._losses.count("decode", event.trace_id)
        return applied, reachable

    def _look_up(self, events: list[Event]) -> bool:
        """Ask for a batch's traces at once; returns whether the store could be read."""
        try:
            return self._retry(partial(self._journal.look_up, events), prepare=True)
        except TypeError:  # An odd trace id: for `prepare` to find, and to count.
            return True

    def _write(self, writes: list[TraceWrite], events: int, patient: bool, step: SpoolPosition | None) -> bool:
        if not writes and step is None:
            return True
        try:
            written = self._retry(lambda: self.store.write(writes, step), patient=patient)
        except _CONFLICTS:
            if not self._retry(partial(self._is_stored, writes), patient=patient):
                raise
            written = True
        except Exception:
            logger.exception("the store refused a batch; its traces are written one by one")
            return self._write_each(writes, step)
        if written:
            self._stored(writes)
        elif step is None:
            self._journal.forget(writes, "store")
            self._losses.count("store", number=events)
        return written

    def _is_stored(self, writes: list[TraceWrite]) -> None:
        """Raise a conflict unless it was with the same writes, whose answer was lost with the connection."""
        if not self.store.holds(writes):
            raise StoreConflictError("another process has written to one of the traces")

    def _write_each(self, writes: list[TraceWrite], step: SpoolPosition | None) -> bool:
        refused: list[TraceWrite] = []
        if not self._retry(lambda: refused.extend(self.store.write_each(writes, step))):
            if step is None:
                self._journal.forget(writes, "store")
                self._losses.count("store", number=sum(map(_rows, writes)))
            return False
        left_out = {entry.header.id for entry in refused}
        self._stored([entry for entry in writes if entry.header.id not in left_out])
        for entry in refused:
            logger.error("the store refused trace %s", entry.header.id)
            self._journal.forget([entry], "store")
            self._losses.count("store", number=_rows(entry))
        return True

    def _stored(self, writes: list[TraceWrite]) -> None:
        known = set(self.trace_ids)
        self.trace_ids.extend(entry.header.id for entry in writes if entry.header.id not in known)
        self._journal.stored(writes)

    def _retry(self, attempt: Callable[[], None], *, patient: bool = True, prepare: bool = False) -> bool:
        """Run something that needs the store, again and again where it is locked, full or down.

        Args:
            attempt: What to run.
            patient: Whether to try more than once.
            prepare: Whether the store is prepared before, where that has not been done.

        Returns:
            False when it did not work within the time.
        """
        give_up = time.monotonic() + (self._retry_seconds if patient else 0.0)
        for pause in _endless(_PAUSES):
            try:
                with self.in_store:
                    if prepare and not self._ready:
                        self.store.prepare()
                        self._ready = True
                    attempt()
                self._say("")
                return True
            except _CONFLICTS:
                raise
            except StoreError as error:
                self._say(f"capture: {error}")
                return False
            except _TRANSIENT as error:
                limit = give_up if self.deadline is None else min(give_up, self.deadline)
                if time.monotonic() + pause > limit:
                    self._say(f"capture: store {self.store}: {error}")
                    return False
                time.sleep(pause)
        return False

    def _say(self, problem: str) -> None:
        """Log a problem with the store when it begins and when it is over, and not at each attempt between."""
        if problem and not self._problem:
            logger.warning("%s", problem)
        elif self._problem and not problem:
            logger.warning("capture: store %s takes events again", self.store)
        self._problem = problem

    def finish(self) -> None:
        """Mark the traces that still run as interrupted; never raises."""
        self._journal.interrupt_running()
        writes = self._journal.pending()
        with contextlib.suppress(Exception):
            if writes and self._retry(lambda: self.store.write(writes), prepare=True):
                self._stored(writes)
            self._retry(partial(self.store.interrupt, self._journal.running))


def _rows(entry: TraceWrite) -> int:
    return len(entry.nodes) + len(entry.calls) or 1


def _endless(pauses: tuple[float, ...]) -> Iterator[float]:
    yield from pauses
    while True:
        yield pauses[-1]
