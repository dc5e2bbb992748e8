"""What the writer thread of a recorder does: from the queue into the store."""

from __future__ import annotations

from toolorch_integrations.decoding import Decoder
from toolorch_integrations.intake import Intake
from toolorch_integrations.writer import Writer


class Feed:
    """The writer thread's loop.

    Attributes:
        complete: Whether it has ended, with everything stored or counted as lost.
        grace: Seconds that closing waits beyond its own time, for what is only in memory to be written to disk.
        has_work: Whether it is to begin before anything is put.
    """

    grace = 0.0
    has_work = False

    def __init__(self, intake: Intake, writer: Writer, decoder: Decoder) -> None:
        """Take the queue, what decodes, and what writes."""
        self.complete = False
        self._intake = intake
        self._writer = writer
        self._decoder = decoder

    def run(self) -> None:
        """Work until the recorder is closed."""
        while not self.complete:
            taken = self._intake.take()
            self._writer.process([event for queued in taken.items for event in self._decoder(queued.item)])
            self.complete = any(mark.ends for mark in taken.flushes)
            if self.complete:
                self._writer.finish()
            for mark in taken.flushes:
                mark.set()

    def after_fork(self) -> None:
        """In a forked child: nothing of the parent's is to be closed."""
