"""What the caller cares about: a vector for the reward, and a sentence for the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

_LEVELS = ((0.0, "not at all"), (0.34, "a little"), (0.67, "much"), (1.01, "most of all"))


class Preferences(BaseModel):
    """Weights in [0, 1] for the outcome, the money, the time and single tools (the paper's vector P).

    Attributes:
        quality: Weight of a right answer.
        cost: Weight of spending few dollars.
        latency: Weight of answering in few seconds.
        tools: Weight of using a tool or specialist, by catalogue name; absent means 0.
        instruction: The caller's own words; they take the place of the generated sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quality: float = Field(1.0, ge=0, le=1)
    cost: float = Field(0.0, ge=0, le=1)
    latency: float = Field(0.0, ge=0, le=1)
    tools: Mapping[str, float] = Field(default_factory=dict)
    instruction: str | None = None

    def vector(self, tools: Sequence[str]) -> list[float]:
        """Return the paper's P: one weight for each of `tools`, then quality, cost and latency."""
        return [float(self.tools.get(name, 0.0)) for name in tools] + [self.quality, self.cost, self.latency]

    def sentence(self, names: Mapping[str, str] | None = None) -> str:
        """Return the preferences in words, or an empty string when they are the defaults.

        Args:
            names: Alias by catalogue name, where the request uses aliases.
        """
        if self.instruction is not None:
            return self.instruction
        aliases = names or {}
        parts = [
            f"{label} matters {_level(value)}"
            for label, value in (("low cost", self.cost), ("low latency", self.latency))
            if value > 0
        ]
        if self.quality < 1:
            parts.insert(0, f"quality matters {_level(self.quality)}")
        parts += [
            f"use {aliases.get(name, name)} {'where it helps' if value < 0.67 else 'if at all possible'}"
            for name, value in sorted(self.tools.items())
            if value > 0
        ]
        return f"Preferences: {'; '.join(parts)}." if parts else ""


def _level(value: float) -> str:
    return next(words for limit, words in _LEVELS if value <= limit)
