"""The process behind a `DetachedRecorder`: reads the files of its spool and writes the store.

    python -m toolorch_integrations.detached_writer

It is started by the recorder. The first line of its standard input says what to do; each later byte, that more was put;
the end, that nothing more comes. On standard output it says how far the store is.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolorch_integrations.decoding import Decoder
from toolorch_integrations.detached import WAKE_SECONDS
from toolorch_integrations.losses import Losses
from toolorch_integrations.spool.adoption import Adopter
from toolorch_integrations.spool.delivery import Delivery
from toolorch_integrations.spool.folder import LANES, Spool, remove_part
from toolorch_integrations.spool.growing import GrowingLane
from toolorch_integrations.spool.lane import LaneReader
from toolorch_integrations.spool.reader import SpoolReader
from toolorch_integrations.store import TraceStore
from toolorch_integrations.writer import Writer

logger = logging.getLogger(__name__)

_BATCH = 128
_PATIENCE = 1.0
"""Seconds for which a write is tried again before what is new is read again."""
_RETRY = 1.0
_IDLE = 5.0
_ALONE = 60.0
"""Seconds for which it goes on without its recorder while the store is down; then the next process adopts the rest."""


class DetachedWriter:
    """Delivers one recorder's part of a spool while it grows.

    Args:
        facts: What the recorder says: `store`, `spool`, `part`, `app`, `niceness`.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._losses = Losses()
        self._store = TraceStore(facts["store"])
        decoder = Decoder(self._losses)
        self._writer = Writer(self._store, self._losses, facts["app"], _PATIENCE)
        part = Path(facts["part"])
        self._folder = part
        self._part = part.name
        self._delivery = Delivery(self._part, self._writer, decoder, self._losses)
        self._reader = SpoolReader(*(LaneReader(GrowingLane(part, name)) for name in LANES))
        self._adopter = Adopter(Spool(Path(facts["spool"])), self._writer, decoder, self._losses)
        self._reported = -1

    def run(self) -> None:
        """Work until the recorder has ended and everything is stored."""
        alone_since: float | None = None
        while True:
            more = self._step()
            if more:
                continue
            if more is False:
                self._writer.settle()
            if alone_since is None and more is False:
                self._adopter.step()
            if alone_since is None and not _listen(_RETRY if more is None else _IDLE):
                alone_since = time.monotonic()
            elif alone_since is not None and more is False:
                self._finish()
                return
            elif alone_since is not None:
                if time.monotonic() - alone_since > _ALONE:
                    logger.warning("capture: the store is down; what waits in the spool is left to the next process")
                    return
                time.sleep(_RETRY)

    def _step(self) -> bool | None:
        """Deliver a batch; returns whether there was one, None where the store cannot be written now."""
        if not self._delivery.locate() or not self._delivery.retry():
            return None
        records = self._reader.take(_BATCH, self._delivery.position)
        if records and not self._delivery.deliver_records(records):
            return None  # They are pending: decoded once, and what is faulty is counted once.
        self._say()
        return bool(records)

    def _say(self) -> None:
        if self._delivery.position != self._reported:
            self._reported = self._delivery.position
            report = {"stored": self._reported, "dropped": dict(self._losses.dropped)}
            with contextlib.suppress(OSError):  # The recorder is dead, or does not look: the next report says it all.
                os.write(sys.stdout.fileno(), json.dumps(report).encode() + b"\n")

    def _finish(self) -> None:
        self._writer.finish()
        self._adopter.leave()
        # A recorder that is dead removes nothing; files without a position would be adopted, and stored twice.
        remove_part(self._folder)
        self._writer.forget_spool(self._part)
        self._store.close()


def _listen(seconds: float) -> bool:
    """Wait until more was put, for some time at most; False: the recorder has ended."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if ready and not os.read(sys.stdin.fileno(), 2**16):
        return False
    if ready:
        time.sleep(2.5 * WAKE_SECONDS)  # What is put meanwhile comes without a word, and makes one transaction of many.
    return True


def main() -> None:
    """Work for the recorder that has started this process."""
    facts = b""
    while not facts.endswith(b"\n"):
        piece = os.read(sys.stdin.fileno(), 1)
        if not piece:
            return
        facts += piece
    found = json.loads(facts)
    with contextlib.suppress(OSError):
        os.nice(found["niceness"])
    os.set_blocking(sys.stdout.fileno(), False)
    gc.set_threshold(50_000)  # A decoded answer is hundreds of objects without a cycle: to look for one costs a tenth.
    DetachedWriter(found).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    main()
