"""Questions about what a program prints: answered by running it in a child process."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

from toolorch_serving.simulated.solution import Family, Question, Solution

_SECONDS = 2

# The child limits itself (processor, memory, no files, no sockets) before it runs the program: `preexec_fn` would copy
# a large parent for each call.
_BOUNDED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
exec(compile(sys.argv[1], "<program>", "exec"), {{"__name__": "__main__"}})
"""
_ASKED = re.compile(
    r"what (?:does|will) (?:this|the following).*?print\S*\s*\n(?:```(?:python)?\n)?(.*?)(?:```|\Z)", re.I | re.S
)


def tracing(question: Question) -> Solution | None:
    """Say what a program prints; the error is one off, or the wrong end of a list."""
    match = _ASKED.search(question.text)
    if match is None:
        return None
    printed = run(match[1])
    if not printed:
        return None
    difficulty = 2 if match[1].count("\n") < 4 else 3
    return Solution("code", difficulty, f"It prints: {printed}", f"It prints: {_mistaken(printed)}")


@functools.lru_cache(1024)
def run(code: str) -> str | None:
    """Return what a program prints, or None when it fails, prints nothing or takes over two seconds."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BOUNDED, code],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={},
        )
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return done.stdout.strip()[:500] or None if done.returncode == 0 else None


def _mistaken(printed: str) -> str:
    if re.fullmatch(r"-?\d+", printed):
        return str(int(printed) + 1)
    if printed.startswith("[") and "," in printed:
        items = printed[1:-1].split(", ")
        return f"[{', '.join(items[1:])}]"
    return printed[::-1] if printed[::-1] != printed else printed + printed[-1]


PROGRAMS: tuple[Family, ...] = (tracing,)
