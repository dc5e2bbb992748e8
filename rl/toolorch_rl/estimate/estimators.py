"""Off-policy estimators: each returns per-run figures whose mean is the estimate.

With w a run's weight, r what it earned and v a model of what the new policy earns on its task:

    self-normalised   sum w r / sum w
    per decision      sum_t (sum w_0:t r_t / sum w_0:t): a cost is only weighed by the decisions up to its own
    doubly robust     mean v + sum w (r - v) / sum w

The model v is a ridge regression on the request's features, fitted by weighted runs of other tasks (cross-fitted over
tasks), so that it is independent of the run that it is used on. It depends on no action: E[w v] = E[v] for whatever
model, so a bad one costs precision and brings no bias, and with a perfect one only what it cannot know stays noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolorch_rl.estimate.intervals import Floats, ratio_interval
from toolorch_rl.estimate.weights import Weights

SELF_NORMALISED = "self-normalised"
PER_DECISION = "per decision"
DOUBLY_ROBUST = "doubly robust"

FOLDS = 5
RIDGE = 10.0
"""Penalty on standardised features, in runs: with fewer runs than this the model is hardly more than a constant."""


@dataclass(frozen=True, slots=True, eq=False)
class Linearised:
    """An estimate as a ratio of sums over runs: parts (N,) over wholes (N,)."""

    method: str
    parts: Floats
    wholes: Floats

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.parts.sum() / self.wholes.sum())

    def minus(self, values: Floats) -> Linearised:
        """Return the estimate less the mean of `values`, run by run: what the same runs share cancels out."""
        value, mean = self.value, float(self.wholes.mean())
        own = value + (self.parts - value * self.wholes) / mean
        return Linearised(self.method, own - values, np.ones_like(own))

    def interval(
        self, groups: npt.NDArray[np.intp], degrees: float, bounds: tuple[float, float]
    ) -> tuple[float, float]:
        """Return the 95 % interval, with tasks as the independent units."""
        parts, wholes = (np.bincount(groups, column).astype(np.float64) for column in (self.parts, self.wholes))
        return ratio_interval(parts, wholes, bounds, degrees)


def self_normalised(weights: Weights, values: Floats) -> Linearised:
    """Return the self-normalised estimate of the mean of `values` (N,) under the new policy."""
    return Linearised(SELF_NORMALISED, weights.final * values, weights.final)


def per_decision(weights: Weights, steps: Floats) -> Linearised:
    """Return the self-normalised per-decision estimate of a sum over decisions.

    Args:
        weights: Of N runs with K decisions.
        steps: (N, K) what each decision caused.
    """
    # A run that has ended keeps its weight and earns nothing more, so that every sum is over all runs.
    shares = weights.cumulative[:, 1:]
    mean = shares.mean(axis=0)
    value = (shares * steps).mean(axis=0) / mean
    own: Floats = (value + shares / mean * (steps - value)).sum(axis=1)
    return Linearised(PER_DECISION, own, np.ones_like(own))


def doubly_robust(
    weights: Weights, values: Floats, features: Floats | None, groups: npt.NDArray[np.intp]
) -> Linearised:
    """Return the doubly robust estimate of the mean of `values` (N,) under the new policy.

    Args:
        weights: Of N runs.
        values: (N,) what each run earned.
        features: (N, F) what was known of each before its first decision.
        groups: (N,) task of each.
    """
    model = outcome_model(weights.final, values, features, groups)
    shares = weights.final / weights.final.mean()
    rest = values - model
    correction = float((shares * rest).mean())
    own = model + correction + shares * (rest - correction)
    return Linearised(DOUBLY_ROBUST, own, np.ones_like(own))


def outcome_model(weights: Floats, values: Floats, features: Floats | None, groups: npt.NDArray[np.intp]) -> Floats:
    """Return (N,) what the new policy should earn on each run's task, by a model that has not seen the task."""
    number = len(values)
    columns = np.zeros((number, 0)) if features is None else features
    spread = columns.std(axis=0)
    columns = (columns - columns.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    found = np.full(number, float((weights * values).sum() / weights.sum()))
    for fold in range(FOLDS):
        apart = groups % FOLDS == fold
        if apart.any() and weights[~apart].sum() > 0:
            found[apart] = _ridge(columns[~apart], values[~apart], weights[~apart], columns[apart])
    # A line runs out of what can be earned; the log's own range is wide enough.
    clipped: Floats = np.clip(found, values.min(), values.max())
    return clipped


def _ridge(columns: Floats, values: Floats, weights: Floats, wanted: Floats) -> Floats:
    shares = weights / weights.sum()
    middle, level = shares @ columns, float(shares @ values)
    apart = columns - middle
    # As many runs as the weights are worth, so that the penalty means the same under any overlap.
    worth = 1 / float((shares**2).sum())
    gram = (apart * shares[:, None]).T @ apart + RIDGE / worth * np.eye(columns.shape[1])
    slopes = np.linalg.solve(gram, (apart * shares[:, None]).T @ (values - level))
    result: Floats = level + (wanted - middle) @ slopes
    return result
