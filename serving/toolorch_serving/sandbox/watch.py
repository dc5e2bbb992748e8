"""What all processes of a sandbox use together, read from outside: the limits that the kernel sets for each alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from toolorch_serving.sandbox.limits import Limits
from toolorch_serving.sandbox.result import Reason

INTERVAL = 0.05
"""Seconds between two looks. What can be used above a limit meanwhile is what processors can fill in that time."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def over(first: int, limits: Limits, folder: str) -> Reason | None:
    """Return the limit that a sandbox is over, if any.

    Args:
        first: The sandbox's first process, which is an ancestor of all others; process id outside.
        limits: What it may use.
        folder: Where its files are, as a path inside.
    """
    processes = list(_tree(first))
    if sum(map(_resident, processes)) > limits.memory and sum(map(_proportional, processes)) > limits.memory:
        return Reason.MEMORY
    with suppress(OSError):  # it has just ended
        used = os.statvfs(f"/proc/{first}/root{folder}")
        if used.f_files - used.f_ffree > limits.files:
            return Reason.FILES
    return None


def _tree(first: int) -> Iterator[int]:
    yield first
    with suppress(OSError):
        for thread in Path(f"/proc/{first}/task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_text().split():
                    yield from _tree(int(child))


def _resident(process: int) -> int:
    """Return the bytes that a process has in memory, shared ones included."""
    with suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    return 0


def _proportional(process: int) -> int:
    """Return the same with shared pages divided by the number of processes that share them; slower to ask for."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(process)
