"""Search by vectors with faiss, on processors or GPUs.

An index is flat (exact) while it is small, and an inverted file (IVF) or a graph (HNSW) when it is large. Their one
knob, how much of the index a query looks at, is measured on the documents themselves: see `DenseIndex.tune`.
Vectors are of length 1, so the inner product is the cosine.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from toolorch_integrations.retrieval import RetrievalError
from toolorch_serving.retrieval.documents import Vectors
from toolorch_serving.retrieval.exact import exact_search
from toolorch_serving.retrieval.library import faiss
from toolorch_serving.retrieval.locks import ReadWriteLock
from toolorch_serving.retrieval.results import kept, nothing, padded
from toolorch_serving.retrieval.rowset import Rows, RowSet

Kind = Literal["flat", "ivf", "ivf_sq8", "hnsw"]
KINDS: tuple[Kind, ...] = ("flat", "ivf", "ivf_sq8", "hnsw")
LARGE = 50_000
"""Documents above which `auto` takes an inverted file in place of exact search."""
_TRAINED_ON = 48
"""Vectors a list that k-means sees; faiss warns below 39."""
_GPU_MOST = 2048
"""Results that faiss's GPU indexes give at most."""
_ADDED_AT_ONCE = 256
"""Vectors that are added while searches wait."""

