"""How often candidates of four kinds get through the real gate: log, held-out tasks and a canary, all simulated.

To reach: a bad one (noise, hacker, old) never in 30 tries each, a good one at least 27 times in 30.

    python -m benchmarks.promotion_gate
    python -m benchmarks.promotion_gate --fooled estimate evaluation      # only the canary sees the candidate itself
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.simulated_promotion import KINDS, attempt
from toolorch_serving.promotion import Step


def main() -> None:
    """Print a line a kind: how many were promoted, and where the others ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument(
        "--fooled", nargs="*", default=[], choices=["estimate", "evaluation"], help="Stages shown a good candidate's."
    )
    parser.add_argument("--verbose", action="store_true", help="Print each candidate's last reason.")
    given = parser.parse_args()
    good = True
    for kind in KINDS:
        ends: Counter[str] = Counter()
        live = 0.0
        for seed in range(given.tries):
            with tempfile.TemporaryDirectory() as folder:
                steps = attempt(kind, seed, Path(folder), given.fooled)
            last = steps[-1]
            stage = last.reason.partition(":")[0]
            ends[last.step.value if last.step is Step.PROMOTED else f"{last.step.value} after {stage}"] += 1
            counts = last.evidence.get("counts", {})
            live += counts.get("candidate", 0) + counts.get("incumbent", 0)
            if given.verbose:
                print(f"  {kind} {seed}: {last.step.value}: {last.reason}")
        promoted = ends[Step.PROMOTED.value]
        enough = promoted >= 0.9 * given.tries if kind == "good" else promoted == 0
        good &= enough
        others = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()) if end != Step.PROMOTED.value)
        print(
            f"{kind:7} promoted {promoted:2} of {given.tries}; {others or '-'}; "
            f"{live / given.tries:.0f} live conversations on average ({'as wanted' if enough else 'NOT as wanted'})"
        )
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
