"""What came of a program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a program was ended before its own end."""

    TIMEOUT = "timeout"
    """Wall clock or processor time."""
    MEMORY = "memory"
    """Memory of one process, or of all together."""
    OUTPUT = "output"
    """It wrote more than it may."""
    FILES = "files"
    """It made more files than it may."""
    KILLED = "killed"
    """A signal ended it: its own, the filter's of system calls, or the kernel's when the machine lacked memory."""


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What came of a program.

    Attributes:
        stdout: Its output, cut at the limit.
        stderr: Its error output, likewise.
        exit_code: Its exit status; 128 + n where signal n ended it; None where the sandbox did.
        reason: Why it was ended; None when it came to its own end.
        seconds: Wall clock of the program.
        start_seconds: Wall clock from the call to the program's first line, waiting for a place left out.
        stdout_cut: Whether output is missing.
        stderr_cut: Likewise.
        confined: False when it ran without a sandbox, because the app asked for that.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    reason: Reason | None
    seconds: float
    start_seconds: float
    stdout_cut: bool = False
    stderr_cut: bool = False
    confined: bool = True

    @property
    def ok(self) -> bool:
        """Whether the program came to its end and reported success."""
        return self.exit_code == 0 and self.reason is None
