"""What a program writes, kept up to a limit, and what its end says."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from toolorch_serving.sandbox.result import Reason

_CPU = 128 + signal.SIGXCPU


@dataclass(slots=True)
class OutputStream:
    """An output of a program.

    Attributes:
        limit: Bytes that are kept.
        kept: The first bytes of it.
        cut: Whether more came.
    """

    limit: int
    kept: bytearray = field(default_factory=bytearray)
    cut: bool = False

    def take(self, piece: bytes) -> None:
        """Keep as much of a piece as there is room for."""
        room = self.limit - len(self.kept)
        self.cut = self.cut or len(piece) > room
        self.kept += piece[:room]

    def text(self) -> str:
        """Return what was kept; bytes that are no text are replaced."""
        return self.kept.decode("utf-8", errors="replace")


def reason_of(code: int | None, error: str) -> Reason | None:
    """Return why a program that ended was ended, as far as its exit status tells."""
    if code == _CPU:
        return Reason.TIMEOUT
    if code == 1 and (error.strip().splitlines() or [""])[-1].startswith("MemoryError"):
        return Reason.MEMORY
    return Reason.KILLED if code is not None and code > 128 else None
