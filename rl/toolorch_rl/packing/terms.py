"""What a loss is made of: one term for each trained token of each row.

Two rows may share a token of the trie and yet be two samples of it, with advantages and log-probabilities of their own.
So terms belong to rows: each points at the trie token that predicts it, and none is merged with another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolorch_rl.packing.trie import PackedRows
from toolorch_rl.rows import Example, Row


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The trained tokens of packed rows; all arrays are (M,), row after row as in `PackedRows.rows`.

    Attributes:
        rows: `int64`, number of the row in the list that was packed.
        places: `int64`, place of the token in its row.
        sources: `int64`, the trie token that predicts it.
        labels: `int64`, its id.
        temperatures: `float32`, what logits are divided by.
        logprobs: `float32`, what it was sampled with; NaN where that is not known.
        advantages: `float32`; 1 for rows without them.
        weights: `float32`; 1 by the trained tokens of the row for rows without them.
    """

    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    temperatures: npt.NDArray[np.float32]
    logprobs: npt.NDArray[np.float32]
    advantages: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def terms_of(packed: PackedRows, rows: Sequence[Row | Example]) -> Terms:
    """Return the terms of packed rows.

    Args:
        packed: One of the tries that `pack` made of the rows' ids.
        rows: All rows that were given to `pack`, in the same order.
    """
    chosen = [rows[number] for number in packed.rows]
    plain = [one.row if isinstance(one, Example) else one for one in chosen]
    trained = np.concatenate([row.trained for row in plain])
    trained[packed.offsets[:-1]] = False  # nothing predicts a row's first token
    at = np.flatnonzero(trained)
    lengths = np.diff(packed.offsets)

    def gather(name: str) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = np.concatenate([getattr(row, name) for row in plain])[at]
        return values

    if all(isinstance(one, Example) for one in chosen):
        advantages = np.concatenate([one.advantages for one in chosen if isinstance(one, Example)])[at]
        weights = np.concatenate([one.weights for one in chosen if isinstance(one, Example)])[at]
    else:
        number = np.add.reduceat(trained, packed.offsets[:-1], dtype=np.int64)
        advantages = np.ones(len(at), np.float32)
        weights = (1.0 / np.maximum(np.repeat(number, lengths)[at], 1)).astype(np.float32)
    return Terms(
        rows=np.repeat(np.asarray(packed.rows, np.int64), lengths)[at],
        places=at - np.repeat(packed.offsets[:-1], lengths)[at],
        sources=packed.index[at - 1].astype(np.int64),
        labels=packed.ids[packed.index[at]].astype(np.int64),
        temperatures=gather("temperatures"),
        logprobs=gather("logprobs"),
        advantages=advantages,
        weights=weights,
    )
