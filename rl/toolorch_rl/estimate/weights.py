"""Importance weights of runs: truncated, with what the truncation hides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolorch_rl.estimate.intervals import Floats

_SURE = 1.645
"""Standard errors by which the mean weight must fall short of 1 before the shortfall counts as missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights of N runs with K decisions each.

    Attributes:
        cumulative: (N, K + 1) truncated product of the ratios before each decision, and at last of all of them.
        limit: What weights were truncated at: the square root of N (Ionides, 2008), since their true mean is 1.
        truncated: Share of the runs whose weight was.
        missing: Share of the new policy's runs that the log does not show: what truncation took, or by how much the
            mean weight falls significantly short of 1. The new policy may earn anything there.
        effective_runs: (sum w)^2 / sum w^2.
        effective_groups: The same over tasks.
    """

    cumulative: Floats
    limit: float
    truncated: float
    missing: float
    effective_runs: float
    effective_groups: float

    @property
    def final(self) -> Floats:
        """(N,) weights of whole runs."""
        last: Floats = self.cumulative[:, -1]
        return last


def weigh(log_ratios: Floats, groups: npt.NDArray[np.intp]) -> Weights:
    """Return the weights of runs.

    Args:
        log_ratios: (N, K) of each decision.
        groups: (N,) task of each run.
    """
    number = len(log_ratios)
    limit = math.sqrt(number)
    logs = np.concatenate([np.zeros((number, 1)), np.cumsum(log_ratios, axis=1)], axis=1)
    final = logs[:, -1]
    cumulative = np.exp(np.minimum(logs, math.log(limit)))
    weights = cumulative[:, -1]
    sums = np.bincount(groups, weights).astype(np.float64)
    sizes = np.bincount(groups)
    mean = float(weights.mean())
    # Clusters, not runs: the standard error of a mean whose terms go together within a task.
    error = math.sqrt(float(((sums - mean * sizes) ** 2).sum())) / number
    # In log space, so that one ratio of e^800 does not make the share undefined.
    top = float(max(final.max(), 0.0))
    raw = np.exp(final - top)
    hidden = 1 - float((weights * math.exp(-top)).sum() / raw.sum()) if raw.sum() > 0 else 1.0
    return Weights(
        cumulative=cumulative,
        limit=limit,
        truncated=float((final > math.log(limit)).mean()),
        missing=min(1.0, max(0.0, hidden, 1 - mean - _SURE * error)),
        effective_runs=_effective(weights),
        effective_groups=_effective(sums),
    )


def _effective(weights: Floats) -> float:
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
