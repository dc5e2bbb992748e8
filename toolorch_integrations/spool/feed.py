"""What the writer thread of a recorder with a spool does: nothing that was put is lost with the process or the store.

Most of the time events go the short way, from the queue into the store, and the files are written and removed beside
it. When the queue is full or the store is down, the files are the queue: the writer reads them from where the store
is. What is deferred waits in the queue in both cases, and what it gives is written to a second lane; the two are read
as one, in the order in which they were put.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from toolorch_integrations.decoding import Decoder
from toolorch_integrations.events import Event, TraceAnnotated
from toolorch_integrations.intake import BATCH, Flush, Queued, State, Taken
from toolorch_integrations.losses import Losses
from toolorch_integrations.spool.adoption import Adopter
from toolorch_integrations.spool.delivery import Delivery
from toolorch_integrations.spool.folder import KEPT_BYTES, LANES, Spool
from toolorch_integrations.spool.intake import SpooledIntake
from toolorch_integrations.spool.lane import LaneReader, Segment
from toolorch_integrations.spool.reader import SpoolReader
from toolorch_integrations.writer import Writer

logger = logging.getLogger(__name__)

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)


class SpooledFeed:
    """What the writer thread of a recorder with a spool does.

    Attributes:
        complete: Whether it has ended with everything stored.
        grace: See `Feed`.
    """

    grace = 5.0

    def __init__(self, intake: SpooledIntake, spool: Spool, writer: Writer, decoder: Decoder, losses: Losses) -> None:
        self._intake = intake
        self._writer = writer
        self._decoder = decoder
        self._plain = Decoder(losses)
        self._losses = losses
        self._flushes: list[Flush] = []
        self._delivery: Delivery | None = None
        self._reader = SpoolReader(*(LaneReader(partial(self._segments, place)) for place in range(len(LANES))))
        self._drained = 0
        self._failures = 0
        self._retry_at = 0.0
        self._adopter = Adopter(spool, writer, decoder, losses)
        self.complete = False

    @property
    def has_work(self) -> bool:
        """Whether dead processes have left something."""
        return self._adopter.look()

    def run(self) -> None:
        """Work until the recorder is closed."""
        ending: Flush | None = None
        while True:
            taken = self._intake.take(self._pause(ending))
            self._flushes += [mark for mark in taken.flushes if not mark.ends]
            ending = next((mark for mark in taken.flushes if mark.ends), ending)
            self._handle(taken)
            self._signal()
            if ending is None:
                self._adopter.step()
            elif not self._intake.behind and self._intake.empty:
                self._finish()
                return
            elif self._writer.patience.deadline is not None and time.monotonic() > self._writer.patience.deadline:
                self._leave()
                return

    def after_fork(self) -> None:
        """In a forked child: close the parent's files, whose locks it keeps."""
        self._adopter.leave()
        self._intake.after_fork()

    def _pause(self, ending: Flush | None) -> float:
        """Return how long to wait for more events."""
        now = time.monotonic()
        if self._intake.behind:
            return max(self._retry_at - now, 0.0)
        if ending is not None:
            return 0.0
        return max(self._adopter.next_at - now, 0.0)

    def _handle(self, taken: Taken) -> None:
        behind = self._intake.behind
        # Called once each, whatever becomes of what they return.
        decoded = [
            (queued.number, self._events(queued), queued.state)
            for queued in taken.items
            if not behind or queued.state is not State.SPOOLED
        ]
        if not behind:
            if not decoded:
                self._writer.settle()
            if not decoded or self._deliver([(number, events) for number, events, _ in decoded]):
                self._trim(idle=not taken.items and not taken.flushes)
                return
            self._fall_behind()
        for number, events, state in decoded:
            if state is not State.SPOOLED:
                self._intake.write_decoded(number, events)
        self._catch_up(taken)

    def _events(self, queued: Queued) -> list[Event]:
        return (self._decoder if queued.state is State.RAW else self._plain)(queued.item)

    def _fall_behind(self) -> None:
        with self._intake.lock:
            self._intake.behind = True
        self._reader.rewind()

    def _catch_up(self, taken: Taken) -> None:
        """Deliver a batch from the files, as far as everything before it is in them."""
        with self._intake.lock:
            complete = self._intake.empty
            if complete:
                self._drained = self._intake.last
        if not complete and taken.items:
            self._drained = taken.items[-1].number
        if time.monotonic() < self._retry_at:
            return
        delivery = self._ensure_delivery()
        if delivery is None or not delivery.retry():
            self._failed()
            return
        records = self._reader.take(BATCH, delivery.position, self._drained)
        if records:
            if delivery.deliver_records(records):
                self._failures, self._retry_at = 0, 0.0
                self._trim()
            else:
                self._failed()
            return
        with self._intake.lock:
            if self._intake.empty and self._intake.last == self._drained:
                self._intake.behind = False
                self._failures = 0

    def _failed(self) -> None:
        self._retry_at = time.monotonic() + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1

    def _deliver(self, entries: list[tuple[int, list[Event]]]) -> bool:
        delivery = self._ensure_delivery()
        if delivery is None:  # No spool can be made now: as without one.
            self._writer.process([event for _, events in entries for event in events])
            return True
        return delivery.deliver(entries)

    def _ensure_delivery(self) -> Delivery | None:
        if self._delivery is None:
            part = self._intake.open_part()  # What waits to be redacted is queued before anything is in a file.
            if part is not None:
                self._delivery = Delivery(part.id, self._writer, self._plain, self._losses, new=True)
        return self._delivery

    def _segments(self, place: int) -> list[Segment]:
        with self._intake.lock:
            part = self._intake.part
            return [] if part is None else list(part.lanes[place].segments)

    def _trim(self, idle: bool = False) -> None:
        part, delivery = self._intake.part, self._delivery
        if part is None or delivery is None:
            return
        with self._intake.lock:
            part.trim(delivery.position, 0 if idle else KEPT_BYTES)

    def _signal(self) -> None:
        position = self._delivery.position if self._intake.behind and self._delivery is not None else None
        for mark in list(self._flushes):
            if position is None or position >= mark.number:
                mark.set()
                self._flushes.remove(mark)

    def _finish(self) -> None:
        """Everything is stored: leave nothing behind."""
        self.complete = True
        self._writer.finish()
        self._adopter.leave()
        part = self._intake.part
        if part is not None:
            part.remove()
            self._writer.forget_spool(part.id)

    def _leave(self) -> None:
        """Time is up: what is not stored stays in the spool, for whoever opens it next."""
        self._adopter.leave()
        self._fall_behind()
        while not self._intake.empty:
            for queued in self._intake.take(0).items:
                if queued.state is not State.SPOOLED:
                    self._intake.write_decoded(queued.number, self._events(queued))
        notes: list[Event] = [TraceAnnotated(key, lost=lost) for key, lost in self._losses.take().items()]
        self._intake.write_decoded(self._intake.last + 1, notes)
        part = self._intake.part
        if part is not None:
            logger.warning("capture: %d bytes of events wait in the spool for the store", part.size)
            part.leave()


def spooled(
    spool: Spool | str | Path,
    writer: Writer,
    decoder: Decoder,
    losses: Losses,
    app: str,
    max_events: int,
    max_bytes: int,
) -> tuple[SpooledIntake, SpooledFeed]:
    """Return a recorder's intake and the work of its thread.

    Raises:
        StoreError: The spool's folder cannot be made or written.
    """
    spool = spool if isinstance(spool, Spool) else Spool(Path(spool))
    spool.check()
    intake = SpooledIntake(spool, writer.store.key, app, losses, decoder, max_events, max_bytes)
    return intake, SpooledFeed(intake, spool, writer, decoder, losses)
