"""Results of a vector search as faiss gives them: scores and rows, of shape (queries, k); row -1 is none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolorch_serving.retrieval.documents import Vectors
from toolorch_serving.retrieval.rowset import Rows


def nothing(queries: int, k: int) -> tuple[Vectors, Rows]:
    """Return results that hold no document."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)


def padded(scores: Vectors, rows: Rows, width: int) -> tuple[Vectors, Rows]:
    """Return results with places for more, which are empty."""
    all_scores, all_rows = nothing(len(rows), width)
    all_scores[:, : rows.shape[1]], all_rows[:, : rows.shape[1]] = scores, rows
    return all_scores, all_rows


def kept(scores: Vectors, rows: Rows, keep: NDArray[np.bool_], k: int) -> tuple[Vectors, Rows]:
    """Return the first k of each row's results that are to be kept."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(keep, order, 1)
    found_scores = np.where(kept, np.take_along_axis(scores, order, 1), -np.inf).astype(np.float32)
    found = np.where(kept, np.take_along_axis(rows, order, 1), -1)
    return (found_scores, found) if found.shape[1] == k else padded(found_scores, found, k)
