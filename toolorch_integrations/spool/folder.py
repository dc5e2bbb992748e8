"""The folders of a spool: one for each process that writes, locked while it lives, adopted when it is dead."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolorch_integrations.errors import StoreError
from toolorch_integrations.owner import Owner
from toolorch_integrations.spool.lane import Lane, LaneReader, Segment, segments_of
from toolorch_integrations.spool.reader import SpoolReader

LANES = ("put", "decoded")
"""What was written as it was put, and what the writer thread decoded while the store was down."""

KEPT_BYTES = 2**20
"""A segment that is written is not removed before it has so many bytes, or its process is idle."""

_LOCK = "lock"
_FACTS = "facts.json"


class SpoolFullError(StoreError):
    """A process's part of a spool has all the bytes that it may have."""


@dataclass(frozen=True, slots=True)
class Spool:
    """Where events wait for a store.

    Example:
        >>> recorder = Recorder(url, spool=Spool(Path("/var/lib/app/spool"), max_bytes=10 * 2**30))
    """

    folder: Path
    """On a local disk; several processes share it."""
    max_bytes: int = 2**30
    """Of one process; what comes beyond is dropped and counted under "spool"."""
    segment_bytes: int = 8 * 2**20
    """A file that has so many bytes is followed by another."""
    fsync: bool = False
    """Whether `put` waits for the disk, so that events survive the machine too; takes milliseconds an event."""
    eager: bool = False
    """Whether what is deferred is decoded by the thread that puts it, and so is on disk too when `put` returns."""

    def check(self) -> None:
        """Make the folder.

        Raises:
            StoreError: It cannot be made or written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            usable = os.access(self.folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise StoreError(f"spool {self.folder} cannot be made: {error}; give a folder that is writable") from error
        if not usable:
            raise StoreError(f"spool {self.folder} cannot be written; give a folder that is writable")


class OwnPart:
    """A process's own part of a spool. Not safe across threads.

    Attributes:
        id: Its name; under it the store keeps how much of it is there.
        last: Number of the newest event.
        lanes: See `LANES`.
        folder: Its files.
        lock: Descriptor of its lock; a child process that has it too keeps the part from being adopted.
    """

    def __init__(self, spool: Spool, store_key: str, app: str) -> None:
        """Make a folder of its own.

        Args:
            spool: Where.
            store_key: Tells one store from another: a part is only adopted for the store that it was meant for.
            app: The recorder's name for its traces.

        Raises:
            OSError: The folder cannot be made.
        """
        self.id = f"{store_key}-{uuid.uuid4().hex}"
        self.last = 0
        self._max_bytes = spool.max_bytes
        self.folder = spool.folder / self.id
        hidden = spool.folder / f".{self.id}"
        hidden.mkdir(mode=0o700)
        try:
            self.lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            owner = Owner.current()
            facts = {"app": app, "host": owner.host, "pid": owner.pid, "created": time.time()}
            (hidden / _FACTS).write_text(json.dumps(facts))
            hidden.rename(self.folder)  # Nobody sees a part that is not locked yet.
        except OSError:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        self.lanes = [Lane(self.folder, name, spool.segment_bytes, spool.fsync) for name in LANES]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(lane.bytes for lane in self.lanes)

    def append(self, kind: int, number: int, payload: bytes, *, decoded: bool = False, important: bool = False) -> None:
        """Write one event.

        Args:
            kind: See `codec`.
            number: Higher than those before it in its lane.
            payload: See `codec`.
            decoded: Whether it goes to the lane of what the writer thread decoded.
            important: Whether it may go a little over the limit.

        Raises:
            SpoolFullError: The limit of bytes is reached.
            OSError: The disk does not take it.
        """
        limit = self._max_bytes * (1.05 if important else 1.0)
        if self.size + len(payload) > limit:
            raise SpoolFullError(f"spool {self.folder}: {self.size} bytes wait for the store, which is the limit")
        self.lanes[decoded].append(kind, number, payload)

    def trim(self, stored: int, keep: int = KEPT_BYTES) -> None:
        """Remove the files that the store has all of; see `Lane.trim`."""
        for lane in self.lanes:
            lane.trim(stored, keep)

    def remove(self) -> None:
        """Remove it all: the store has it."""
        remove_part(self.folder)
        self.leave()

    def leave(self) -> None:
        """Close the files and the lock: what is left may be adopted. A forked child's parent keeps it."""
        for lane in self.lanes:
            lane.close()
        os.close(self.lock)


class AdoptedPart:
    """The part of a process that is dead, locked by this one."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.id = folder.name
        facts = {}
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads((folder / _FACTS).read_text())
        self.app = str(facts.get("app", ""))
        self.reader = SpoolReader(*(LaneReader(_fixed(folder, name)) for name in LANES))
        self._folder = folder
        self._lock = lock

    def remove(self) -> None:
        """Remove it all: the store has it."""
        remove_part(self._folder)
        self.leave()

    def leave(self) -> None:
        """Let go of the lock: another process may go on."""
        os.close(self._lock)


def dead_parts(spool: Spool, store_key: str, without: Container[str] = ()) -> Iterator[AdoptedPart]:
    """Yield the parts of dead processes, each locked for this one; leave or remove each."""
    for folder in sorted(spool.folder.glob(f"{store_key}-*")):
        if folder.name not in without:
            part = None
            with contextlib.suppress(OSError):  # Its process lives, or another one has adopted it.
                part = _adopt(folder)
            if part is not None:
                yield part


def remove_part(folder: Path) -> None:
    """Remove a part in one step, as far as others see; one that is gone already is well."""
    hidden = folder.with_name(f".{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _adopt(folder: Path) -> AdoptedPart | None:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(lock), (folder / _LOCK).stat())  # Else another has delivered and removed it.
        part = AdoptedPart(folder, lock) if same else None
    except OSError:
        os.close(lock)
        raise
    if part is None:
        os.close(lock)
    return part


def _fixed(folder: Path, name: str) -> Callable[[], list[Segment]]:
    segments = segments_of(folder, name)
    return lambda: segments
