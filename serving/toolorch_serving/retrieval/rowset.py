"""Sets of rows as bitmaps, the form in which faiss takes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Row numbers of documents: unique for the index's life, growing, never used again."""


class RowSet:
    """A set of rows.

    Attributes:
        bits: Row r is bit r % 8 (the lowest first) of byte r // 8.
    """

    def __init__(self, rows: Rows | None = None) -> None:
        self.bits: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.count = 0
        if rows is not None:
            self.add(rows)

    def __len__(self) -> int:
        return self.count

    def add(self, rows: Rows) -> None:
        """Take rows in."""
        if not len(rows):
            return
        needed = int(rows.max()) // 8 + 1
        if needed > len(self.bits):
            # A new array: a search that goes on reads the old one.
            grown = np.zeros(max(needed, len(self.bits) * 3 // 2, 1024), np.uint8)
            grown[: len(self.bits)] = self.bits
            self.bits = grown
        new = np.unique(rows[~self.has(rows)])
        np.bitwise_or.at(self.bits, new >> 3, _bit(new))
        self.count += len(new)

    def discard(self, rows: Rows) -> None:
        """Take rows out."""
        there = np.unique(rows[self.has(rows)])
        np.bitwise_and.at(self.bits, there >> 3, ~_bit(there))
        self.count -= len(there)

    def has(self, rows: Rows) -> NDArray[np.bool_]:
        """Say of each row whether it is in the set; negative ones never are."""
        inside = (rows >= 0) & (rows < len(self.bits) * 8)
        found = np.zeros(rows.shape, bool)
        those = rows[inside]
        found[inside] = (self.bits[those >> 3] & _bit(those)) != 0
        return found

    def rows(self) -> Rows:
        """Return the members, ascending."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little"))

    def both(self, other: RowSet) -> RowSet:
        """Return what is in both sets."""
        made = RowSet()
        size = min(len(self.bits), len(other.bits))
        made.bits = self.bits[:size] & other.bits[:size]
        made.count = int(np.bitwise_count(made.bits).sum()) if hasattr(np, "bitwise_count") else len(made.rows())
        return made


def _bit(rows: Rows) -> NDArray[np.uint8]:
    bits: NDArray[np.uint8] = np.left_shift(1, rows & 7).astype(np.uint8)
    return bits
