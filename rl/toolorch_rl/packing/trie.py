"""Rows folded into prefix tries, so that what several rows begin with is forwarded once.

Rows are sorted as byte strings, after which every row shares its longest common prefix with its neighbour, and a
depth-first walk through the trie is the rows one after another, each without what it shares. All work a token is
`memcmp`, `memcpy` and NumPy's: nothing in Python touches a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from toolorch_rl.packing.errors import PackingError

Ids = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int32]

_TOO_MUCH = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Rows as one trie of N tokens in depth-first order.

    Token i sees token j (itself, or an earlier one of its row) exactly where j <= i < subtree_end[j].

    Attributes:
        rows: Numbers of the rows in the list that was packed, R of them, in the order in which they stand here.
        ids: `uint32` (N,).
        positions: `int32` (N,), place of each token in its rows.
        subtree_end: `int32` (N,), where the token's descendants end.
        index: `int32`, trie token of each token of each row, row after row.
        offsets: `int64` (R + 1,), where each row's part of `index` starts.
    """

    rows: tuple[int, ...]
    ids: Ids
    positions: Ints
    subtree_end: Ints
    index: Ints
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ratio(self) -> float:
        """How many times fewer tokens are forwarded than the rows hold."""
        return len(self.index) / len(self.ids)

    def row_index(self, place: int) -> Ints:
        """Return the trie token of each token of the row that stands at a place of `rows`."""
        return self.index[self.offsets[place] : self.offsets[place + 1]]


def pack(rows: Sequence[Ids], budget: int | None = None) -> list[PackedRows]:
    """Pack rows into tries of at most so many tokens.

    Rows with much in common (a group's prompt, a run's branches) stay together: of all ways to cut the sorted rows, the
    one is taken that forwards the fewest tokens in all, and of those one with the fewest tries.

    Args:
        rows: Token ids of each row.
        budget: Most tokens of a trie; None: one trie. A row that is longer by itself gets a trie of its own.

    Raises:
        PackingError: There are no rows, a row is empty or is not `uint32`, or the budget is not positive.
    """
    _check(rows, budget)
    keys = [ids.astype(">u4").tobytes() for ids in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    ordered = [rows[number] for number in order]
    shared = _common_prefixes(ordered)
    lengths = np.fromiter(map(len, ordered), np.int64, len(ordered))
    cuts = [0, len(ordered)] if budget is None else _cuts(lengths, shared, budget)
    return [
        _trie(order[start:stop], ordered[start:stop], [0, *shared[start + 1 : stop].tolist()])
        for start, stop in pairwise(cuts)
    ]


def _check(rows: Sequence[Ids], budget: int | None) -> None:
    if not len(rows):
        raise PackingError("there are no rows to pack")
    if budget is not None and budget < 1:
        raise PackingError(f"budget is {budget}: it must be at least 1 token")
    for number, ids in enumerate(rows):
        if ids.dtype != np.uint32 or ids.ndim != 1:
            raise PackingError(
                f"row {number} has ids of type {ids.dtype} and shape {ids.shape}: they must be uint32 (n,)"
            )
        if not len(ids):
            raise PackingError(f"row {number} is empty: leave it out")


def _common_prefixes(ordered: Sequence[Ids]) -> npt.NDArray[np.int64]:
    """Return how many tokens each row has in common with the one before it."""
    shared = np.zeros(len(ordered), np.int64)
    for place in range(1, len(ordered)):
        one, two = ordered[place - 1], ordered[place]
        number = min(len(one), len(two))
        differs = one[:number] != two[:number]
        first = int(differs.argmax())
        shared[place] = first if differs[first] else number
    return shared


def _cuts(lengths: npt.NDArray[np.int64], shared: npt.NDArray[np.int64], budget: int) -> list[int]:
    """Return where to cut the sorted rows: a shortest path over cuts, which cost what is then forwarded again."""
    number = len(lengths)
    done = np.concatenate([[0], np.cumsum(lengths - shared)])  # tokens of the first k rows in one trie
    if done[-1] <= budget:
        return [0, number]
    lows = np.minimum(np.searchsorted(done, done - budget), np.arange(number + 1) - 1).tolist()
    whole = done[:-1] - shared  # a trie that starts here has done[stop] less this: its first row counts whole
    limits = (done - budget).tolist()
    cost = np.zeros(number + 1, np.int64)
    prices = np.empty(number, np.int64)  # of a trie that starts here, and all before it
    before = [0] * (number + 1)
    for stop in range(1, number + 1):
        low = lows[stop]
        prices[stop - 1] = cost[stop - 1] + shared[stop - 1] + 1
        best = low + int(np.where(whole[low:stop] >= limits[stop], prices[low:stop], _TOO_MUCH).argmin())
        if whole[best] < limits[stop]:
            best = stop - 1  # a row over the budget
        cost[stop], before[stop] = prices[best], best
    cuts = [number]
    while cuts[-1]:
        cuts.append(before[cuts[-1]])
    return cuts[::-1]


def _trie(numbers: list[int], ordered: Sequence[Ids], shared: list[int]) -> PackedRows:
    lengths = [len(ids) for ids in ordered]
    fresh = [length - common for length, common in zip(lengths, shared, strict=True)]
    bases = [0, *np.cumsum(fresh).tolist()]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count = np.arange(max(bases[-1], *lengths), dtype=np.int32)
    index = np.empty(offsets[-1], np.int32)
    starts = offsets.tolist()
    for place, (common, length) in enumerate(zip(shared, lengths, strict=True)):
        start = starts[place]
        if common:  # the row before has all of it
            index[start : start + common] = index[starts[place - 1] : starts[place - 1] + common]
        index[start + common : start + length] = count[bases[place] : bases[place + 1]]
    return PackedRows(
        rows=tuple(numbers),
        ids=np.concatenate([ids[common:] for ids, common in zip(ordered, shared, strict=True)]),
        positions=np.concatenate([count[common:length] for common, length in zip(shared, lengths, strict=True)]),
        subtree_end=_subtree_ends(lengths, shared, bases),
        index=index,
        offsets=offsets,
    )


def _subtree_ends(lengths: list[int], shared: list[int], bases: list[int]) -> Ints:
    """Return where each token's descendants end: at the next row that leaves the path before the token's depth."""
    found = np.empty(bases[-1], np.int32)
    ends = np.full(max(lengths), bases[-1], np.int32)  # by depth, of the row at hand
    for place in range(len(lengths) - 1, -1, -1):
        if place + 1 < len(lengths):
            ends[shared[place + 1] : lengths[place]] = bases[place + 1]
        found[bases[place] : bases[place + 1]] = ends[shared[place] : lengths[place]]
    return found
