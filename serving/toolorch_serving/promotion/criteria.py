"""What a candidate must show: better on the goal, and no worse on anything that is protected."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from toolorch_rl.estimate.outcomes import HIGHER_IS_BETTER


class Stage(StrEnum):
    """Where evidence comes from, in the order in which it is asked for."""

    ESTIMATE = "estimate"
    EVALUATION = "evaluation"
    CANARY = "canary"


class Proof(StrEnum):
    """How much a stage must show."""

    SHOWN = "shown"
    """The whole 95 % interval lies on the good side; what cannot be told does not pass."""
    NOT_REFUTED = "not refuted"
    """The interval does not lie on the bad side as a whole; what cannot be told passes."""


class Margin(BaseModel):
    """How much worse a protected metric may get.

    Attributes:
        absolute: In the metric's own unit.
        relative: As a share of the incumbent's mean. The larger of the two counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    absolute: float = Field(0.0, ge=0)
    relative: float = Field(0.0, ge=0)

    def of(self, before: float | None) -> float:
        """Return the margin in the metric's own unit.

        Args:
            before: The incumbent's mean; None: not known, and only the absolute margin counts.
        """
        return max(self.absolute, self.relative * abs(before or 0.0))


class StageProof(BaseModel):
    """What one stage must show of the goal and of what is protected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    goal: Proof = Proof.SHOWN
    protected: Proof = Proof.SHOWN


class Criteria(BaseModel):
    """When a candidate is better.

    Attributes:
        goal: Metric that must get better.
        protected: How much worse each other metric may get. A metric that a stage does not measure at all is only
            asked of the stages that do.
        proofs: What each stage must show. A log alone can seldom show that a policy which has moved is no worse on
            everything; so by default the estimate must show the goal, and refute nothing that is protected.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    goal: str = "reward"
    protected: Mapping[str, Margin] = Field(
        default_factory=lambda: {
            "solved": Margin(absolute=0.03),
            "dollars": Margin(relative=0.1),
            "seconds": Margin(relative=0.2),
            "format_errors": Margin(absolute=0.05),
            "destructive_calls": Margin(absolute=0.05),
        }
    )
    proofs: Mapping[Stage, StageProof] = Field(
        default_factory=lambda: {
            Stage.ESTIMATE: StageProof(protected=Proof.NOT_REFUTED),
            Stage.EVALUATION: StageProof(),
            Stage.CANARY: StageProof(),
        }
    )

    def proof(self, stage: Stage) -> StageProof:
        """Return what a stage must show."""
        return self.proofs.get(stage, StageProof())


def sign(metric: str) -> int:
    """Return 1 where more of a metric is better, -1 where less is."""
    return 1 if HIGHER_IS_BETTER.get(metric, True) else -1
