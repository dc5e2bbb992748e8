"""What a filter of runs kept, and what it left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Dropped:
    """One run that a filter left out."""

    run: str
    """The trace's id."""
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Filtered(Generic[Item]):
    """What a filter keeps, and what it dropped."""

    kept: list[Item]
    places: list[int]
    """Where each kept item stood in what was given."""
    dropped: list[Dropped] = field(default_factory=list)

    def text(self) -> str:
        """Return the report in words: how many were kept, and how many dropped for each reason."""
        total = len(self.kept) + len(self.dropped)
        counts = Counter(f"{entry.filter}: {entry.reason}" for entry in self.dropped)
        return "; ".join([f"kept {len(self.kept)} of {total}", *(f"{n} {why}" for why, n in counts.most_common())])