Batches = Iterable[tuple[Rows, Vectors]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What an index is like.

    Attributes:
        kind: See `Kind`; `ivf_sq8` holds a byte a dimension in place of four.
        dimension: Of the vectors.
        effort: Lists that a query looks at (IVF: nprobe), or candidates that it keeps (HNSW: efSearch).
        built: Documents there were when it was built.
        recall: Share of the true 10 nearest that `tune` measured; 1 for exact search.
    """

    kind: Kind
    dimension: int
    effort: int = 0
    built: int = 0
    recall: float = 1.0


def chosen_kind(wanted: str, count: int) -> Kind:
    """Return the kind that `wanted`, which may be auto, means for so many documents.

    Raises:
        RetrievalError: There is no such kind.
    """
    if wanted == "auto":
        return "ivf" if count > LARGE else "flat"
    for kind in KINDS:
        if wanted == kind:
            return kind
    raise RetrievalError(f"kind {wanted!r}: give one of auto, {', '.join(KINDS)}", "kind")


def lists_of(count: int) -> int:
    """Return how many lists an inverted file of so many documents has.

    2 sqrt(n), half of the least that faiss advises, since k-means may have only one core here.
    """
    return max(1, min(round(2 * math.sqrt(count)), count // 40))


class DenseIndex:
    """A faiss index whose labels are rows; searches run beside each other, changes alone."""

    def __init__(self, index: Any, shape: Shape, alive: RowSet) -> None:
        """Take over a trained index; move it to the GPUs where faiss has any."""
        self.shape = shape
        self.alive = alive
        self._lock = ReadWriteLock()
        self._one_at_a_time = threading.Lock()  # GPU indexes share scratch memory
        self.on_gpu = hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus() > 0
        self._index = _to_gpus(index, shape.kind) if self.on_gpu and shape.kind != "hnsw" else index
        self.on_gpu = self._index is not index

    @classmethod
    def build(
        cls,
        shape: Shape,
        count: int,
        sample: Callable[[int], Vectors],
        batches: Batches,
        progress: Callable[[int], None] = lambda _: None,
    ) -> DenseIndex:
        """Train and fill an index.

        Args:
            shape: Its kind and dimension.
            count: How many vectors will come.
            sample: Returns so many of them, spread over all.
            batches: Rows and vectors.
            progress: Told how many are in.
        """
        lists = lists_of(count)
        if shape.kind in ("ivf", "ivf_sq8") and not lists:
            raise RetrievalError("kind: an inverted file needs documents to learn from; use flat", "kind")
        index = _empty(shape, lists)
        if not index.is_trained:
            index.train(sample(lists * _TRAINED_ON))
        alive = RowSet()
        for rows, vectors in batches:
            index.add_with_ids(vectors, rows)
            alive.add(rows)
            progress(len(alive))
        return cls(index, replace(shape, effort=_first_effort(shape.kind, lists), built=count), alive)

    def __len__(self) -> int:
        return len(self.alive)

    @property
    def dead(self) -> int:
        """Vectors that the index still holds of documents that are gone."""
        return int(self._index.ntotal) - len(self.alive)

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Add vectors; they are found at once."""
        for start in range(0, len(rows), _ADDED_AT_ONCE):
            part = slice(start, start + _ADDED_AT_ONCE)
            with self._lock.writing():
                self._index.add_with_ids(np.ascontiguousarray(vectors[part]), rows[part])
                self.alive.add(rows[part])

    def remove(self, rows: Rows) -> None:
        """Never find these again; the next rebuild gives their memory back."""
        if len(rows):
            with self._lock.writing():
                self.alive.discard(rows)

    def search(self, queries: Vectors, k: int, allowed: RowSet | None = None) -> tuple[Vectors, Rows]:
        """Return scores and rows, each of shape (queries, k), best first; row -1 where there is no more.

        Args:
            queries: Shape (queries, dimension), of length 1.
            k: Results a query.
            allowed: Only these rows.
        """
        with self._lock.reading():
            total = int(self._index.ntotal)
            wanted = self.alive if allowed is None else allowed.both(self.alive)
            if not total or not len(wanted):
                return nothing(len(queries), k)
            if len(wanted) == total:
                return self._run(queries, min(k, total), k, None, 1.0)
            # A few dead are cheaper to drop from the results than to look up for each vector.
            if self.on_gpu or (allowed is None and self.dead <= k):
                return self._run_and_drop(queries, k, wanted, total)
            return self._run(queries, min(k, total), k, wanted, total / len(wanted))

    def _run(
        self, queries: Vectors, asked: int, width: int, wanted: RowSet | None, rarity: float
    ) -> tuple[Vectors, Rows]:
        selector = None if wanted is None else faiss.IDSelectorBitmap(wanted.bits)
        parameters = self._parameters(selector, asked, rarity)
        if self.on_gpu:
            with self._one_at_a_time:
                scores, rows = self._index.search(queries, asked, params=parameters)
        else:
            scores, rows = self._index.search(queries, asked, params=parameters)
        return (scores, rows) if asked == width else padded(scores, rows, width)

    def _run_and_drop(self, queries: Vectors, k: int, wanted: RowSet, total: int) -> tuple[Vectors, Rows]:
        rarity = total / len(wanted)
        asked = min(k + total - len(wanted), math.ceil(2 * k * rarity))
        if self.on_gpu:
            asked = min(asked, _GPU_MOST)
        scores, rows = self._run(queries, asked, asked, None, rarity)
        return kept(scores, rows, wanted.has(rows), k)

    def _parameters(self, selector: Any, asked: int, rarity: float) -> Any:
        """Return faiss's search parameters; the rarer what is wanted, the more of the index is looked at."""
        options = {} if selector is None else {"sel": selector}
        if self.shape.kind == "hnsw":
            effort = min(math.ceil(max(self.shape.effort, asked) * rarity), 4096)
            return faiss.SearchParametersHNSW(efSearch=max(effort, asked), **options)
        if self.shape.kind in ("ivf", "ivf_sq8"):
            return faiss.SearchParametersIVF(nprobe=math.ceil(self.shape.effort * rarity), **options)
        return faiss.SearchParameters(**options) if options else None

    def tune(self, sample: Vectors, batches: Batches, target: float, at: int = 10) -> None:
        """Choose the least effort that finds enough of the true nearest, and note the recall.

        Args:
            sample: Vectors of documents, which stand in for queries; each one's own document does not count.
            batches: All rows and vectors, for the exact answer.
            target: Recall to reach.
            at: How many nearest.
        """
        if self.shape.kind == "flat" or len(self) <= at:
            return
        _, true = exact_search(sample, at + 1, batches)

        def recall(effort: int) -> float:
            self.shape = replace(self.shape, effort=effort)
            _, found = self.search(sample, at + 1)
            hits = [len(set(one[1:]) & set(other)) for one, other in zip(true.tolist(), found.tolist(), strict=True)]
            return sum(hits) / (at * len(hits))

        most = self._most_effort()
        effort = 1 if self.shape.kind != "hnsw" else 16
        reached = recall(effort)
        while reached < target and effort < most:
            effort = min(max(effort + 1, effort * 5 // 4), most)
            reached = recall(effort)
        self.shape = replace(self.shape, effort=effort, recall=round(reached, 4))

    def _most_effort(self) -> int:
        return 2048 if self.shape.kind == "hnsw" else int(self._index.nlist)

    def on_processor(self) -> Any:
        """Return the index as faiss writes it to a file; let nobody change it meanwhile."""
        return faiss.index_gpu_to_cpu(self._index) if self.on_gpu else self._index


def _empty(shape: Shape, lists: int) -> Any:
    names = {"flat": "IDMap,Flat", "hnsw": "IDMap,HNSW32", "ivf": f"IVF{lists},Flat", "ivf_sq8": f"IVF{lists},SQ8"}
    index = faiss.index_factory(shape.dimension, names[shape.kind], faiss.METRIC_INNER_PRODUCT)
    if shape.kind == "hnsw":
        faiss.downcast_index(index.index).hnsw.efConstruction = 80
    elif shape.kind != "flat":
        index.cp.spherical = True
        index.cp.niter = 10
        index.cp.max_points_per_centroid = _TRAINED_ON
    return index


def _first_effort(kind: Kind, lists: int) -> int:
    return {"flat": 0, "hnsw": 64}.get(kind, max(8, lists // 16))


def _to_gpus(index: Any, kind: Kind) -> Any:
    options = faiss.GpuMultipleClonerOptions()
    options.shard = kind != "flat"  # Each GPU holds a part; faiss cannot add to parts of a flat index, which is small.
    return faiss.index_cpu_to_all_gpus(index, co=options)
