"""Key-value caches of answers that are finished: the next turn of the same conversation begins with their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolorch_serving.embedded.key_values import Layers


class PrefixCache:
    """The most recently used rows, up to a number of tokens in all."""

    def __init__(self, limit: int) -> None:
        """Prepare an empty cache that keeps at most `limit` tokens."""
        self._limit = limit
        self._rows: list[tuple[str | None, list[int], Layers]] = []

    def find(self, adapter: str | None, prompt: Sequence[int]) -> Layers | None:
        """Return the cache of the longest known beginning of `prompt` (never of all of it), or None."""
        best, best_length = None, 0
        for row in self._rows:
            length = _common(row[1], prompt[:-1]) if row[0] == adapter else 0
            if length > best_length:
                best, best_length = row, length
        if best is None:
            return None
        self._rows = [row for row in self._rows if row is not best] + [best]
        return [(keys[:, :, :best_length], values[:, :, :best_length]) for keys, values in best[2]]

    def add(self, adapter: str | None, tokens: Sequence[int], layers: Callable[[], Layers]) -> None:
        """Keep a row; `layers` is called for its cache only if there is room for it."""
        if len(tokens) > self._limit:
            return
        # A conversation that has grown needs its shorter self no more.
        self._rows = [row for row in self._rows if not (row[0] == adapter and _common(row[1], tokens) == len(row[1]))]
        self._rows.append((adapter, list(tokens), layers()))
        while sum(len(row[1]) for row in self._rows) > self._limit:
            del self._rows[0]

    def forget(self, adapter: str | None) -> None:
        """Drop all rows of an adapter that has gone."""
        self._rows = [row for row in self._rows if row[0] != adapter]

    def clear(self) -> None:
        """Drop all rows."""
        self._rows = []


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
