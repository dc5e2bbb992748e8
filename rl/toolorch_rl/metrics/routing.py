"""Where calls go: shares of tools and specialists, and their entropy. A policy that has collapsed calls but one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolorch_rl.metrics.estimates import Estimate, bootstrap, resampled, wilson

COLLAPSED = 0.9
"""Share of one name above which routing counts as collapsed."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Where the calls of some runs went."""

    shares: dict[str, Estimate]
    """By name, greatest first; names that were offered and never called have 0."""
    entropy: Estimate
    """Bits; from 0 (one name) to the logarithm of how many names there are. Intervals are bootstrapped over runs, and
    moved by as much as resamples are too low on average: they never have more names than the data."""
    most: float
    """The greatest entropy that so many names allow."""
    collapsed: bool
    """Whether one name has more than nine tenths, the lower end of its interval included."""


def routing(counts: Sequence[Mapping[str, int]], offered: Sequence[str] = ()) -> Routing:
    """Return where calls went.

    Args:
        counts: Calls by name, one mapping a run (`RunFeatures.calls`).
        offered: Names that might have been called, too.
    """
    names = sorted({name for run in counts for name in run} | set(offered))
    table = np.array([[run.get(name, 0) for name in names] for run in counts], np.float64).reshape(
        len(counts), len(names)
    )
    totals = table.sum(axis=1)
    note = "no run has a call" if counts else "there are no runs"
    if not totals.sum():
        none = Estimate(None, note=note)
        return Routing(dict.fromkeys(names, none), none, _most(len(names)), False)
    shares = {
        name: bootstrap(table[:, place].tolist(), totals.tolist(), share=True) for place, name in enumerate(names)
    }
    shares = dict(sorted(shares.items(), key=lambda item: -(item[1].value or 0.0)))
    sampled = _entropy(resampled(table[totals > 0].T))
    value = float(_entropy(table.sum(axis=0)[:, None])[0])
    moved = np.percentile(sampled, [2.5, 97.5]) + (value - sampled.mean())
    low, high = np.clip(moved, 0.0, _most(len(names))).tolist()
    number = int((totals > 0).sum())
    entropy = Estimate(value, low, high, "bootstrap", number) if number > 1 else Estimate(value, count=number)
    first = next(iter(shares.values()))
    least = first.low if first.low is not None else wilson(first.value or 0.0, 1).low
    return Routing(shares, entropy, _most(len(names)), len(names) > 1 and (least or 0.0) > COLLAPSED)


def _entropy(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy in bits of each column."""
    shares = sums / np.maximum(sums.sum(axis=0), 1)
    logs = np.log2(np.where(shares > 0, shares, 1.0))
    result: npt.NDArray[np.float64] = np.maximum(0.0, -(shares * logs).sum(axis=0))
    return result


def _most(number: int) -> float:
    return float(np.log2(number)) if number > 1 else 0.0
