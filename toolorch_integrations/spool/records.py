"""The format of a spool's files: one record after another, each whole or recognised as torn.

A record is `mark (2 bytes), kind (1), length (4), crc32 (4), number (8), payload`, little-endian. The checksum covers
kind, length, number and payload. What a kill, a full disk or a bad sector has damaged is passed over: reading goes on
at the next mark whose record is whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MARK = b"\xf7T"
_FACTS = struct.Struct("<BIQ")
_HEADER = struct.Struct("<2sBIIQ")
HEADER_BYTES = _HEADER.size
MAX_PAYLOAD = 2**30


class Record(NamedTuple):
    """One stored thing."""

    number: int
    """Place among all that the spool took, from 1."""
    kind: int
    """How the payload is packed; see `codec`."""
    payload: bytes


def header(kind: int, number: int, payload: bytes) -> bytes:
    """Return what stands before a payload in the file."""
    length = len(payload)
    checksum = zlib.crc32(payload, zlib.crc32(_FACTS.pack(kind, length, number)))
    return _HEADER.pack(MARK, kind, length, checksum, number)


def whole_bytes(head: bytes) -> int | None:
    """Return how long the record is that begins with these `HEADER_BYTES`; None: they are no header."""
    mark, _, length, _, _ = _HEADER.unpack(head)
    return HEADER_BYTES + length if mark == MARK and length <= MAX_PAYLOAD else None


def read_records(data: bytes) -> Iterator[Record | None]:
    """Yield the records of a file's content; None for each stretch that is damaged, the torn end included."""
    offset = 0
    while offset < len(data):
        found = _record_at(data, offset)
        if found is None:
            yield None
            offset = _next_whole(data, offset + 1)
            continue
        yield found
        offset += HEADER_BYTES + len(found.payload)


def _record_at(data: bytes, offset: int) -> Record | None:
    if len(data) - offset < HEADER_BYTES:
        return None
    mark, kind, length, checksum, number = _HEADER.unpack_from(data, offset)
    start = offset + HEADER_BYTES
    if mark != MARK or length > MAX_PAYLOAD or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(_FACTS.pack(kind, length, number))) != checksum:
        return None
    return Record(number, kind, payload)


def _next_whole(data: bytes, start: int) -> int:
    while (start := data.find(MARK, start)) >= 0:
        if _record_at(data, start) is not None:
            return start
        start += 1
    return len(data)
