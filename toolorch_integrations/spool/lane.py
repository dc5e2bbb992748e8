"""A lane: a row of segment files that is written at one end and read, then removed, at the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolorch_integrations.spool.records import HEADER_BYTES, Record, header, read_records

SUFFIX = ".records"


@dataclass(slots=True)
class Segment:
    """One file of a lane."""

    path: Path
    size: int = 0
    """Bytes of whole records."""
    last: int = 0
    """Number of its last record."""


class Lane:
    """The writing end. Not safe across threads: its spool's lock guards it."""

    def __init__(self, folder: Path, name: str, segment_bytes: int, fsync: bool) -> None:
        self.segments: list[Segment] = []
        self.bytes = 0
        self._folder = folder
        self._name = name
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._file = -1
        self._made = 0

    def append(self, kind: int, number: int, payload: bytes) -> None:
        """Write a record with one system call; it then survives the process.

        Raises:
            OSError: The disk does not take it; the file is as it was before.
        """
        if self._file < 0 or self.segments[-1].size >= self._segment_bytes:
            self._begin_segment()
        segment = self.segments[-1]
        size = HEADER_BYTES + len(payload)
        try:
            written = os.writev(self._file, (header(kind, number, payload), payload))
            if written != size:
                raise OSError(f"the disk took {written} of {size} bytes")
            if self._fsync:
                os.fdatasync(self._file)
        except OSError:
            self._take_back(segment)
            raise
        segment.size += size
        segment.last = number
        self.bytes += size

    def trim(self, stored: int, keep: int = 0) -> None:
        """Remove the segments all of whose records have numbers up to `stored`.

        Args:
            stored: What the store has.
            keep: Leave the file that is written while it has fewer bytes: to make one anew takes longer than a record.
        """
        while self.segments and self.segments[0].last <= stored:
            if len(self.segments) == 1:
                if self.segments[0].size < keep:
                    return
                self.close()
            segment = self.segments.pop(0)
            self.bytes -= segment.size
            segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file that is written; the next record begins another."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin_segment(self) -> None:
        self.close()
        self._made += 1
        path = self._folder / f"{self._name}-{self._made:08d}{SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.segments.append(Segment(path))

    def _take_back(self, segment: Segment) -> None:
        try:
            os.ftruncate(self._file, segment.size)
        except OSError:  # What is torn in the middle, a reader passes over.
            self.close()


def segments_of(folder: Path, name: str) -> list[Segment]:
    """Return the segments that a lane of another process has left."""
    return [Segment(path, path.stat().st_size) for path in sorted(folder.glob(f"{name}-*{SUFFIX}"))]


class LaneReader:
    """The reading end; it does not disturb the writing one.

    Attributes:
        damaged: Stretches that were no whole records.
        reads: How often it has read from a file.
    """

    def __init__(self, segments: Callable[[], list[Segment]]) -> None:
        """Take a function that returns the lane's segments as they stand now."""
        self.damaged = 0
        self.reads = 0
        self._segments = segments
        self.rewind()

    def rewind(self) -> None:
        """Begin again at the first segment that is left."""
        self._path: Path | None = None
        self._offset = 0
        self._records: Iterator[Record | None] = iter(())
        self._next: Record | None = None

    def peek(self) -> Record | None:
        """Return the next record without taking it; None: there is none now."""
        while self._next is None:
            for found in self._records:
                if found is not None:
                    self._next = found
                    break
                self.damaged += 1
            else:
                if not self._read_on():
                    return None
        return self._next

    def pop(self) -> None:
        """Take the record that `peek` returned."""
        self._next = None

    def _read_on(self) -> bool:
        for segment in self._segments():
            if self._path is not None and segment.path < self._path:
                continue
            offset = self._offset if segment.path == self._path else 0
            if segment.size > offset:
                with segment.path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(segment.size - offset)
                self.reads += 1
                self._path, self._offset = segment.path, segment.size
                self._records = read_records(data)
                return True
        return False
