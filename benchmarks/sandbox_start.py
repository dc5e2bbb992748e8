"""What it takes to start a program in the sandbox, beside a bare interpreter in the same run, and the list's score.

    python benchmarks/sandbox_start.py [--runs 60] [--without-list]

A start lasts from the call until the program's first line. The bar is 100 ms at the median: for a sandbox that is
started for the program (`cold`), and for one that waits for it (`warm`, as the tool `code_interpreter` has it). A bare
`python -I -S` of the same runs says how busy the machine is: alone on a core it takes about 20 ms. The list is that of
tests/sandbox_attempts.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.sandbox_attempts import ATTEMPTS, LIMITS, host, left_behind, problem, run_attempts
from toolorch_serving.sandbox import Sandbox

BAR = 0.1
"""Seconds at the median."""
PAUSE = 0.1
"""Seconds between two runs, in which a warm sandbox is replaced."""


def bare() -> float:
    """Return the seconds until a bare interpreter's first line."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "print(1, flush=True)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.monotonic() - started


def starts(runs: int) -> bool:
    """Measure starts in turn; print them and return whether the bar is held."""
    cold, warm = Sandbox(), Sandbox(warm=2)
    taken: dict[str, list[float]] = {"bare interpreter": [], "cold": [], "warm": []}
    for _ in range(runs):
        taken["bare interpreter"].append(bare())
        taken["cold"].append(cold.run("pass").start_seconds)
        time.sleep(PAUSE)
        taken["warm"].append(warm.run("pass").start_seconds)
    warm.close()
    print(f"{'start, ms':18} median   p90   ({runs} runs of each, in turn)")
    for name, seconds in taken.items():
        print(f"{name:18} {1e3 * statistics.median(seconds):6.1f} {1e3 * statistics.quantiles(seconds, n=10)[-1]:6.1f}")
    held = {name: statistics.median(taken[name]) <= BAR for name in ("cold", "warm")}
    said = ", ".join(f"{name} {'held' if well else 'NOT held'}" for name, well in held.items())
    print(f"bar of {1e3 * BAR:g} ms at the median: {said} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    return all(held.values())


def listed() -> bool:
    """Run the list; print the score and return whether everything was contained."""
    started = time.monotonic()
    with host(str(Path(__file__).parent.parent)) as outside:
        results, marker = run_attempts(ATTEMPTS, outside, sandbox=Sandbox(LIMITS, at_once=4))
        left = left_behind(marker)
    problems = {name: found for name, result in results.items() if (found := problem(name, result)) is not None}
    print(f"attempts contained: {len(results) - len(problems)} of {len(results)} ({time.monotonic() - started:.0f} s)")
    print(f"processes left behind: {len(left)}")
    for name, found in problems.items():
        print(f"  {name}: {found}")
    return not problems and not left


def main() -> None:
    """Run what the command line asks for; the exit status says whether all bars were held."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=60)
    arguments.add_argument("--without-list", action="store_true")
    given = arguments.parse_args()
    held = starts(given.runs)
    if not given.without_list:
        held = listed() and held
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
