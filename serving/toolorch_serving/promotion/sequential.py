"""Intervals that hold at every look at once: a canary may be watched after each run, and stopped at any time.

The figure is the difference between two arms to which runs are assigned at random with known probabilities. Each run
gives an augmented inverse-probability score whose mean is that difference, whatever is predicted for its arm; the
predictions are the arms' means so far, so that they do not know the run. The interval is the asymptotic confidence
sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (arXiv 2103.06476, theorem 2.2): about 1.6 times as wide as
an ordinary one near `planned` runs, and right however often it is looked at.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def scores(values: Floats, treated: npt.NDArray[np.bool_], share: float) -> Floats:
    """Return (N,) scores whose mean is the treated arm's mean less the other's.

    Args:
        values: (N,) in the order in which the runs began.
        treated: (N,) whether each was assigned to the candidate.
        share: Probability of that.
    """
    means: list[Floats] = []
    before = np.cumsum(values) - values
    seen = np.arange(len(values))
    pooled = before / np.maximum(seen, 1)
    for arm in (treated, ~treated):
        own = arm.astype(np.float64)
        sums, counts = np.cumsum(values * own) - values * own, np.cumsum(own) - own
        # As if the pooled mean had been seen once: an arm's first run is predicted by something.
        means.append((sums + pooled) / (counts + 1))
    ours, theirs = means
    found: Floats = ours - theirs + np.where(treated, (values - ours) / share, -(values - theirs) / (1 - share))
    return found


def confidence_sequence(values: Floats, planned: int, alpha: float = 0.05) -> tuple[float, float, float]:
    """Return the mean of independent values and an interval for its expectation that holds at all times at once.

    Args:
        values: (N,), at least two of them.
        planned: About how many runs it should be tightest at; to be chosen before the first.
        alpha: How often it may ever miss.
    """
    number = len(values)
    mean, spread = float(values.mean()), float(values.std())
    log = -2 * math.log(alpha)
    rho = math.sqrt((log + math.log(log + 1)) / max(planned, 1))
    scaled = number * rho**2 + 1
    radius = spread * math.sqrt(2 * scaled / (number * rho) ** 2 * math.log(math.sqrt(scaled) / alpha))
    return mean, mean - radius, mean + radius
