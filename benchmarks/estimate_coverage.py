"""How often the estimate's 95 % interval holds what the new policy really earns, where that can be computed.

The world is `policy_world`. The log is of a near uniform policy; the new one is it, moved towards what pays (or away
from it) by a given step. Log and truth are of different tasks. `said`: share of the logs that could tell; `held`: of
those, how many intervals held the truth, and the same for the change against the log; `width`: of the interval, by
the truth; `wrong`: verdicts better or worse that were the other way round.

    python -m benchmarks.estimate_coverage --trials 40
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks.policy_world import base_policy, moved, realised, run
from toolorch_rl.estimate import MetricEstimate, estimate


@dataclass
class Count:
    """Of one metric: intervals given, how many held the truth, their mean width, and verdicts that were wrong."""

    said: int = 0
    held: int = 0
    width: float = 0.0
    differences: int = 0
    wrong: int = 0

    def add(self, entry: MetricEstimate, truth: float, before: float) -> None:
        """Hold an estimate against the truth, of the new policy and of the one that made the log, if it says one."""
        if entry.estimate is None or entry.difference is None:
            return
        self.said += 1
        self.held += entry.estimate.low <= truth <= entry.estimate.high
        self.differences += entry.difference.low <= truth - before <= entry.difference.high
        self.width += (entry.estimate.high - entry.estimate.low) / max(abs(truth), 1e-9)
        better = (truth > before) == entry.higher_is_better
        self.wrong += entry.verdict == ("worse" if better else "better")


def trial(seed: int, runs: int, per_task: int, step: float, counts: dict[str, Count]) -> None:
    """Count what one log says against what the new policy then earns."""
    # Luck of its own for each setting: rows that share it would all be low, or all be high.
    random = np.random.default_rng([seed, runs, per_task, round(1_000 * (step + 10))])
    old = base_policy(random)
    new = moved(old, step, random)
    found = estimate(run(old, new, runs, per_task, random)).metrics
    truth, before = realised(new, seed), realised(old, seed)
    for name, entry in found.items():
        if entry.estimate is not None:
            counts.setdefault(name, Count()).add(entry, truth[name], before[name])


def coverage(trials: int, runs: int, per_task: int, step: float, seed: int = 0) -> dict[str, Count]:
    """Return the counts of `trials` logs of `runs` runs each."""
    counts: dict[str, Count] = {}
    for number in range(trials):
        trial(seed + number, runs, per_task, step, counts)
    return counts


def main() -> None:
    """Print a line a setting and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--runs", type=int, nargs="+", default=[60, 200, 800])
    parser.add_argument("--steps", type=float, nargs="+", default=[-0.3, 0.1, 0.3, 0.6, 1.0])
    given = parser.parse_args()
    print(
        f"{'runs':>5} {'a task':>6} {'step':>5} {'metric':8} {'said':>5} {'held':>6} {'change':>6} {'width':>6} wrong"
    )
    total, held = 0, 0
    for runs in given.runs:
        for per_task in (1, 4):
            for step in given.steps:
                for name, count in coverage(given.trials, runs, per_task, step).items():
                    print(
                        f"{runs:5} {per_task:6} {step:5} {name:8} {count.said / given.trials:5.2f} "
                        f"{count.held / count.said:6.3f} {count.differences / count.said:6.3f} "
                        f"{count.width / count.said:6.2f} {count.wrong}"
                    )
                    total, held = total + count.said, held + count.held
    print(f"intervals that hold the truth: {held} of {total}, {held / total:.3f} (to reach: 0.90)")


if __name__ == "__main__":
    main()
