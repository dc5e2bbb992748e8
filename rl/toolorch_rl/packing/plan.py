"""Which keys a run of queries sees, and the masks that say so to each kind of attention.

Token i sees token j where j <= i < subtree_end[j]. What queries [a, b) see before a are the ancestors of a: whoever of
them sees a token before a has it as an ancestor, and lies with a in its subtree. So the keys of a chunk of queries are
few ranges of tokens and the chunk itself, and the work is what the rows' own attention would be, not N squared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toolorch_rl.packing.trie import PackedRows

CHUNK = 256
"""Queries at a time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Queries [start, stop) and the tokens that they may see."""

    start: int
    stop: int
    spans: tuple[tuple[int, int], ...]
    """Starts and stops of the ranges of keys, in order; the last ends with the queries."""
    bias: torch.Tensor
    """(queries, keys), what is added to scores: 0 where a query sees a key, else minus infinity."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the chunk's part of keys or values of shape (1, heads, N, size)."""
        if len(self.spans) == 1:
            return values[:, :, self.spans[0][0] : self.spans[0][1]]
        return torch.cat([values[:, :, start:stop] for start, stop in self.spans], dim=2)


class TreePlan:
    """What attention over packed rows needs to know of them, on one device.

    It travels to the attention layers among their arguments, so it is opaque on purpose: wrappers of models (FSDP,
    accelerate) take dataclasses apart to move and cast the tensors in them.

    Attributes:
        packed: The rows.
        device: Where attention is computed.
        calls: How many attention layers have used the plan.
    """

    def __init__(self, packed: PackedRows, device: torch.device) -> None:
        self.packed = packed
        self.device = device
        self.calls = 0
        self._ends = torch.as_tensor(packed.subtree_end, device=device)
        self._positions = torch.as_tensor(packed.positions, device=device)
        self._spans: dict[int | None, list[tuple[tuple[int, int], ...]]] = {}

    def chunks(self, window: int | None = None, dtype: torch.dtype = torch.float32) -> Iterator[Chunk]:
        """Yield the chunks of queries; `window` is how many tokens of its row a query sees, itself included."""
        if window not in self._spans:
            starts = range(0, len(self.packed), CHUNK)
            self._spans[window] = [self._find(at, min(at + CHUNK, len(self.packed)), window) for at in starts]
        for number, spans in enumerate(self._spans[window]):
            start, stop = number * CHUNK, spans[-1][1]
            yield Chunk(start, stop, spans, self._bias(start, stop, spans, window, dtype))

    def dense(self, window: int | None = None) -> torch.Tensor:
        """Return the whole mask as `bool` (1, 1, N, N): True where a token is seen."""
        number = len(self.packed)
        return self._visible(0, number, torch.arange(number, device=self.device), window)[None, None]

    def blocks(self, window: int | None = None, size: int = 128) -> Any:
        """Return the mask as FlexAttention's `BlockMask`, without ever making N squared of anything."""
        from torch.nn.attention.flex_attention import BlockMask

        some, every = block_pattern(self.packed, window, size)
        ends, positions = self._ends, self._positions

        def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            seen = (key <= query) & (query < ends[key])
            return seen if window is None else seen & (positions[query] - positions[key] < window)

        number = len(self.packed)
        return BlockMask.from_kv_blocks(
            *_listed(some & ~every, self.device),
            *_listed(every, self.device),
            BLOCK_SIZE=(size, size),
            mask_mod=sees,
            seq_lengths=(number, number),
        )

    def _find(self, start: int, stop: int, window: int | None) -> tuple[tuple[int, int], ...]:
        before = self.packed.subtree_end[:start] > start
        if window is not None:
            first = int(self.packed.positions[start:stop].min()) - window
            before &= self.packed.positions[:start] > first
        edges = np.flatnonzero(np.diff(np.concatenate([[False], before, [False]]))).tolist()
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        return (*spans, (start, stop))

    def _bias(
        self, start: int, stop: int, spans: tuple[tuple[int, int], ...], window: int | None, dtype: torch.dtype
    ) -> torch.Tensor:
        keys = torch.cat([torch.arange(*span, device=self.device) for span in spans])
        bias = torch.zeros(stop - start, len(keys), dtype=dtype, device=self.device)
        # Most keys are seen by every query: only the others are looked at.
        some = torch.arange(len(keys), device=self.device)
        if window is None:
            some = some[(keys >= start) | (self._ends[keys] < stop)]
        hidden = ~self._visible(start, stop, keys[some], window)
        bias[:, some] = torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, -torch.inf)
        return bias

    def _visible(self, start: int, stop: int, keys: torch.Tensor, window: int | None) -> torch.Tensor:
        queries = torch.arange(start, stop, device=self.device)[:, None]
        seen = (keys <= queries) & (queries < self._ends[keys])
        if window is not None:
            seen &= self._positions[start:stop, None] - self._positions[keys] < window
        return seen


def block_pattern(
    packed: PackedRows, window: int | None, size: int
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return which blocks of queries (rows) may see something of which blocks of keys, and which see all of it.

    The first may say so of a block that sees nothing, which costs time and changes no result.
    """
    number = len(packed)
    edges = np.arange(0, number, size)
    first, last = edges, np.minimum(edges + size, number) - 1
    low_end = np.minimum.reduceat(packed.subtree_end, edges)
    high_end = np.maximum.reduceat(packed.subtree_end, edges)
    some = (first <= last[:, None]) & (high_end > first[:, None])
    every = (last <= first[:, None]) & (low_end > last[:, None])
    every &= (last - first + 1 == size) & (last - first + 1 == size)[:, None]
    if window is not None:
        low, high = np.minimum.reduceat(packed.positions, edges), np.maximum.reduceat(packed.positions, edges)
        some &= low[:, None] - high < window
        every &= high[:, None] - low < window
    return some, every


def _listed(pattern: np.ndarray[Any, np.dtype[np.bool_]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many blocks of keys each block of queries has, and their numbers, these first."""
    order = np.argsort(~pattern, axis=1, kind="stable").astype(np.int32)
    number = pattern.sum(axis=1, dtype=np.int32)
    return torch.as_tensor(number, device=device)[None, None], torch.as_tensor(order, device=device)[None, None]
