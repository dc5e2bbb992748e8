"""Arms of a comparison: what each policy, or rule in a policy's place, has made of the same requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.metrics.estimates import Estimate, bootstrap, wilson
from toolorch_rl.rewards.features import RunFeatures

HEADROOM = 0.25
"""Share of always-strongest's dollars that the oracle may spend at most, for savings by routing to mean anything."""


@dataclass(frozen=True, slots=True)
class Arm:
    """The runs of one arm, one a request, in the order of the requests."""

    name: str
    runs: tuple[RunFeatures, ...]

    @property
    def solved(self) -> Estimate:
        """Share of requests solved."""
        return wilson(sum(run.solved for run in self.runs), len(self.runs))

    @property
    def dollars(self) -> Estimate:
        """Mean dollars of a request."""
        return _mean([run.dollars for run in self.runs], "dollars")

    @property
    def seconds(self) -> Estimate:
        """Mean seconds of a request."""
        return _mean([run.seconds for run in self.runs], "seconds")

    def to_dict(self) -> dict[str, Any]:
        """Return the arm's figures as JSON-safe values."""
        return {
            "name": self.name,
            "solved": self.solved.to_dict(),
            "dollars": self.dollars.to_dict(),
            "seconds": self.seconds.to_dict(),
        }


def named(arms: Iterable[Arm], name: str) -> Arm:
    """Return an arm by its name.

    Raises:
        EvaluationError: There is none.
    """
    listed = list(arms)
    found = next((arm for arm in listed if arm.name == name), None)
    if found is None:
        raise EvaluationError(f"there is no arm {name!r} among {', '.join(arm.name for arm in listed) or 'none'}")
    return found


def share_of(arm: Arm, other: Arm) -> float | None:
    """Return an arm's dollars as a share of another's; None where either is not known or the other is free."""
    own, whole = arm.dollars.value, other.dollars.value
    return own / whole if own is not None and whole else None


def headroom(arms: Sequence[Arm]) -> float | None:
    """Return the oracle's dollars as a share of always-strongest's.

    Above `HEADROOM` there is little to gain by routing, and no claim about it is worth much.

    Raises:
        EvaluationError: One of the two is missing.
    """
    return share_of(named(arms, "oracle"), named(arms, "always-strongest"))


def front(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms that no other dominates: none solves as much for fewer dollars, or more for as many."""

    def dominated(arm: Arm) -> bool:
        return any(_dominates(other, arm) for other in known)

    known = [arm for arm in arms if arm.dollars.value is not None and arm.solved.value is not None]
    return sorted((arm for arm in known if not dominated(arm)), key=lambda arm: arm.dollars.value or 0.0)


def _dominates(one: Arm, other: Arm) -> bool:
    first = (one.solved.value or 0.0, -(one.dollars.value or 0.0))
    second = (other.solved.value or 0.0, -(other.dollars.value or 0.0))
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def _mean(values: Sequence[float | None], name: str) -> Estimate:
    return bootstrap([value for value in values if value is not None], note=f"{name} are not known of any run")
