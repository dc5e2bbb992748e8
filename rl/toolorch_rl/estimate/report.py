"""What a new policy would have earned on logged runs, metric by metric, or why the log cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from toolorch_rl.estimate.estimators import Linearised, doubly_robust, per_decision, self_normalised
from toolorch_rl.estimate.intervals import Floats, wilson_interval
from toolorch_rl.estimate.logged import EstimateError, LoggedRuns, Outcome
from toolorch_rl.estimate.weights import Weights, weigh

LEAST_GROUPS = 12
"""Effective tasks under which no interval can be trusted; of a log with fewer tasks, runs."""
MOST_MISSING = 0.2
"""Share of the new policy's runs that the log may lack."""
LEAST_KNOWN = 0.9
"""Share of the runs whose value of a metric must be known."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MetricEstimate:
    """What the log says of one metric."""

    metric: str
    logged: float | None
    """Mean over the logged runs."""
    estimate: Interval | None = None
    """Mean under the new policy, by `method`. None: the log cannot tell; `reason` says why."""
    difference: Interval | None = None
    """Estimate less logged mean; its interval is narrower than either's, since both rest on the same runs."""
    method: str = ""
    by_method: Mapping[str, float] = field(default_factory=dict)
    """The figures of all estimators, for comparison."""
    higher_is_better: bool = True
    reason: str = ""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `no clear change` or `cannot say`."""
        if self.difference is None:
            return "cannot say"
        up = self.difference.low > 0
        if not up and not self.difference.high < 0:
            return "no clear change"
        return "better" if up == self.higher_is_better else "worse"


@dataclass(frozen=True, slots=True)
class VersionShare:
    """How much of the log a policy version sampled, and how long ago."""

    version: str
    runs: int
    newest: float | None
    """Seconds since its newest run began."""
    oldest: float | None


@dataclass(frozen=True, slots=True)
class EstimateReport:
    """All that is said of a new policy before it has made a single run."""

    runs: int
    groups: int
    effective_runs: float
    effective_groups: float
    truncated: float
    """Share of the runs whose weight was truncated."""
    missing: float
    """Share of the new policy's runs that the log does not show; intervals are wider by it."""
    metrics: Mapping[str, MetricEstimate]
    scope: str = "tasks like these"
    """What the figures hold for. `these tasks`: the log has too few tasks to say anything of others, and intervals only
    hold for more runs of the same ones."""
    versions: tuple[VersionShare, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Traces that could not be used, by reason."""
    trained_on: int = 0
    """How many of the runs are of tasks that the new policy was trained on, on which it looks better than it is."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe values."""
        found = asdict(self)
        for name, metric in self.metrics.items():
            found["metrics"][name]["verdict"] = metric.verdict
        return found


def estimate(logged: LoggedRuns, *, skipped: Mapping[str, int] | None = None) -> EstimateReport:
    """Return what the new policy would have earned on logged runs.

    Additive metrics (those with `steps`) take the per-decision estimate, the others the doubly robust one. Which is
    taken never depends on the figures: picking the best of several intervals would make it too narrow.

    Args:
        logged: The runs, with the ratios of the new policy to the ones that sampled them.
        skipped: Traces that were left out before, by reason; passed on.

    Raises:
        EstimateError: There are no runs, or no outcome.
    """
    if not len(logged):
        raise EstimateError(f"there are no runs to estimate from{_of(skipped)}")
    if not logged.outcomes:
        raise EstimateError("outcomes is empty: attach rewards to the traces (verifier or feedback) first")
    tasks = int(logged.groups.max()) + 1
    few = tasks < LEAST_GROUPS
    if few:
        logged = replace(logged, groups=np.arange(len(logged), dtype=np.intp))
    weights = weigh(logged.log_ratios, logged.groups)
    return EstimateReport(
        runs=len(logged),
        groups=tasks,
        effective_runs=weights.effective_runs,
        effective_groups=weights.effective_groups,
        truncated=weights.truncated,
        missing=weights.missing,
        metrics={name: _metric(name, logged, outcome) for name, outcome in logged.outcomes.items()},
        scope="these tasks" if few else "tasks like these",
        versions=tuple(_versions(logged)),
        skipped=dict(skipped or {}),
    )


def _metric(name: str, logged: LoggedRuns, outcome: Outcome) -> MetricEstimate:
    known = np.isfinite(outcome.values)
    blank = MetricEstimate(name, None, higher_is_better=outcome.higher_is_better)
    if known.mean() < LEAST_KNOWN:
        return _unsaid(blank, f"{name} is known of {int(known.sum())} of {len(known)} runs")
    values, groups = outcome.values[known], np.unique(logged.groups[known], return_inverse=True)[1].astype(np.intp)
    weights = weigh(logged.log_ratios[known], groups)
    blank = MetricEstimate(name, float(values.mean()), higher_is_better=outcome.higher_is_better)
    share = outcome.bounds == (0.0, 1.0) and bool(np.isin(values, (0.0, 1.0)).all())
    reason = _reason(weights, values, int(groups.max()) + 1, share)
    if reason:
        return _unsaid(blank, reason)
    features = None if logged.features is None else logged.features[known]
    found = [self_normalised(weights, values), doubly_robust(weights, values, features, groups)]
    if outcome.steps is not None:
        found.append(per_decision(weights, outcome.steps[known]))
    chosen = found[-1]
    bounds = outcome.bounds or (float(values.min()), float(values.max()))

    def interval(entry: Linearised, limits: tuple[float, float]) -> tuple[float, float]:
        return entry.interval(groups, weights.effective_groups - 1, limits)

    low, high = interval(chosen, bounds)
    reach = bounds[1] - bounds[0]
    change = chosen.minus(values)
    change_low, change_high = interval(change, (-reach, reach))
    if share:
        # Yes or no: a log in which all that count are solved does not say that the next run will be.
        wide = wilson_interval(min(1.0, max(0.0, chosen.value)), weights.effective_groups)
        low, high = min(low, wide[0]), max(high, wide[1])
        if np.ptp(values) == 0:
            change_low, change_high = low - values[0], high - values[0]
    wider = _missing(weights.missing, bounds)
    return MetricEstimate(
        metric=name,
        logged=float(values.mean()),
        estimate=Interval(chosen.value, *wider(low, high, chosen.value)),
        difference=Interval(change.value, *wider(change_low, change_high, chosen.value)),
        method=chosen.method,
        by_method={entry.method: entry.value for entry in found},
        higher_is_better=outcome.higher_is_better,
    )


def _missing(missing: float, bounds: tuple[float, float]) -> Callable[[float, float, float], tuple[float, float]]:
    """Return what makes an interval wider by runs that the log lacks: they may earn the least or the most."""

    def wider(low: float, high: float, value: float) -> tuple[float, float]:
        return low - missing * max(0.0, value - bounds[0]), high + missing * max(0.0, bounds[1] - value)

    return wider


def _reason(weights: Weights, values: Floats, groups: int, share: bool) -> str:
    """Return why the log cannot tell, or an empty text."""
    if groups < LEAST_GROUPS:
        return f"{groups} runs are too few: at least {LEAST_GROUPS} are needed, better {LEAST_GROUPS} tasks"
    if weights.missing > MOST_MISSING:
        return (
            f"overlap is bad: {weights.missing:.0%} of what the new policy would do is hardly in the log; "
            "explore more (temperature), or train in smaller steps"
        )
    if weights.effective_groups < LEAST_GROUPS:
        return (
            f"the log is worth {weights.effective_groups:.1f} of {groups} tasks under the new policy: "
            f"at least {LEAST_GROUPS} are needed; capture more runs"
        )
    if not share and np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return "all runs have the same value: the log cannot tell policies apart"
    return ""


def _unsaid(blank: MetricEstimate, reason: str) -> MetricEstimate:
    return MetricEstimate(blank.metric, blank.logged, higher_is_better=blank.higher_is_better, reason=reason)


def _versions(logged: LoggedRuns) -> Iterable[VersionShare]:
    ages = logged.ages if len(logged.ages) == len(logged) else np.full(len(logged), np.nan)
    for version in sorted({name for names in logged.versions for name in names}):
        of = np.array([version in names for names in logged.versions])
        known = ages[of][np.isfinite(ages[of])]
        span = (float(known.min()), float(known.max())) if len(known) else (None, None)
        yield VersionShare(version, int(of.sum()), *span)


def _of(skipped: Mapping[str, int] | None) -> str:
    return "; left out: " + ", ".join(f"{number} {why}" for why, number in skipped.items()) if skipped else ""
