"""Run a command so that it cannot outlive who asked for it: `python guard.py LOG COMMAND...`.

The guard starts the command in a session of its own and writes its output to LOG. When the guard's standard input
closes (its parent has ended, in whatever way) or it gets SIGTERM or SIGINT, the whole process group of the command
gets SIGTERM and, if that does not help, SIGKILL. When the command ends by itself, what it has left behind is ended,
too.
Standard library only: it runs as a file, in any interpreter.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE = 15.0
"""Seconds between SIGTERM and SIGKILL."""
_PR_SET_PDEATHSIG = 1


def _die_with_guard() -> None:
    # Should the guard itself be killed, the kernel ends the command. Linux only; elsewhere the call does nothing.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end_group(child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + GRACE
    _signal_group(child.pid, signal.SIGTERM)
    while time.monotonic() < deadline:
        child.poll()
        if not _signal_group(child.pid, 0):
            return
        time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def main() -> int:
    """Run the command, and return its exit code."""
    log, command = sys.argv[1], sys.argv[2:]
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    parent = os.getppid()
    with Path(log).open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_guard,
        )
    while child.poll() is None and not stopping and os.getppid() == parent:
        closed, _, _ = select.select([sys.stdin], [], [], 0.1)
        stopping = stopping or bool(closed)
    if not stopping and child.returncode is not None and child.returncode < 0:
        with Path(log).open("a") as lines:
            lines.write(f"the command was ended by signal {signal.Signals(-child.returncode).name}\n")
    _end_group(child)
    return child.returncode if child.returncode is not None else 1


if __name__ == "__main__":
    sys.exit(main())
