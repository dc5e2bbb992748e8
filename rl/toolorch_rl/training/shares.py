"""How the examples of a step are shared out: what a device forwards at a time, and what each process gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from toolorch_rl.packing import PackedRows, Terms, pack, terms_of
from toolorch_rl.rows import Example


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Rows that are forwarded together.

    Attributes:
        packed: As a trie.
        terms: Their trained tokens.
    """

    packed: PackedRows
    terms: Terms


def shares_of(examples: Sequence[Example], token_budget: int, processes: int = 1) -> list[list[Share]]:
    """Return what each process forwards, equally many shares for all.

    Sharded training needs the same number of forward passes everywhere: what is missing is filled with a row that
    counts nothing. The tries are the same whichever process computes them.

    Args:
        examples: Of the whole step.
        token_budget: Most tokens of a share; a longer row is a share of its own.
        processes: How many.
    """
    ids = [example.row.ids for example in examples]
    tries = pack(ids, token_budget)
    if len(tries) < processes:
        smaller = max(-(-sum(map(len, tries)) // processes), max(map(len, ids)))
        tries = pack(ids, min(smaller, token_budget))
    # The longest first, dealt out in turns: processes wait for each other.
    tries.sort(key=len, reverse=True)
    shares = [Share(trie, terms_of(trie, examples)) for trie in tries]
    while len(shares) % processes:
        shares.append(_empty(min(examples, key=lambda example: len(example.row))))
    return [shares[place::processes] for place in range(processes)]


def _empty(example: Example) -> Share:
    nothing = [replace(example, weights=np.zeros_like(example.weights))]
    trie = pack([example.row.ids])[0]
    return Share(trie, terms_of(trie, nothing))
