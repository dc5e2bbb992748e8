"""The gate: from evidence to a decision, and the reason for it in words. It keeps no state and asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from toolorch_serving.promotion.criteria import Criteria, Proof, sign
from toolorch_serving.promotion.evidence import Change, Evidence


class Verdict(StrEnum):
    """What the gate says of one stage."""

    PASS = "pass"
    WAIT = "wait"
    """Neither shown nor refuted, and more evidence may come."""
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, and why."""

    verdict: Verdict
    reason: str


class Gate:
    """Decides, stage by stage, whether a candidate may go on.

    Args:
        criteria: What it must show.
    """

    def __init__(self, criteria: Criteria | None = None) -> None:
        self.criteria = criteria or Criteria()

    def judge(self, evidence: Evidence) -> Decision:
        """Decide on one stage's evidence.

        A regression that is certain ends it at once, whatever is still open: with live traffic there is no waiting for
        a goal while something protected breaks.
        """
        stage, goal = evidence.stage, self.criteria.goal
        proof = self.criteria.proof(stage)
        if goal not in evidence.changes:
            return Decision(Verdict.STAY, f"{stage}: {goal}, the goal, was not measured")
        protected = {name: entry for name, entry in evidence.changes.items() if name in self.criteria.protected}
        for name, change in protected.items():
            if _best(name, change) < -self._margin(name, change):
                return Decision(Verdict.STAY, f"{stage}: {name} is worse, {_text(change)}")
        if _best(goal, evidence.changes[goal]) <= 0:
            return Decision(Verdict.STAY, f"{stage}: {goal} is no better, {_text(evidence.changes[goal])}")
        open_questions = [
            f"{name} is not shown to be no worse than {self._margin(name, change):.3g}, {_text(change)}"
            for name, change in protected.items()
            if proof.protected is Proof.SHOWN and not _worst(name, change) >= -self._margin(name, change)
        ]
        if proof.goal is Proof.SHOWN and not _worst(goal, evidence.changes[goal]) > 0:
            open_questions.insert(0, f"{goal} is not shown to be better, {_text(evidence.changes[goal])}")
        if not open_questions:
            return Decision(Verdict.PASS, f"{stage}: {goal} {_text(evidence.changes[goal])}")
        reason = f"{stage}: " + "; ".join(open_questions)
        if evidence.waiting:
            return Decision(Verdict.WAIT, f"{reason} ({evidence.waiting})")
        return Decision(Verdict.STAY, reason)

    def _margin(self, name: str, change: Change) -> float:
        return self.criteria.protected[name].of(change.before)


def _worst(name: str, change: Change) -> float:
    """Return the bad end of the interval, more being better; NaN where there is none, which no comparison passes."""
    end = change.low if sign(name) > 0 else change.high
    return float("nan") if end is None else sign(name) * end


def _best(name: str, change: Change) -> float:
    """Return the good end of the interval, more being better; infinity where there is none: nothing is refuted."""
    end = change.high if sign(name) > 0 else change.low
    return float("inf") if end is None else sign(name) * end


def _text(change: Change) -> str:
    if change.low is None or change.high is None:
        return f"which cannot be told ({change.note or 'no interval'})"
    value = 0.0 if change.value is None else change.value
    return f"{value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
