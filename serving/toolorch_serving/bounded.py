"""Short Python programs in a child process with limits: for one's own simulations and examples.

The child limits itself before it runs the program (`preexec_fn` would copy a large parent for each call): processor
time, memory, and what it may open and write. It is no sandbox: do not run what a stranger wrote with it.
"""

from __future__ import annotations

import subprocess
import sys

_MEMORY = 2**29
"""Bytes of address space."""

_CHILD = """
import resource, sys
seconds, memory, files = map(int, sys.argv[2:])
for name, most in (("CPU", seconds), ("AS", memory), ("FSIZE", 0), ("NOFILE", files)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
exec(compile(sys.argv[1], "<program>", "exec"), {"__name__": "__main__"})
"""


def run_program(code: str, seconds: int = 3, *, imports: bool = False) -> str:
    """Run a program and return what it prints; it can write no file.

    Args:
        code: Python source.
        seconds: Processor time and wall clock that it may take.
        imports: Whether it may import modules. If not, it can open no file and no socket at all.

    Raises:
        ValueError: It failed or took too long; the message is the last line of its error output.
    """
    command = [sys.executable, "-I", "-S", "-c", _CHILD, code, str(seconds), str(_MEMORY), "64" if imports else "3"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env={})
    except subprocess.TimeoutExpired:
        raise ValueError(f"the program took over {seconds} s") from None
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300])
    return done.stdout.strip()
