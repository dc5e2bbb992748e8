"""Estimates with 95 % confidence intervals.

Where each run gives one yes or no, the interval is Wilson's. Where a run gives several figures, or a number, it is a
percentile bootstrap over runs (2,000 resamples, fixed seed): calls of one run are not independent. A bootstrap of
figures that are all equal has no width, which says nothing of the next run: shares then take Wilson's interval for the
number of runs, and numbers have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_Z = 1.959963984540054
RESAMPLES = 2_000
_CHUNK = 4_000_000
"""Resampled counts that are in memory at a time."""
_KEPT_RUNS = 2_000
"""Most runs whose resampled counts are kept: 32 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and how sure it is."""

    value: float | None
    """None: the data cannot give it; `note` says why."""
    low: float | None = None
    high: float | None = None
    method: str = ""
    """Of the interval: `wilson` or `bootstrap`; empty where there is none."""
    count: int = 0
    """Runs that it rests on."""
    note: str = ""

    def text(self, digits: int = 3) -> str:
        """Return the figure and its interval, or why there is none."""
        if self.value is None:
            return f"- ({self.note})"
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}g}"
        return f"{self.value:.{digits}g} [{self.low:.{digits}g}, {self.high:.{digits}g}]"

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON-safe values."""
        return asdict(self)


def wilson(hits: float, number: int, note: str = "") -> Estimate:
    """Return a share of runs with Wilson's interval.

    Args:
        hits: Runs with a yes.
        number: Runs.
        note: Why there may be none.
    """
    if number == 0:
        return Estimate(None, note=note or "there are no runs")
    low, high = _wilson(hits / number, number)
    return Estimate(hits / number, low, high, "wilson", number)


def bootstrap(
    parts: Sequence[float], wholes: Sequence[float] | None = None, *, share: bool = False, note: str = ""
) -> Estimate:
    """Return the sum of `parts` over the sum of `wholes`, with a bootstrap interval over runs.

    Args:
        parts: One a run.
        wholes: Likewise; ones where it is not given, so that the estimate is a mean. Runs with 0 do not count.
        share: Whether the figure lies in [0, 1].
        note: Why there may be none.
    """
    top = np.asarray(parts, np.float64)
    bottom = np.ones_like(top) if wholes is None else np.asarray(wholes, np.float64)
    top, bottom = top[bottom > 0], bottom[bottom > 0]
    number = len(top)
    if number == 0:
        return Estimate(None, note=note or "there are no runs")
    value = float(top.sum() / bottom.sum())
    if np.ptp(top / bottom) <= 1e-12 * max(1.0, abs(value)):
        if not share:
            return Estimate(value, count=number)
        low, high = _wilson(min(1.0, max(0.0, value)), number)
        return Estimate(value, low, high, "wilson", number)
    ratios = resampled(np.stack([top, bottom]))
    low, high = np.percentile(ratios[0] / ratios[1], [2.5, 97.5]).tolist()
    return Estimate(value, low, high, "bootstrap", number)


def resampled(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return sums over resampled runs: one row for each row of `columns`, one column for each resample."""
    number = columns.shape[1]
    drawn = _kept_draws(number) if number <= _KEPT_RUNS else _draws(number)
    return np.concatenate([columns @ counts.T for counts in drawn], axis=1)


def _draws(number: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield how often each run is in each resample: always the same for so many runs."""
    random = np.random.default_rng(0)
    step = max(1, _CHUNK // number)
    even = np.full(number, 1 / number)
    for start in range(0, RESAMPLES, step):
        yield random.multinomial(number, even, size=min(step, RESAMPLES - start))


@lru_cache(maxsize=2)
def _kept_draws(number: int) -> tuple[npt.NDArray[np.int64], ...]:
    # Drawing takes far longer than summing, and all metrics of an evaluation have as many runs.
    return tuple(_draws(number))


def _wilson(share: float, number: int) -> tuple[float, float]:
    square = _Z**2
    middle = (share + square / (2 * number)) / (1 + square / number)
    half = _Z / (1 + square / number) * math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    # Rounding must not leave the share outside of its own interval.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
