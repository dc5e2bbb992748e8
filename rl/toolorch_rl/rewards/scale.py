"""Rewards on a fixed scale: for runs that come one after the other, and are not to change each other's worth.

`reward` measures the runs of a group by each other: right where a group is whole, as in training. A canary looks at its
runs again and again, and an interval that is to hold at every look needs each run's reward to stay what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from toolorch_integrations.preferences import Preferences
from toolorch_rl.rewards.equations import Floats, bounds, raw_features
from toolorch_rl.rewards.features import RewardError, RunFeatures
from toolorch_rl.rewards.presets import OURS, Preset


@dataclass(frozen=True, slots=True)
class Scale:
    """What calls, dollars and seconds are measured by.

    Attributes:
        tools: Names of the first columns; then come outcome, dollars and seconds.
        low: (K,) the least value of each feature, dollars and seconds negative as in M.
        divisor: (K,) what a value above that is divided by; 0: the feature counts nothing.
    """

    tools: tuple[str, ...]
    low: Floats
    divisor: Floats

    @classmethod
    def of(cls, runs: Sequence[RunFeatures], settings: Preset = OURS) -> Self:
        """Return the scale of some runs, taken as one group.

        Raises:
            RewardError: There are no runs.
        """
        if not runs:
            raise RewardError("there are no runs to take a scale from")
        tools = tuple(sorted({name for run in runs for name in run.calls}))
        of = np.zeros(len(runs), np.intp)
        raw, _ = raw_features(runs, of, ["all"], tools)
        low, divisor = bounds(raw, of, 1, np.array([run.solved for run in runs]), settings)
        return cls(tools, low[0], divisor[0])

    def reward(self, run: RunFeatures, preferences: Preferences) -> float:
        """Return a run's scalar reward; NaN where it hangs on dollars or seconds that are not known."""
        if not run.solved:
            return 0.0
        unknown = [math.nan if value is None else -value for value in (run.dollars, run.seconds)]
        raw = np.array([*(run.calls.get(name, 0) for name in self.tools), 1.0, *unknown])
        weights = np.asarray(preferences.vector(self.tools), np.float64)
        counts = (self.divisor > 0) & (weights != 0)
        counts[-3] = False  # a solved run's outcome is 1, however many others are solved
        parts = np.clip((raw[counts] - self.low[counts]) / self.divisor[counts], 0.0, 1.0) * weights[counts]
        return math.fsum([*parts.tolist(), float(weights[-3])])
