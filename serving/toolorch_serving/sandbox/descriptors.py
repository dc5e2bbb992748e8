"""Pipes and files in memory between a sandbox and its host."""

from __future__ import annotations

import fcntl
import os


class OpenDescriptors:
    """Descriptors that are closed together at the latest; none is inherited that is not passed on by number."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def pipe(self) -> tuple[int, int]:
        """Return a pipe's end to read from and its end to write to."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def memory(self) -> int:
        """Return an empty file in memory."""
        return self.keep(os.memfd_create("toolorch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))

    def process(self, number: int) -> int:
        """Return a handle of a process; it becomes readable when the process ends.

        Raises:
            ProcessLookupError: It has ended.
        """
        return self.keep(os.pidfd_open(number))

    def keep(self, descriptor: int) -> int:
        """Close a descriptor with the others; return it."""
        self._open.add(descriptor)
        return descriptor

    def close(self, *descriptors: int) -> None:
        """Close some now."""
        for descriptor in descriptors:
            self._open.remove(descriptor)
            os.close(descriptor)

    def close_all(self) -> None:
        """Close what is still open."""
        while self._open:
            os.close(self._open.pop())


def fill(descriptor: int, content: bytes) -> None:
    """Write a file in memory for good, and go back to its beginning, which all who have inherited it share."""
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
