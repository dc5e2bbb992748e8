"""Key-value caches of a running batch, in buffers with room for the next tokens: a step writes one column in place.

transformers' own growing cache copies all that it holds for each token, which is most of a small model's time. Its
static one has a fixed number of rows, and rows that all begin in the same column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, each of shape (rows, heads, columns, size)."""

_ROWS, _COLUMNS = 8, 64
"""How many rows and columns a buffer grows by: not by a share of what it has, which for large models is memory."""


class KeyValues:
    """Rows of keys and values for all layers.

    Rows are aligned at their right end: row r with n tokens holds the columns [end - n, end) of the buffers. What lies
    left of it is to be masked; it is always finite.

    Attributes:
        lengths: How many tokens each row holds.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._layers: list[_Layer] = []
        self._end = 0

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return max(self.lengths, default=0)

    @property
    def columns(self) -> slice:
        """Where the longest row stands in the buffers."""
        return slice(self._end - self.width, self._end)

    def add(self, layers: Layers) -> None:
        """Add one row.

        Args:
            layers: Its keys and values, with one row each.
        """
        length = layers[0][0].shape[2]
        if not self._layers:
            self._layers = [_Layer(self) for _ in layers]
        rows = len(self.lengths)
        if rows == self._layers[0].rows or length > self._end:
            self._make_room(max(length, self.width), layers)
        for layer, (keys, values) in zip(self._layers, layers, strict=True):
            layer.keys[rows, :, self._end - length : self._end] = keys[0]
            layer.values[rows, :, self._end - length : self._end] = values[0]
        self.lengths.append(length)

    def cache(self) -> Cache:
        """Return what a model's forward pass for one more token of each row takes; it writes the new column."""
        if self._end == self._layers[0].capacity:
            self._make_room(self.width, self.rows())
        return Cache(layers=list(self._layers))

    def advance(self) -> None:
        """Take in the column that a forward pass has written."""
        self._end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def row(self, index: int) -> Layers:
        """Return a copy of one row."""
        columns = slice(self._end - self.lengths[index], self._end)
        return [
            (layer.keys[index : index + 1, :, columns].clone(), layer.values[index : index + 1, :, columns].clone())
            for layer in self._layers
        ]

    def rows(self) -> Layers:
        """Return all rows, padded at their left, without copying them."""
        own = slice(len(self.lengths))
        return [(layer.keys[own, :, self.columns], layer.values[own, :, self.columns]) for layer in self._layers]

    def remove(self, gone: Sequence[int]) -> list[int]:
        """Let rows leave; the last ones take their places.

        Returns:
            Of each row that is left, which one it was.
        """
        left = len(self.lengths) - len(set(gone))
        movers = [index for index in range(left, len(self.lengths)) if index not in gone]
        order = [movers.pop() if index in gone else index for index in range(left)]
        columns = self.columns
        for index, before in enumerate(order):
            if index != before:
                for layer in self._layers:
                    layer.keys[index, :, columns] = layer.keys[before, :, columns]
                    layer.values[index, :, columns] = layer.values[before, :, columns]
        self.lengths = [self.lengths[before] for before in order]
        if not order:
            self._layers = []
        return order

    def _make_room(self, width: int, like: Layers) -> None:
        """Move the rows into larger buffers, so that they end in column `width`."""
        rows, old = len(self.lengths), self.width
        held = self.rows() if rows else []
        for number, (layer, some) in enumerate(zip(self._layers, like, strict=True)):
            new = [part.new_zeros(rows + _ROWS, part.shape[1], width + _COLUMNS, part.shape[3]) for part in some]
            if rows:
                for buffer, part in zip(new, held[number], strict=True):
                    buffer[:rows, :, width - old : width] = part
            layer.keys, layer.values = new
        self._end = width


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's buffers, as a model sees them."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, held: KeyValues) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = held
        self.is_initialized = True

    @property
    def rows(self) -> int:
        """Rows for which there is room."""
        return 0 if self.keys is None else self.keys.shape[0]

    @property
    def capacity(self) -> int:
        """Columns for which there is room."""
        return self.keys.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: rows are added before a model sees the layer."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column; return all up to it."""
        columns, rows = self._held.columns, len(self._held.lengths)
        self.keys[:rows, :, columns.stop] = key_states[:, :, 0]
        self.values[:rows, :, columns.stop] = value_states[:, :, 0]
        grown = slice(columns.start, columns.stop + 1)
        return self.keys[:rows, :, grown], self.values[:rows, :, grown]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns a pass sees, and which is the first."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many columns there are."""
        return self._held.width

    def get_max_length(self) -> int:
        """Return that there is no limit."""
        return -1
