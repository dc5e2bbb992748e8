"""Which process writes a trace, so that a store opened later can tell whether that process still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that writes a trace."""

    host: str = ""
    """Host name and process-id namespace: process ids mean nothing outside of it."""
    boot: str = ""
    """The kernel's boot id; empty where there is none."""
    pid: int = 0
    started: int = 0
    """Process start in clock ticks since boot: tells a process from a later one with the same id."""

    @classmethod
    def current(cls) -> Owner:
        """Return this process."""
        return cls(_host(), _boot(), os.getpid(), process_start(os.getpid()))

    def is_dead(self) -> bool:
        """Whether the process has certainly ended: processes of other hosts never count as dead."""
        if self.host != _host() or not self.pid:
            return False
        if self.boot != _boot():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return process_start(self.pid) != self.started


def process_start(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


@cache
def _host() -> str:
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
