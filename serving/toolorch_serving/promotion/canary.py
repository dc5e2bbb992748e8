"""A canary: a share of the live runs goes to the candidate, and what they bring is watched as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolorch_serving.promotion.criteria import Criteria, Stage
from toolorch_serving.promotion.errors import PromotionError
from toolorch_serving.promotion.evidence import Change, Evidence
from toolorch_serving.promotion.sequential import Floats, confidence_sequence, scores

RARE = 6.0
"""Something that none of n runs did is done by at most so many in n: the rule of three, twice, for the many looks."""
COUNTED = frozenset({"solved", "format_errors", "destructive_calls"})
"""Metrics whose least step is 1."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run during the canary.

    Attributes:
        key: What it was routed by: runs with the same key stay on one version, and count as one.
        candidate: Whether that is the candidate.
        outcomes: By metric; one that is not known is absent or NaN.
    """

    key: str
    candidate: bool
    outcomes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """How much live traffic a candidate gets, and for how long.

    Attributes:
        share: Of the conversations; a probability, so neither 0 nor 1.
        least: Conversations of each version before anything is decided: under it the intervals are not to be trusted.
        planned: Conversations of both versions that it will about take; where the intervals are tightest.
        most: Conversations of both versions after which it ends: what is not shown by then counts as not so.
        patience: Seconds after which it ends, however few runs there were.
    """

    share: float = 0.1
    least: int = 30
    planned: int = 1_000
    most: int = 10_000
    patience: float = 86_400.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise PromotionError(
                f"canary share is {self.share}: give a share of the live runs between 0 and 1, such as 0.1"
            )
        if self.least < 2 or self.planned < 1 or self.most < 2 * self.least:
            raise PromotionError(
                f"canary: least {self.least}, planned {self.planned} and most {self.most} do not go together: "
                "least must be at least 2, and most at least twice that"
            )
        if not self.patience > 0:
            raise PromotionError(f"canary patience is {self.patience}: give seconds, more than 0")


def of_canary(runs: Iterable[LiveRun], plan: CanaryPlan, criteria: Criteria, elapsed: float) -> Evidence:
    """Return what the live runs say so far.

    Intervals hold at every look. Those of the goal and of what is protected each miss in at most 5 % of the canaries:
    all must be good at once for a promotion, so that needs no correction.

    Args:
        runs: In the order in which they began; both versions.
        plan: The canary.
        criteria: Which metrics are looked at.
        elapsed: Seconds since it began.
    """
    chosen = list(runs)
    arms: dict[str, bool] = {}
    for run in chosen:
        arms.setdefault(run.key, run.candidate)
    place = {key: number for number, key in enumerate(arms)}
    of = np.fromiter((place[run.key] for run in chosen), np.intp, len(chosen))
    treated = np.fromiter(arms.values(), np.bool_, len(arms))
    counts = {"candidate": int(treated.sum()), "incumbent": int((~treated).sum())}
    changes: dict[str, Change] = {}
    for name in dict.fromkeys([criteria.goal, *criteria.protected]):
        values = np.array([run.outcomes.get(name, math.nan) for run in chosen], np.float64)
        if np.isfinite(values).any():
            changes[name] = _change(name, values, of, treated, plan)
        elif name == criteria.goal:
            changes[name] = Change(note="no live run has it yet")
    over = len(arms) >= plan.most or elapsed >= plan.patience
    waiting = (
        "" if over else f"{counts['candidate']} conversations of the candidate, {counts['incumbent']} of the other"
    )
    return Evidence(Stage.CANARY, changes, counts | {"seconds": elapsed}, waiting)


def _change(
    name: str, values: Floats, of: npt.NDArray[np.intp], treated: npt.NDArray[np.bool_], plan: CanaryPlan
) -> Change:
    """Return the change of a metric.

    Args:
        name: The metric.
        values: (N,) of each run; NaN where it is not known.
        of: (N,) conversation of each run; conversations are numbered in the order in which they began.
        treated: (C,) whether each conversation is the candidate's.
        plan: The canary.
    """
    known = np.isfinite(values)
    runs = np.bincount(of[known], minlength=len(treated))
    sums = np.bincount(of[known], values[known], len(treated))
    values, arm = sums[runs > 0] / runs[runs > 0], treated[runs > 0]
    least = min(int(arm.sum()), int((~arm).sum()))
    if least < plan.least:
        return Change(note=f"{least} conversations of one version, and {plan.least} are needed")
    before = float(values[~arm].mean())
    value, low, high = confidence_sequence(scores(values, arm, plan.share), plan.planned)
    if np.ptp(values) == 0:
        # Runs that were all alike say that others are rare, not that there are none.
        reach = RARE / least * max(abs(before), float(name in COUNTED))
        low, high = low - reach, high + reach
    return Change(value, low, high, before)
