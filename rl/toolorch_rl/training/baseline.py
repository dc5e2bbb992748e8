"""What a run would be expected to earn, for runs whose task was made only once."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toolorch_integrations.preferences import Preferences
from toolorch_integrations.trace import Trace

Floats = npt.NDArray[np.float64]

WORDS = 64
"""Columns that the words of requests are hashed into."""
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def request_features(traces: Sequence[Trace], preferences: Sequence[Preferences]) -> Floats:
    """Return what is known of each run before its first turn: one row a run.

    Hashed words of the request (scaled to length 1), its length, the preferences and the budget's dollars.
    """
    table = np.zeros((len(traces), WORDS + 5))
    for row, trace, wanted in zip(table, traces, preferences, strict=True):
        words = trace.request.casefold().split()
        for word in words:
            row[zlib.crc32(word.encode()) % WORDS] += 1.0
        row[:WORDS] /= max(float(np.linalg.norm(row[:WORDS])), 1.0)
        dollars = float((trace.budget or {}).get("dollars") or 0.0)
        row[WORDS:] = [np.log1p(len(words)), np.log1p(dollars), wanted.quality, wanted.cost, wanted.latency]
    return table


def leave_one_out(features: Floats, rewards: Floats) -> Floats:
    """Return for each run what a ridge regression on all the others expects it to earn.

    A run's own reward never enters its baseline, so that the policy gradient stays unbiased. The penalty is the one
    that predicts best in this sense. Two runs or more are needed.

    Args:
        features: One row a run.
        rewards: One a run.
    """
    number = len(rewards)
    centred = features - features.mean(axis=0)
    scale = centred.std(axis=0)
    centred = centred / np.where(scale > 1e-12, scale, 1.0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    apart = rewards - rewards.mean()
    best: tuple[float, Floats] | None = None
    for penalty in PENALTIES:
        shrunk = left * (values**2 / (values**2 + penalty))
        fitted = rewards.mean() + shrunk @ (left.T @ apart)
        leverage = np.minimum(1.0 / number + np.einsum("ij,ij->i", shrunk, left), 1 - 1e-6)
        residual = (rewards - fitted) / (1 - leverage)
        error = float(residual @ residual)
        if best is None or error < best[0]:
            best = error, rewards - residual
    assert best is not None
    return best[1]
