"""Exact search through vectors that stream by: the truth to measure against, and the way for rare filters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from toolorch_serving.retrieval.documents import Vectors
from toolorch_serving.retrieval.library import faiss
from toolorch_serving.retrieval.rowset import Rows


def exact_search(queries: Vectors, k: int, batches: Iterable[tuple[Rows, Vectors]]) -> tuple[Vectors, Rows]:
    """Return scores and rows, each of shape (queries, k), best first; row -1 where there is no more."""
    best_scores = np.full((len(queries), k), -np.inf, np.float32)
    best_rows = np.full((len(queries), k), -1, np.int64)
    for rows, vectors in batches:
        scores, places = faiss.knn(
            queries, np.ascontiguousarray(vectors), min(k, len(rows)), metric=faiss.METRIC_INNER_PRODUCT
        )
        all_scores = np.concatenate([best_scores, scores], 1)
        all_rows = np.concatenate([best_rows, rows[places]], 1)
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(all_scores, order, 1)
        best_rows = np.take_along_axis(all_rows, order, 1)
    return best_scores, best_rows
