"""Snapshots of the faiss index: one file that is whole or not there.

The database is the truth; a snapshot only saves the time to build the index again. So a snapshot that does not fit is
refused and the index is built anew, and one that is older is brought up to date from the database.
A file is a line of JSON, the index as faiss writes it, and the CRC-32 of all that.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from toolorch_serving.retrieval.dense import Shape
from toolorch_serving.retrieval.library import faiss

FORMAT = 1
_CHUNK = 2**22


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot holds.

    Attributes:
        index: Id of the index that it is of.
        last_row: No row above it is in.
        shape: Of the faiss index.
    """

    index: str
    last_row: int
    shape: Shape


class SnapshotError(Exception):
    """A snapshot cannot be used."""


def write_snapshot(path: Path, header: Header, index: Any) -> int:
    """Write a snapshot in place of the one that is there; return its bytes.

    Whenever the process is killed, the file at `path` is the old one or the new one, whole.
    """
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        checksum = 0

        def write(data: bytes) -> int:
            nonlocal checksum
            checksum = zlib.crc32(data, checksum)
            return file.write(data)

        write(json.dumps({"format": FORMAT, **asdict(header)}).encode() + b"\n")
        faiss.write_index(index, faiss.PyCallbackIOWriter(write, _CHUNK))
        file.write(checksum.to_bytes(4, "little"))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    unfinished.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size


def read_snapshot(path: Path) -> tuple[Header, Any]:
    """Return a snapshot's header and index.

    Raises:
        SnapshotError: There is none, it is damaged, or it is of another format.
    """
    try:
        with path.open("rb") as file:
            _check(file, path.stat().st_size)
            noted = json.loads(file.readline())
            if noted.pop("format") != FORMAT:
                raise SnapshotError("it is of another format")
            header = Header(noted["index"], noted["last_row"], Shape(**noted["shape"]))
            return header, faiss.read_index(faiss.PyCallbackIOReader(file.read, _CHUNK))
    except FileNotFoundError:
        raise SnapshotError("there is none") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise SnapshotError(f"it cannot be read ({type(error).__name__}: {error})") from error


def _check(file: BinaryIO, size: int) -> None:
    """Compare the checksum, before faiss believes any length in the file."""
    left, checksum = size - 4, 0
    while left > 0:
        data = file.read(min(left, _CHUNK))
        if not data:
            break
        checksum, left = zlib.crc32(data, checksum), left - len(data)
    if left or file.read(4) != checksum.to_bytes(4, "little"):
        raise SnapshotError("its checksum is wrong")
    file.seek(0)
