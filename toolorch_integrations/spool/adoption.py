"""Delivering what dead processes have left in a spool."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass

from toolorch_integrations.decoding import Decoder
from toolorch_integrations.losses import Losses
from toolorch_integrations.spool.codec import UnknownKindError
from toolorch_integrations.spool.delivery import Delivery
from toolorch_integrations.spool.folder import AdoptedPart, Spool, dead_parts
from toolorch_integrations.writer import Writer

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often a process looks for the parts of dead ones."""

RETRY_SECONDS = 1.0
BATCH = 256


@dataclass(slots=True)
class _Work:
    part: AdoptedPart
    writer: Writer
    delivery: Delivery


class Adopter:
    """Takes over one dead part at a time, and delivers it a batch at a time.

    Attributes:
        next_at: `time.monotonic()` before which `step` has nothing to do.
    """

    def __init__(self, spool: Spool, beside: Writer, decoder: Decoder, losses: Losses) -> None:
        """Take a recorder's spool and what its writer thread works with."""
        self.next_at = 0.0
        self._spool = spool
        self._beside = beside
        self._decoder = decoder
        self._losses = losses
        self._work: _Work | None = None
        self._foreign: set[str] = set()

    def look(self) -> bool:
        """Adopt a part, if one is dead and none is in work; returns whether there is work."""
        if self._work is None:
            self._work = self._next()
        return self._work is not None

    def step(self) -> None:
        """Deliver a batch, if it is time; never raises."""
        if time.monotonic() < self.next_at:
            return
        try:
            busy = self.look() and self._deliver()
        except UnknownKindError as error:
            logger.error("capture: %s", error)
            self._put_aside()
            busy = True
        except Exception:
            logger.exception("capture: a spool cannot be delivered")
            self._put_aside()
            busy = True
        if not busy:
            self.next_at = time.monotonic() + LOOK_SECONDS * random.uniform(0.8, 1.2)

    def leave(self) -> None:
        """Let go of what is in work."""
        if self._work is not None:
            self._work.part.leave()
            self._work = None

    def _next(self) -> _Work | None:
        for part in dead_parts(self._spool, self._beside.store.key, self._foreign):
            writer = Writer(self._beside.store, self._losses, part.app, RETRY_SECONDS, self._beside)
            return _Work(part, writer, Delivery(part.id, writer, self._decoder, self._losses))
        return None

    def _deliver(self) -> bool:
        """Deliver a batch; returns whether to go on at once or at `next_at`, rather than to look again later."""
        work = self._work
        assert work is not None
        reader = work.part.reader
        delivery = work.delivery
        ready = delivery.locate() and delivery.retry()
        records = reader.take(BATCH, delivery.position) if ready else []
        if not ready or (records and not delivery.deliver_records(records)):
            self.next_at = time.monotonic() + RETRY_SECONDS
        elif not records:
            if reader.damaged:
                # What the kill tore was not put yet; a bad sector is told from it by what follows, which was read.
                logger.warning("capture: %d records in the spool of %s were torn", reader.damaged, work.part.id)
            work.writer.finish()
            work.part.remove()
            work.writer.forget_spool(work.part.id)
            self._work = None
        return True

    def _put_aside(self) -> None:
        if self._work is not None:
            self._foreign.add(self._work.part.id)
        self.leave()
