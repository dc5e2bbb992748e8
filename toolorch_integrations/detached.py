"""A recorder whose writer is a process of its own: for servers, whose event loop would wait for the writer's Python.

The two talk through the files of a spool. `put` appends to them with one system call; the other process reads them,
decodes, and writes the store, and says how far it is, so that the files can be removed. It outlives a killed app
until everything is stored; one that dies itself is started again and goes on from where the store is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from toolorch_integrations.decoding import Decoder, trace_of
from toolorch_integrations.events import Deferred, EncodedEvents, Event, TraceAnnotated, TraceEnded, TraceStarted
from toolorch_integrations.losses import Losses
from toolorch_integrations.spool.codec import pack
from toolorch_integrations.spool.folder import OwnPart, Spool, SpoolFullError
from toolorch_integrations.store import TraceStore

logger = logging.getLogger(__name__)

WAKE_SECONDS = 0.02
"""The writer is told at most so often that more was put; it waits for longer than that before it reads."""
_REPORTS_EVERY = 32
"""Events between two looks at what the writer has reported."""
_NOTES = 16
"""Traces whose losses are written with an event of another: few, as the app waits for it."""
_RESTART_SECONDS = 1.0
_LOOK = 0.01
"""Seconds between two looks while someone waits."""
_SLOW = 0.5
"""Share of a spool's bytes from which on `pause` asks for patience."""
_LONGEST_PAUSE = 0.5


