"""95 % intervals of ratios of sums over clusters, by adjusted empirical likelihood.

Importance weights are skewed, and a bootstrap or a normal interval then holds the truth too seldom. Empirical
likelihood (Owen, 2001; for off-policy estimates Karampatziakis et al., arXiv 1906.03323) bends with the skew. One
artificial observation, opposite to the mean, keeps it defined and covers better in small samples (Chen, Variyath and
Abraham, 2008), and the threshold is that of an F distribution with the effective number of clusters in place of the
chi-squared one.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_HALVINGS = 28
"""Of the bracket of an interval's end: eight digits."""
_NEWTON_STEPS = 16


def student_quantile(probability: float, degrees: float) -> float:
    """Return Student's t quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).

    Args:
        probability: In (0, 1).
        degrees: Degrees of freedom; from 4 on it is right to three digits.
    """
    z = NormalDist().inv_cdf(probability)
    degrees = max(degrees, 1.0)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def ratio_interval(
    parts: Floats, wholes: Floats, bounds: tuple[float, float], degrees: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return an interval for sum(parts) / sum(wholes).

    Args:
        parts: One entry a cluster; clusters are independent of each other.
        wholes: Likewise; 0 or more, and not all 0.
        bounds: What the ratio cannot leave.
        degrees: Degrees of freedom: the effective number of clusters, less one.
        confidence: How often the interval is to hold the truth.
    """
    middle = float(parts.sum() / wholes.sum())
    threshold = student_quantile((1 + confidence) / 2, degrees) ** 2
    # Both ends at once: each is bisected between the ratio, which is inside, and its bound, which may be outside.
    inside = np.array([middle, middle])
    outside = np.array([min(bounds[0], middle), max(bounds[1], middle)])
    for _ in range(_HALVINGS):
        tried = (inside + outside) / 2
        held = _statistic(parts - tried[:, None] * wholes) <= threshold
        inside, outside = np.where(held, tried, inside), np.where(held, outside, tried)
    return float(inside[0]), float(inside[1])


def wilson_interval(share: float, number: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's interval of a share that rests on a number of runs, which need not be whole.

    The normal quantile is Student's here: an effective number is itself estimated.
    """
    t = student_quantile((1 + confidence) / 2, max(number - 1, 1.0))
    square = t**2
    middle = (share + square / (2 * number)) / (1 + square / number)
    half = t / (1 + square / number) * math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def _statistic(moments: Floats) -> Floats:
    """Return the adjusted empirical likelihood ratio that each row of `moments` has mean 0."""
    number = moments.shape[1]
    mean = moments.mean(axis=1, keepdims=True)
    level = max(1.0, math.log(number) / 2)
    rows = np.concatenate([moments, -level * mean], axis=1)
    scale = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(scale > 0, scale, 1.0)
    flat = (rows.max(axis=1) <= 0) | (rows.min(axis=1) >= 0)  # all 0: the mean is exactly 0
    rows[flat] = np.array([1.0, -1.0] + [0.0] * (number - 1))
    # The multiplier's equation falls from plus to minus infinity between the two poles: Newton's steps, and a halving
    # where one would leave the bracket.
    low, high = -1 / rows.max(axis=1), -1 / rows.min(axis=1)
    at = np.zeros(len(rows))
    for _ in range(_NEWTON_STEPS):
        shares = rows / (1 + at[:, None] * rows)
        slope = shares.sum(axis=1)
        low, high = np.where(slope > 0, at, low), np.where(slope > 0, high, at)
        step = at + slope / (shares**2).sum(axis=1)
        at = np.where((step > low) & (step < high), step, (low + high) / 2)
    inner = np.maximum(1 + at[:, None] * rows, 1e-300)
    statistic: Floats = 2 * np.log(inner).sum(axis=1)
    return statistic
