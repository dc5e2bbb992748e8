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
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from toolorch_integrations.events import Event
from toolorch_integrations.journal import Journal
from toolorch_integrations.losses import Losses, without_notes
from toolorch_integrations.patience import CONFLICTS, Patience
from toolorch_integrations.store import SpoolPosition, StoreConflictError, TraceStore, TraceWrite

logger = logging.getLogger(__name__)

_REMEMBERED_TRACES = 10_000
_SETTLED = 256
"""Traces whose losses are noted at a time."""


class Writer:
    """Stores events; used by one thread.

    Attributes:
        store: What is written.
        trace_ids: Ids of the newest traces that were written.
        patience: How the store is used.
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
            beside: Another writer of the same thread, which notes the losses that no event has noted.
        """
        self.trace_ids: deque[str] = deque(maxlen=_REMEMBERED_TRACES)
        in_store = threading.RLock() if beside is None else beside.patience.in_store
        self.patience: Patience = Patience(store, retry_seconds, in_store)
        self.store = store
        self._losses = losses
        self._app = app
        self._settles = beside is None
        self._journal = Journal(store, app)

    def process(self, events: list[Event]) -> None:
        """Write a batch; never raises: what the store does not take in time is dropped and counted."""
        try:
            if not events or self._add(events):
                self.settle()
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
        except CONFLICTS:  # Others write to the same trace all the time: later.
            delivered = False
        except Exception:
            self._journal.reset()
            raise
        if delivered:
            self.settle()
        else:
            self._journal.reset()
        return delivered

    def settle(self, *, patient: bool = False) -> None:
        """Note what was lost in traces that have ended, or whose parts could not be stored; never raises.

        No event need follow for it. It is for when the store takes events, or when nothing more comes.

        Args:
            patient: Whether to try more than once.
        """
        while self._settles and ((lost := self._losses.take(_SETTLED)) or self._journal.lacks_part):
            try:
                if not self._settle(lost, patient):
                    return
            except CONFLICTS:
                self._losses.give_back(lost)
                return
            except Exception:
                logger.exception("what was lost of %d traces could not be noted", len(lost))
                self._journal.reset()
                return

    def position(self, spool: str) -> int | None:
        """Return the number of the newest event of a spool that the store has; None: it cannot be read now."""
        found: list[int] = []
        if self.patience(lambda: found.append(self.store.spool_position(spool)), prepare=True):
            return found[-1]
        return None

    def forget_spool(self, spool: str) -> None:
        """Drop the position of a spool that is delivered and removed; one that stays does no harm."""
        with contextlib.suppress(Exception):
            self.patience(partial(self.store.forget_spool, spool))

    def _add(self, events: list[Event], step: SpoolPosition | None = None) -> bool:
        """Write events, with what was lost of their traces; returns whether the store has taken them all."""
        taken = self._losses.take_of({event.trace_id for event in events})
        applied, lost = without_notes(events, taken)
        reachable, left = True, lost

        def attempt() -> bool:
            nonlocal applied, reachable, left
            applied, reachable = self._apply(applied, step is None)
            left = self._count(lost)
            return (reachable or step is None) and self._write(
                self._journal.pending(), len(applied), patient=reachable, step=step
            )

        try:
            written = self._without_conflict(attempt)
        except Exception:
            self._losses.give_back(taken)
            raise
        self._losses.give_back(left if written or step is None else taken)
        return written and reachable

    def _settle(self, lost: dict[str, Counter[str]], patient: bool) -> bool:
        left = lost

        def attempt() -> bool:
            nonlocal left
            if not self.patience(partial(self._journal.reopen, lost), patient=patient, prepare=True):
                return False
            left = self._count(lost)
            return self._write(self._journal.pending(), 0, patient=patient)

        settled = self._without_conflict(attempt)
        (self._losses.keep if settled else self._losses.give_back)(left)
        return settled

    def _count(self, lost: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
        """Note losses in the open traces; returns those of others."""
        return {key: counts for key, counts in lost.items() if not self._journal.count_lost(key, counts)}

    def _without_conflict(self, attempt: Callable[[], bool]) -> bool:
        """Read, apply and write, and again where another process has written to one of the traces."""
        give_up = time.monotonic() + self.patience.seconds
        while True:
            try:
                return attempt()
            except CONFLICTS:
                # What the other has written is read, and added to.
                self._journal.forget(self._journal.pending())
                if time.monotonic() > give_up:
                    raise
                time.sleep(random.uniform(0.0, 0.02))

    def _apply(self, events: list[Event], drop: bool) -> tuple[list[Event], bool]:
        """Add events to the journal; returns those that could be, and whether the store could be read."""
        applied: list[Event] = []
        reachable = self.patience(partial(self._journal.look_up, events), prepare=True)
        for event in events:
            try:
                reachable = self.patience(partial(self._journal.prepare, event), patient=reachable, prepare=True)
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

    def _write(
        self, writes: list[TraceWrite], events: int, *, patient: bool, step: SpoolPosition | None = None
    ) -> bool:
        if not writes and step is None:
            return True
        try:
            written = self.patience(lambda: self.store.write(writes, step), patient=patient)
        except CONFLICTS:
            if not self.patience(partial(self._is_stored, writes), patient=patient):
                raise
            written = True
        except Exception:
            logger.exception("the store refused a batch; its traces are written one by one")
            return self._write_each(writes, step, noting=not events)
        if written:
            self._stored(writes)
        elif step is None:
            self._journal.forget(writes, "store")
            if events:
                self._losses.count("store", number=events)
        return written

    def _is_stored(self, writes: list[TraceWrite]) -> None:
        """Raise a conflict unless it was with the same writes, whose answer was lost with the connection."""
        if not self.store.holds(writes):
            raise StoreConflictError("another process has written to one of the traces")

    def _write_each(self, writes: list[TraceWrite], step: SpoolPosition | None, *, noting: bool) -> bool:
        refused: list[TraceWrite] = []
        if not self.patience(lambda: refused.extend(self.store.write_each(writes, step))):
            if step is None:
                self._journal.forget(writes, "store")
                self._losses.count("store", number=sum(map(_rows, writes)))
            return False
        left_out = {entry.header.id for entry in refused}
        self._stored([entry for entry in writes if entry.header.id not in left_out])
        for entry in refused:
            logger.error("the store refused trace %s", entry.header.id)
            header_only = not entry.nodes and not entry.calls
            self._journal.forget([entry], "" if header_only else "store")  # A refused header is no use any more.
            self._losses.count("store", entry.header.id if header_only and not noting else "", _rows(entry))
        return True

    def _stored(self, writes: list[TraceWrite]) -> None:
        known = set(self.trace_ids)
        self.trace_ids.extend(entry.header.id for entry in writes if entry.header.id not in known)
        self._journal.stored(writes)

    def finish(self) -> None:
        """Mark the traces that still run as interrupted, and note what was lost; never raises."""
        self._journal.interrupt_running()
        writes = self._journal.pending()
        with contextlib.suppress(Exception):
            if writes and self.patience(lambda: self.store.write(writes), prepare=True):
                self._stored(writes)
            self.patience(partial(self.store.interrupt, self._journal.running))
        self.settle(patient=True)


def _rows(entry: TraceWrite) -> int:
    return len(entry.nodes) + len(entry.calls) or 1
