"""The segments of a lane that another process still writes."""

from __future__ import annotations

import os
from pathlib import Path

from toolorch_integrations.spool.lane import SUFFIX, Segment
from toolorch_integrations.spool.records import HEADER_BYTES, whole_bytes


class GrowingLane:
    """Returns the segments as they stand now, each up to its last whole record: a record may be half written.

    Args:
        folder: Of the process that writes.
        name: Of the lane.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._pattern = f"{name}-*{SUFFIX}"
        self._whole: dict[Path, int] = {}

    def __call__(self) -> list[Segment]:
        """Return the segments."""
        paths = sorted(self._folder.glob(self._pattern))
        self._whole = {path: self._whole.get(path, 0) for path in paths}
        return [Segment(path, self._grown(path, last=path == paths[-1])) for path in paths]

    def _grown(self, path: Path, *, last: bool) -> int:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                whole = self._whole[path]
                while last and size - whole >= HEADER_BYTES:
                    step = whole_bytes(os.pread(file.fileno(), HEADER_BYTES, whole))
                    if step is None:  # Damaged: for the reader to pass over.
                        whole = size
                    elif whole + step > size:
                        break
                    else:
                        whole += step
        except FileNotFoundError:  # The store has it, and it was removed just now.
            return 0
        self._whole[path] = whole if last else size
        return self._whole[path]
