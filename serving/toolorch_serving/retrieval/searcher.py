"""Searches by meaning, by words and by both, within a filter."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from pydantic_core import from_json

from toolorch_integrations.retrieval import Hit, RetrievalError
from toolorch_serving.retrieval.database import Database, Found
from toolorch_serving.retrieval.documents import Vectors, is_unicode
from toolorch_serving.retrieval.exact import exact_search
from toolorch_serving.retrieval.filters import Selection
from toolorch_serving.retrieval.fusion import fuse
from toolorch_serving.retrieval.keeper import Keeper
from toolorch_serving.retrieval.rowset import RowSet

MOST_RESULTS = 1000
"""Results a query at most."""
MODES = ("hybrid", "dense", "lexical")
_RARE = 10_000
"""Documents of a filter up to which all are compared with the query."""
_DEPTH = 64
"""Results of each ranking, at least, that fusion sees."""
_CACHED_FILTERS = 64
_ATTEMPTS = 3

Ranking = list[tuple[int, float]]
"""Rows with their scores, best first."""


def check_search(queries: Sequence[str], k: int, mode: str, weights: tuple[float, float]) -> None:
    """Check the arguments of a search.

    Raises:
        RetrievalError: One is not usable.
    """
    if isinstance(queries, str):
        raise RetrievalError("queries: give a list of texts, not one text", "queries")
    for number, query in enumerate(queries):
        if not isinstance(query, str) or not query.strip() or not is_unicode(query):
            raise RetrievalError(f"queries[{number}]: must be a text that is not empty", f"queries[{number}]")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST_RESULTS:
        raise RetrievalError(f"k: must be a whole number from 1 to {MOST_RESULTS}, not {k!r}", "k")
    if mode not in MODES:
        raise RetrievalError(f"mode {mode!r}: give one of {', '.join(MODES)}", "mode")
    if len(weights) != 2 or not min(weights) >= 0 or not 0 < sum(weights) < np.inf:
        raise RetrievalError("weights: give two numbers, at least 0 and not both 0: of dense and of lexical", "weights")


class Searcher:
    """Searches a database and its faiss index. Arguments are checked, vectors have length 1."""

    def __init__(self, database: Database, keeper: Keeper) -> None:
        self._database, self._keeper = database, keeper
        self._filters: OrderedDict[tuple[str, int], RowSet] = OrderedDict()
        self._filters_lock = threading.Lock()

    def lexical(self, queries: Sequence[str], k: int, selection: Selection | None) -> list[list[Hit]]:
        """Return the best documents by BM25."""
        return self._hits(lambda: self._by_words(queries, k, selection))

    def dense(self, vectors: Vectors, k: int, selection: Selection | None) -> list[list[Hit]]:
        """Return the nearest documents."""
        return self._hits(lambda: self._by_meaning(vectors, k, selection))

    def hybrid(
        self,
        queries: Sequence[str],
        vectors: Vectors,
        k: int,
        selection: Selection | None,
        weights: tuple[float, float],
    ) -> list[list[Hit]]:
        """Return the best documents by both rankings, fused."""
        depth = max(2 * k, _DEPTH)

        def rank() -> list[Ranking]:
            dense, lexical = self._by_meaning(vectors, depth, selection), self._by_words(queries, depth, selection)
            pairs = ([[row for row, _ in one] for one in pair] for pair in zip(dense, lexical, strict=True))
            return [fuse(pair, weights, k) for pair in pairs]

        return self._hits(rank)

    def _by_words(self, queries: Sequence[str], k: int, selection: Selection | None) -> list[Ranking]:
        return [self._database.by_words(query, k, selection) for query in queries]

    def _by_meaning(self, queries: Vectors, k: int, selection: Selection | None) -> list[Ranking]:
        dense = self._keeper.load()
        allowed = None if selection is None else self._allowed(selection)
        number = len(dense) if allowed is None else len(allowed)
        few = allowed is not None and number <= _RARE and dense.shape.kind != "flat"
        if not few:
            scores, rows = dense.search(queries, k, allowed)
            few = bool((rows[:, : min(k, number)] < 0).any())  # The lists or paths that were looked at hold too few.
        if few:
            among = None if allowed is None else allowed.rows()
            scores, rows = exact_search(queries, k, self._database.vectors(among=among))
        return [
            [(row, score) for row, score in zip(*one, strict=True) if row >= 0]
            for one in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _allowed(self, selection: Selection) -> RowSet:
        key = (selection.key, self._keeper.version)
        with self._filters_lock:
            if key in self._filters:
                self._filters.move_to_end(key)
                return self._filters[key]
        found = RowSet(np.unique(self._database.selected(selection)))
        with self._filters_lock:
            self._filters[key] = found
            while len(self._filters) > _CACHED_FILTERS:
                self._filters.popitem(last=False)
        return found

    def _hits(self, rank: Callable[[], list[Ranking]]) -> list[list[Hit]]:
        """Read the documents of rankings; rank again if one was deleted in between, so that none is short."""
        for attempt in range(_ATTEMPTS):
            rankings = rank()
            rows = {row for ranking in rankings for row, _ in ranking}
            found = self._database.found(rows)
            if len(found) == len(rows) or attempt == _ATTEMPTS - 1:
                break
        return [[_hit(found[row], score) for row, score in ranking if row in found] for ranking in rankings]


def _hit(found: Found, score: float) -> Hit:
    name, text, metadata = found
    return Hit(name, text, score, from_json(metadata))
