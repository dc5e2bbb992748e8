"""Reciprocal rank fusion: one ranking out of several.

Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009: a document's score is the sum of 1 / (60 + its rank) over the rankings it is in. It needs no common scale of
scores, which BM25 and cosines do not have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

RANK_OFFSET = 60
"""The paper's k."""


def fuse(rankings: Sequence[Sequence[int]], weights: Sequence[float], k: int) -> list[tuple[int, float]]:
    """Return the best k of all rankings with their scores, best first; ties keep the order of the first ranking.

    Args:
        rankings: Items, best first.
        weights: How much each ranking counts.
        k: How many.
    """
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, item in enumerate(ranking, 1):
            scores[item] += weight / (RANK_OFFSET + rank)
    return sorted(scores.items(), key=lambda scored: -scored[1])[:k]
