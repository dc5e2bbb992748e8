"""What synthesis by model has cost, stage by stage, and the cap that no call may lead past.

Invariant: what is spent and what calls under way may still cost are together never over the cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class StageCost:
    """What a stage has cost.

    Attributes:
        calls: Answers or tries that were paid for, in this run and in those before it.
        reused: Those of them that stood in the work folder already.
        input_tokens: Tokens read.
        output_tokens: Tokens written.
        dollars: By the prices that were given.
    """

    calls: int = 0
    reused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0


@dataclass
class Spending:
    """The bill. Used by one thread.

    Attributes:
        cap: Most dollars in all; None for no cap.
        stages: Cost by stage.
        exhausted: Whether a call was given up because of the cap.
    """

    cap: float | None = None
    stages: dict[str, StageCost] = field(default_factory=dict)
    exhausted: bool = False
    _reserved: dict[str, float] = field(default_factory=dict)

    @property
    def dollars(self) -> float:
        """What all stages have cost together."""
        return sum(stage.dollars for stage in self.stages.values())

    def admit(self, key: str, bound: float) -> bool:
        """Reserve the most that a call can cost; False when that might lead past the cap."""
        committed = self.dollars + sum(self._reserved.values())
        if self.cap is not None and committed + bound > self.cap:
            return False
        self._reserved[key] = bound
        return True

    def release(self, key: str) -> None:
        """Drop a reservation: the call has ended, or was never made."""
        self._reserved.pop(key, None)

    def add(self, stage: str, entry: Mapping[str, Any], *, reused: bool = False) -> None:
        """Add a journal's entry to the bill."""
        cost = self.stages.setdefault(stage, StageCost())
        cost.calls += 1
        cost.reused += reused
        cost.input_tokens += entry["input_tokens"]
        cost.output_tokens += entry["output_tokens"]
        cost.dollars += entry["dollars"]