class DetachedRecorder:
    """Takes events from any thread or event loop; a process of its own writes them to a store.

    Args:
        store: The store, or its file name or URL.
        spool: Folder in which events wait for the store, on a local disk.
        app: Name for the traces; empty: the one that their events give.
        niceness: Of the writer's process: the app's own work goes first.

    Attributes:
        store: The store that is written; this process only reads it.

    Raises:
        StoreError: The URL is not usable, or the folder cannot be made.

    Example:
        >>> recorder = DetachedRecorder("traces.db", spool="spool")  # doctest: +SKIP
    """

    def __init__(
        self, store: TraceStore | str | Path, *, spool: Spool | str | Path, app: str = "", niceness: int = 10
    ) -> None:
        self.store = store if isinstance(store, TraceStore) else TraceStore(store)
        self._owns_store = not isinstance(store, TraceStore)
        self._spool = spool if isinstance(spool, Spool) else Spool(Path(spool))
        self._spool.check()
        self._app = app
        self._niceness = niceness
        self._losses = Losses()
        self._decoder = Decoder(self._losses)
        self._lock = threading.RLock()
        self._part = OwnPart(self._spool, self.store.key, app)
        self._last = 0
        self._stored = 0
        self._lost_by_writer: Counter[str] = Counter()
        self._report = b""
        self._closed = False
        self._writer: subprocess.Popen[bytes] | None = None
        self._started_at = -_RESTART_SECONDS
        self._woken_at = 0.0
        self._start()

    @property
    def dropped(self) -> Counter[str]:
        """How many events were lost, by reason; as `Recorder.dropped`."""
        return self._losses.dropped + self._lost_by_writer

    @property
    def spooled_bytes(self) -> int:
        """Bytes on disk that the store may not have yet."""
        return self._part.size

    def put(self, event: Event | EncodedEvents) -> None:
        """Write an event to the spool; it is in a file when this returns. Never raises.

        Args:
            event: What happened. A `Deferred` is decoded at once.
        """
        for item in self._decoder(event) if isinstance(event, Deferred) else [event]:
            try:
                kind, payload = pack(item)
            except Exception:
                logger.exception("an event cannot be written")
                self._losses.count("decode", trace_of(item))
                continue
            with self._lock:
                self._append(kind, payload, item)
                self._note(self._losses.take(_NOTES))
        self._losses.warn()

    def pause(self) -> float:
        """Return the seconds that an app should wait before it puts more: 0, but when the writer is far behind."""
        full = self._part.size / self._spool.max_bytes
        return 0.0 if full < _SLOW else min(1.0, (full - _SLOW) / (1.0 - _SLOW)) * _LONGEST_PAUSE

    def flush(self, timeout: float | None = 30.0) -> bool:
        """Wait until all that was put before is in the store; False when the time ran out.

        Args:
            timeout: Seconds; None waits for ever.
        """
        with self._lock:
            self._note(self._losses.take())
        target = self._last
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                self._read_reports()
                if self._stored >= target:
                    return True
                self._revive()
            if give_up is not None and time.monotonic() > give_up:
                return False
            time.sleep(_LOOK)

    def close(self, timeout: float | None = 30.0) -> bool:
        """Have the writer store the rest and end, traces that still run marked as interrupted.

        Args:
            timeout: Seconds; after them it goes on by itself.

        Returns:
            False when the time ran out.
        """
        with self._lock:
            if self._closed:
                return self._stored >= self._last
            self._note(self._losses.take(), important=True)
            self._closed = True
            self._revive()
            writer = self._writer
        ended = writer is not None and self._end(writer, timeout)
        if ended and self._stored >= self._last:
            self._part.remove()
        else:
            logger.warning("capture: %d bytes of events wait in the spool for the store", self._part.size)
            self._part.leave()
        if self._owns_store:
            self.store.close()
        self._losses.warn()
        return self._stored >= self._last

    def _append(self, kind: int, payload: bytes, item: Event | EncodedEvents) -> None:
        if self._closed:
            self._losses.count("closed", item.trace_id)
            return
        important = isinstance(item, TraceStarted | TraceEnded)
        try:
            self._note(self._losses.take_of([item.trace_id]), important=important)
            self._part.append(kind, self._last + 1, payload, important=important)
        except (OSError, SpoolFullError) as error:
            logger.warning("capture: an event is lost: %s", error)
            self._losses.count("spool", item.trace_id)
            return
        self._last += 1
        self._wake()
        if self._last % _REPORTS_EVERY == 0:
            self._read_reports()

    def _note(self, losses: dict[str, Counter[str]], *, important: bool = False) -> None:
        """Tell the writer what this process has lost of traces, whether or not another event of them follows."""
        while losses and not self._closed:
            trace_id, lost = losses.popitem()
            kind, payload = pack(TraceAnnotated(trace_id, lost=lost))
            try:
                self._part.append(kind, self._last + 1, payload, important=important)
            except (OSError, SpoolFullError):
                self._losses.give_back(losses | {trace_id: lost})
                return
            self._last += 1
            self._wake()

    def _wake(self) -> None:
        if self._writer is None or self._writer.stdin is None:
            self._revive()
            return
        now = time.monotonic()
        if now - self._woken_at < WAKE_SECONDS:
            return
        self._woken_at = now
        try:
            os.write(self._writer.stdin.fileno(), b"\n")
        except BlockingIOError:
            pass  # It has not read thousands: it is awake.
        except OSError:
            self._revive()

    def _revive(self) -> None:
        """Start the writer again if it has died."""
        if self._writer is not None and self._writer.poll() is None:
            return
        if time.monotonic() - self._started_at < _RESTART_SECONDS:
            return
        if self._writer is not None:
            logger.warning("capture: the writer's process ended with %s: it is started again", self._writer.returncode)
            self._forget(self._writer)
        self._start()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        command = [sys.executable, "-m", "toolorch_integrations.detached_writer"]
        try:
            self._writer = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(self._part.lock,),
                start_new_session=True,  # A signal for the app is not for it.
            )
        except OSError as error:
            logger.warning("capture: the writer's process cannot be started, events wait in the spool: %s", error)
            return
        url = self.store.url.render_as_string(hide_password=False)
        facts = {"store": url, "spool": str(self._spool.folder), "part": str(self._part.folder), "app": self._app}
        stdin, stdout = self._writer.stdin, self._writer.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(facts | {"niceness": self._niceness}).encode() + b"\n")
        os.set_blocking(stdin.fileno(), False)
        os.set_blocking(stdout.fileno(), False)

    def _read_reports(self) -> None:
        writer = self._writer
        data = None if writer is None or writer.stdout is None else writer.stdout.read(2**16)
        if not data:
            return
        *lines, self._report = (self._report + data).split(b"\n")
        if lines:
            report = json.loads(lines[-1])
            self._stored = max(self._stored, report["stored"])
            self._lost_by_writer = Counter(report["dropped"])
            self._part.trim(self._stored)

    def _end(self, writer: subprocess.Popen[bytes], timeout: float | None) -> bool:
        if writer.stdin is not None:
            writer.stdin.close()
        try:
            writer.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._read_reports()
        self._forget(writer)
        return True

    def _forget(self, writer: subprocess.Popen[bytes]) -> None:
        for pipe in (writer.stdin, writer.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._writer = None
        self._report = b""
