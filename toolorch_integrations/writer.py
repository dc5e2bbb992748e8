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
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import Deferred, Event
from toolorch_integrations.journal import Journal
from toolorch_integrations.losses import Losses
from toolorch_integrations.redaction import Redactor
from toolorch_integrations.store import StoreConflictError, TraceStore, TraceWrite

logger = logging.getLogger(__name__)

_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_TRANSIENT = (OperationalError, InterfaceError, InternalError, PoolTimeoutError, OSError)
_CONFLICTS = (IntegrityError, StoreConflictError)
_REMEMBERED_TRACES = 10_000


class Writer:
    """Decodes, redacts and stores events; used by one thread.

    Attributes:
        trace_ids: Ids of the newest traces that were written.
        deadline: `time.monotonic()` after which nothing is tried again.
        in_store: Held while the database is used: a child forked in the middle of that would inherit the locks of
            its library.
    """

    def __init__(
        self, store: TraceStore, losses: Losses, app: str, redactor: Redactor | None, retry_seconds: float
    ) -> None:
        self.trace_ids: deque[str] = deque(maxlen=_REMEMBERED_TRACES)
        self.deadline: float | None = None
        self.in_store = threading.RLock()
        self._store = store
        self._losses = losses
        self._app = app
        self._redactor = redactor
        self._retry_seconds = retry_seconds
        self._ready = False
        self._journal = Journal(store, app)

    def process(self, batch: Sequence[Event | Deferred]) -> None:
        """Write a batch; never raises."""
        try:
            events = [event for item in batch for event in self._decode(item)]
            if events:
                self._add(events)
        except Exception:
            logger.exception("the recorder dropped %d events", len(batch))
            self._losses.count("store", number=len(batch))
            self._journal = Journal(self._store, self._app)  # What it holds may not be whole; the store's state is.

    def _decode(self, item: Event | Deferred) -> list[Event]:
        try:
            found = item() if callable(item) else item
            events: list[Event]
            if found is None:
                events = []
            elif isinstance(found, Event):
                events = [found]
            else:
                events = list(found)
            odd = [event for event in events if not isinstance(event, Event)]
            if odd:
                raise TypeError(f"a recorder takes the events of toolorch_integrations.events, got {odd[0]!r}")
            if self._redactor is None:
                return events
            before = self._redactor.failures
            events = [self._redactor.event(event) for event in events]
            if self._redactor.failures > before:
                self._losses.count("redaction", events[0].trace_id if events else "", self._redactor.failures - before)
            return events
        except Exception:
            logger.exception("an event could not be decoded")
            self._losses.count("decode", getattr(item, "trace_id", ""))
            return []

    def _add(self, events: list[Event]) -> None:
        lost = self._losses.take()
        give_up = time.monotonic() + self._retry_seconds
        while True:
            events, reachable = self._apply(events)
            lost_of_others = {key: counts for key, counts in lost.items() if not self._journal.count_lost(key, counts)}
            writes = self._journal.pending()
            try:
                self._write(writes, len(events), reachable)
                break
            except _CONFLICTS:
                # Another process wrote to one of the traces: read what it wrote, and add to that.
                self._journal.forget(writes)
                if time.monotonic() > give_up:
                    raise
                time.sleep(random.uniform(0.0, 0.02))
        self._losses.give_back(lost_of_others)

    def _apply(self, events: list[Event]) -> tuple[list[Event], bool]:
        """Add events to the journal; returns those that could be, and whether the store could be read."""
        applied: list[Event] = []
        reachable = True
        for event in events:
            try:
                reachable = self._retry(partial(self._prepare, event), patient=reachable)
                if not reachable:
                    self._losses.count("store", event.trace_id)
                    continue
                self._journal.apply(event)
                applied.append(event)
            except Exception:
                logger.exception("an event of trace %s could not be applied", event.trace_id)
                self._losses.count("decode", event.trace_id)
        return applied, reachable

    def _write(self, writes: list[TraceWrite], events: int, patient: bool) -> None:
        if not writes:
            return
        try:
            if self._retry(lambda: self._store.write(writes), patient=patient):
                self._stored(writes)
            else:
                self._journal.forget(writes, "store")
                self._losses.count("store", number=events)
        except _CONFLICTS:
            raise
        except Exception:
            logger.exception("the store refused a batch; its traces are written one by one")
            self._write_one_by_one(writes)

    def _write_one_by_one(self, writes: list[TraceWrite]) -> None:
        for entry in writes:
            try:
                with self.in_store:
                    self._store.write([entry])
                self._stored([entry])
            except Exception:
                logger.exception("the store refused trace %s", entry.header.id)
                self._journal.forget([entry], "store")
                self._losses.count("store", number=len(entry.nodes) + len(entry.calls) or 1)

    def _stored(self, writes: list[TraceWrite]) -> None:
        known = set(self.trace_ids)
        self.trace_ids.extend(entry.header.id for entry in writes if entry.header.id not in known)
        self._journal.stored(writes)

    def _prepare(self, event: Event) -> None:
        if not self._ready:
            self._store.prepare()
            self._ready = True
        self._journal.prepare(event)

    def _retry(self, attempt: Callable[[], None], *, patient: bool = True) -> bool:
        """Run something that needs the store, again and again where it is locked, full or down.

        Returns:
            False when it did not work within the time.
        """
        give_up = time.monotonic() + (self._retry_seconds if patient else 0.0)
        for pause in _endless(_PAUSES):
            try:
                with self.in_store:
                    attempt()
                return True
            except _CONFLICTS:
                raise
            except StoreError as error:
                logger.error("capture: %s", error)
                return False
            except _TRANSIENT as error:
                limit = give_up if self.deadline is None else min(give_up, self.deadline)
                if time.monotonic() + pause > limit:
                    logger.warning("capture: store %s: %s", self._store, error)
                    return False
                time.sleep(pause)
        return False

    def finish(self) -> None:
        """Mark the traces that still run as interrupted; never raises."""
        self._journal.interrupt_running()
        writes = self._journal.pending()
        with contextlib.suppress(Exception):
            if writes and self._retry(lambda: self._store.write(writes)):
                self._stored(writes)
            self._retry(partial(self._store.interrupt, self._journal.running))


def _endless(pauses: tuple[float, ...]) -> Iterator[float]:
    yield from pauses
    while True:
        yield pauses[-1]
