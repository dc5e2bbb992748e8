"""What people said of a run decides: feedback that the trace store keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Feedback, Trace
from toolorch_rl.verifiers.verdict import Verdict, VerifierError


class OffScaleError(VerifierError):
    """A score lies outside the scale that people were said to use."""


@dataclass(frozen=True, slots=True)
class FeedbackVerifier:
    """Reads the feedback of one name. The newest of each source counts; sources are averaged.

    `details` has `sources`, the number of people or programs that scored the run.

    Attributes:
        name: Name of the feedback.
        scale: Its worst and its best score; they become 0 and 1. (1, 5) for stars.
        threshold: Least score from 0 to 1 that counts as solved.
        store: Where traces that are given by id are read; None takes traces only.
    """

    name: str
    scale: tuple[float, float] = (0.0, 1.0)
    threshold: float = 0.5
    store: TraceStore | None = None

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Judge a trace, or the trace with an id; there is no reference (None).

        Raises:
            OffScaleError: A score is off the scale.
            VerifierError: Nobody has scored it, or the outcome is no trace.
            StoreError: The store holds no trace with that id.
        """
        trace = self.store.trace(outcome) if self.store is not None and isinstance(outcome, str) else outcome
        if not isinstance(trace, Trace):
            raise VerifierError(
                f"feedback {self.name!r} hangs on a trace, got {type(trace).__name__}: "
                "give the trace, or its id and a `store`"
            )
        newest: dict[str, Feedback] = {}
        for entry in trace.feedback:
            known = newest.get(entry.source)
            if (
                entry.name == self.name
                and entry.score is not None
                and (known is None or entry.created >= known.created)
            ):
                newest[entry.source] = entry
        if not newest:
            raise VerifierError(f"trace {trace.id} has no feedback {self.name!r} with a score")
        scores = [self._share(entry, trace.id) for entry in newest.values()]
        score = sum(scores) / len(scores)
        passed = score >= self.threshold
        reason = (
            f"{self.name} {score:.3g} of 1 by {len(scores)}, {'at least' if passed else 'under'} {self.threshold:g}"
        )
        return Verdict(score, passed, reason, {"sources": len(scores)})

    def _share(self, entry: Feedback, trace_id: str) -> float:
        worst, best = self.scale
        if worst == best:
            raise VerifierError(f"`scale` of feedback {self.name!r} must have two different ends, got {self.scale}")
        share = ((entry.score or 0.0) - worst) / (best - worst)
        if not 0 <= share <= 1:
            raise OffScaleError(
                f"feedback {self.name!r} of trace {trace_id} is {entry.score:g}, off the scale {self.scale}"
            )
        return share
