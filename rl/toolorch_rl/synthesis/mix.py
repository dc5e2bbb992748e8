"""How many tasks of each pattern are made, and how many a domain should have at least."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from toolorch_rl.tasks import PATTERNS, Pattern

COUNT = 500
"""Tasks of a domain by default: so many that the mix reaches all minimum counts."""

SHARES: Mapping[Pattern, float] = {
    "single": 0.40,
    "sequential": 0.25,
    "parallel": 0.15,
    "chain": 0.10,
    "mixed": 0.04,
    "conditional": 0.03,
    "loop": 0.03,
}
"""40 % single calls, 25 % two-step, 15 % parallel, 10 % longer chains; the last three are the 10 % of mixed ones."""

MINIMUM: Mapping[str, int] = {"two-step": 100, "longer": 50, "parallel": 75, "mixed": 50}
"""Least examples of a domain, by kind."""

KINDS: Mapping[str, tuple[Pattern, ...]] = {
    "two-step": ("sequential",),
    "longer": ("chain",),
    "parallel": ("parallel",),
    "mixed": ("mixed", "conditional", "loop"),
}
"""The patterns that count towards a minimum."""


class Mix(BaseModel):
    """Shares of the patterns.

    Attributes:
        shares: By pattern; they need not add up to 1.
        minimum: Least examples of a domain, by kind (see `KINDS`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shares: Mapping[Pattern, float] = Field(default_factory=lambda: dict(SHARES))
    minimum: Mapping[str, int] = Field(default_factory=lambda: dict(MINIMUM))

    def quotas(self, count: int) -> dict[Pattern, int]:
        """Return how many tasks of each pattern make `count` tasks of a domain, by largest remainder."""
        total = sum(self.shares.values())
        exact = {pattern: count * self.shares.get(pattern, 0.0) / total for pattern in PATTERNS}
        quotas = {pattern: int(value + 1e-9) for pattern, value in exact.items()}
        rest = sorted(PATTERNS, key=lambda pattern: quotas[pattern] - exact[pattern])
        for pattern in rest[: count - sum(quotas.values())]:
            quotas[pattern] += 1
        return quotas

    def shortfalls(self, quotas: Mapping[Pattern, int]) -> dict[str, int]:
        """Return how many examples a domain lacks, by kind; empty when it reaches all minimum counts."""
        lacks = {
            kind: least - sum(quotas.get(pattern, 0) for pattern in KINDS[kind])
            for kind, least in self.minimum.items()
            if kind in KINDS
        }
        return {kind: lack for kind, lack in lacks.items() if lack > 0}
