"""Cost and latency credited to the call that caused them.

A solved run's reward holds P[cost] (D - d) / w + P[latency] (S - s) / v, where D and S are the most that any run of its
group spent, and w and v what the features were divided by. The first part of each term is the same for all runs of the
group; the rest, -P[cost] d / w and -P[latency] s / v, is the sum of what each call caused. So a turn is charged for
what it called, and not for what the other turns did. A run that did not solve its task has no reward to take from, and
its calls are charged nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolorch_rl.rewards.equations import Rewards
from toolorch_rl.rewards.features import CallCost


@dataclass(frozen=True, slots=True)
class CallCredit:
    """What a call takes from its run's reward; 0 or less."""

    call: CallCost
    cost: float
    latency: float


@dataclass(frozen=True, slots=True)
class RunCredit:
    """Cost and latency of a run, call by call.

    `base` and the credits together are the run's weighed cost and latency features.
    """

    run: str
    base: float
    """What a run of this group would earn that spent nothing; the same for all solved runs with these preferences."""
    calls: tuple[CallCredit, ...]

    def by_node(self) -> dict[int | None, float]:
        """Return the sum of the credits by the sampled node that decided on the call."""
        sums: dict[int | None, float] = {}
        for entry in self.calls:
            sums[entry.call.node] = sums.get(entry.call.node, 0.0) + entry.cost + entry.latency
        return sums


def credit(rewards: Rewards) -> list[RunCredit]:
    """Return the credit of each call of each run, in the order of the runs.

    The calls are those in `RunFeatures.costs`; runs that were made without them have none.
    """
    found = []
    for row, run in enumerate(rewards.runs):
        rates = [0.0, 0.0]
        base = 0.0
        if run.solved:
            for place in (0, 1):
                spread = rewards.spreads[row, place]
                if spread > 0:
                    rates[place] = float(rewards.weights[row, place - 2] / spread)
                    base += rates[place] * float(rewards.tops[row, place])
        calls = tuple(CallCredit(cost, -rates[0] * cost.dollars, -rates[1] * cost.seconds) for cost in run.costs)
        found.append(RunCredit(run.run, base, calls))
    return found
