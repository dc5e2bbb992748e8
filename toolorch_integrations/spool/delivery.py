"""From one part of a spool into the store, each event once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby

from toolorch_integrations.decoding import Decoder
from toolorch_integrations.events import Event
from toolorch_integrations.losses import Losses
from toolorch_integrations.spool.codec import UnknownKindError, unpack
from toolorch_integrations.spool.records import Record
from toolorch_integrations.store import SpoolPosition
from toolorch_integrations.writer import Writer

logger = logging.getLogger(__name__)


class Delivery:
    """Writes numbered events, and knows how far the store is.

    Attributes:
        position: Number of the newest event that is known to be stored.
        pending: What the store did not take yet: decoded once, tried again until it does.
    """

    def __init__(self, part: str, writer: Writer, decoder: Decoder, losses: Losses, *, new: bool = False) -> None:
        """Take a part of a spool.

        Args:
            part: Its name.
            writer: What writes the store.
            decoder: For records that are no events yet.
            losses: Where lost events are counted.
            new: The store has nothing of it yet.
        """
        self.position = 0
        self.pending: Sequence[tuple[int, list[Event]]] = ()
        self._part = part
        self._writer = writer
        self._decoder = decoder
        self._losses = losses
        self._located = new

    @property
    def reached(self) -> int:
        """Number of the newest event that was handed over, stored or pending."""
        return self.pending[-1][0] if self.pending else self.position

    def locate(self) -> bool:
        """Ask the store how far it is, unless that is known; False: it cannot be asked now."""
        if not self._located:
            found = self._writer.position(self._part)
            if found is not None:
                self.position, self._located = found, True
        return self._located

    def deliver_records(self, records: Sequence[Record]) -> bool:
        """Write what stands in the files; see `deliver`.

        Raises:
            UnknownKindError: This release does not know what stands there; nothing was written.
        """
        grouped = groupby(records, key=lambda record: record.number)
        return self.deliver([(number, list(self._events(group))) for number, group in grouped])

    def deliver(self, entries: Sequence[tuple[int, list[Event]]]) -> bool:
        """Write numbered events; those that the store has are passed over.

        Returns:
            False when the store cannot be written now: the events are pending.
        """
        self.pending = entries
        return self.retry()

    def retry(self) -> bool:
        """Write what is pending; False when the store cannot be written now."""
        if not self.locate():
            return False
        entries = [(number, events) for number, events in self.pending if number > self.position]
        if entries and not self._deliver_all(entries):
            return False
        self.pending = ()
        return True

    def _deliver_all(self, entries: Sequence[tuple[int, list[Event]]]) -> bool:
        try:
            return self._deliver(entries)
        except Exception:
            logger.exception("a batch of %d events could not be written; they are written one by one", len(entries))
            return all(self._deliver_one(*entry) for entry in entries)

    def _deliver(self, entries: Sequence[tuple[int, list[Event]]]) -> bool:
        step = SpoolPosition(self._part, self.position, entries[-1][0])
        self._located = self._writer.deliver([event for _, events in entries for event in events], step)
        if self._located:
            self.position = step.after
        return self._located

    def _deliver_one(self, number: int, events: list[Event]) -> bool:
        try:
            return self._deliver([(number, events)])
        except Exception:
            logger.exception("an event could not be written and is dropped")
            for event in events:
                self._losses.count("store", event.trace_id)
            return self._deliver([(number, [])])

    def _events(self, records: Iterator[Record]) -> Iterator[Event]:
        for record in records:
            try:
                yield from self._decoder(unpack(record.kind, record.payload))
            except UnknownKindError:
                raise
            except Exception:
                logger.exception("a record of a spool could not be read")
                self._losses.count("decode")
