"""Questions about what a program prints: answered by running it in a child process."""

from __future__ import annotations

import functools
import re

from toolorch_serving.bounded import run_program
from toolorch_serving.simulated.solution import Family, Question, Solution

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
        return run_program(code, seconds=2)[:500] or None
    except ValueError:
        return None


def _mistaken(printed: str) -> str:
    if re.fullmatch(r"-?\d+", printed):
        return str(int(printed) + 1)
    if printed.startswith("[") and "," in printed:
        items = printed[1:-1].split(", ")
        return f"[{', '.join(items[1:])}]"
    return printed[::-1] if printed[::-1] != printed else printed + printed[-1]


PROGRAMS: tuple[Family, ...] = (tracing,)
