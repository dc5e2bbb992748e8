"""A promotion: estimate, publish, held-out evaluation, canary, and then the candidate serves, or nothing has changed.

Each step is written down before the next begins, and a promotion is nothing but its record: killed at any moment, it
goes on from its last step. Whatever fails ends it with the incumbent serving, and the reason in the record.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.preferences import Preferences
from toolorch_rl.estimate import EstimateReport
from toolorch_rl.evaluation import TaskResult, compare
from toolorch_serving.promotion.canary import CanaryPlan, LiveRun, of_canary
from toolorch_serving.promotion.ending import end, following
from toolorch_serving.promotion.errors import PromotionError
from toolorch_serving.promotion.evidence import Evidence, of_comparison, of_estimate, rewarded
from toolorch_serving.promotion.gate import Decision, Gate, Verdict
from toolorch_serving.promotion.publisher import Publisher
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step, SupersededError
from toolorch_serving.promotion.restoring import restore

LOOK_EVERY = 30.0
"""Seconds between looks at a canary: each reads all of its runs."""
FAILURES, OUTAGE = 5, 300.0
"""Looks at a canary that fail in a row, over so many seconds at least, before it is given up: a server that is started
again needs its minutes."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a promotion's evidence comes from; each is asked when its turn comes.

    Attributes:
        estimate: Gives the off-policy estimate of the candidate.
        evaluate: Gives the results of a version on the held-out tasks, the same ones for each version.
        live: Gives the runs of both versions that began since an epoch second, oldest first.
        preferences: Says what the caller of a held-out task cares about, for results without a reward.
    """

    estimate: Callable[[], EstimateReport]
    evaluate: Callable[[str], Sequence[TaskResult]]
    live: Callable[[float], Iterable[LiveRun]]
    preferences: Callable[[str], Preferences] = lambda task: Preferences()


@dataclass(slots=True)
class Promotion:
    """One candidate on its way; `run` brings it to its end.

    Attributes:
        records: Where each step is written.
        gate: Decides.
        publisher: Puts the candidate into the server.
        sources: Give the evidence.
        plan: The canary.
        tell: Is told each step as it is written.
        look_every: Seconds between looks at the canary.
        clock: Epoch seconds.
        sleep: Waits.
    """

    records: PromotionRecords
    gate: Gate
    publisher: Publisher
    sources: Sources
    plan: CanaryPlan = field(default_factory=CanaryPlan)
    tell: Callable[[PromotionRecord], None] = lambda record: None
    look_every: float = LOOK_EVERY
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def begin(self, candidate: str, folder: str | Path, incumbent: str) -> PromotionRecord:
        """Bring a candidate to its end: promoted, stayed or rolled back.

        Args:
            candidate: Name that it is to serve under; new, since servers keep what they know of a name.
            folder: Its weights.
            incumbent: Version that serves now.

        Raises:
            PromotionError: The names or the folder cannot be used, or another promotion is under way.
        """
        if not candidate or not incumbent or candidate == incumbent:
            raise PromotionError(
                f"candidate {candidate!r} and incumbent {incumbent!r}: give two names, a new one for each version"
            )
        if not Path(folder).is_dir():
            raise PromotionError(f"candidate folder {folder} does not exist: give the folder that training wrote")
        under_way = self.records.unfinished()
        if under_way is not None:
            raise PromotionError(
                f"version {under_way.candidate} is on its way ({under_way.step.value}): resume it (toolorch promote "
                "--resume) or take it back (toolorch promote --roll-back) first"
            )
        if any(record.candidate == candidate for record in self.records.history()):
            raise PromotionError(f"version {candidate} was a candidate before: give each version a name of its own")
        first = PromotionRecord(
            uuid.uuid4().hex, Step.BEGUN, candidate, incumbent, str(folder), reason="a new candidate", time=self.clock()
        )
        return self.run(self._write(first))

    def resume(self) -> PromotionRecord | None:
        """Bring the promotion that has not ended to its end, or return None where there is none."""
        last = self.records.unfinished()
        return None if last is None else self.run(last)

    def run(self, last: PromotionRecord) -> PromotionRecord:
        """Go on from a step, to the end."""
        steps: Mapping[Step, Callable[[PromotionRecord], PromotionRecord]] = {
            Step.BEGUN: self._estimate,
            Step.ESTIMATED: self._publish,
            Step.PUBLISHED: self._evaluate,
            Step.EVALUATED: self._start_canary,
            Step.CANARY: self._watch,
        }
        while not last.step.ends:
            try:
                last = steps[last.step](last)
            except SupersededError:
                return self.records.steps(last.promotion)[-1]
            except (ToolorchError, OSError, SQLAlchemyError) as error:
                last = self._end(last, f"{last.step.value}, and then: {error}")
        return last

    def _estimate(self, last: PromotionRecord) -> PromotionRecord:
        return self._judged(last, Step.ESTIMATED, of_estimate(self.sources.estimate()))

    def _publish(self, last: PromotionRecord) -> PromotionRecord:
        # A process that was killed may have loaded it, and not have proven it: publishing it again does.
        self.publisher.publish(last.candidate, Path(last.folder))
        return self._next(last, Step.PUBLISHED, f"the server answers as {last.candidate}")

    def _evaluate(self, last: PromotionRecord) -> PromotionRecord:
        both = (last.incumbent, last.candidate)
        restore(self.records, self.publisher, both)
        before, after = (self.sources.evaluate(version) for version in both)
        lost = [version for version in both if not self.publisher.serves(version)]
        if lost:  # its runs failed for that, and say nothing of its worth
            raise PromotionError(f"the server lost {lost[0]} during the evaluation: was it restarted? Promote again")
        paired = rewarded(before, after, self.sources.preferences)
        return self._judged(last, Step.EVALUATED, of_comparison(compare(*paired)))

    def _start_canary(self, last: PromotionRecord) -> PromotionRecord:
        restore(self.records, self.publisher, (last.incumbent, last.candidate))
        share = self.plan.share
        return self._next(last, Step.CANARY, f"{share:.0%} of the conversations try it out", share=share)

    def _watch(self, last: PromotionRecord) -> PromotionRecord:
        """Look at the live runs until the gate decides, or the plan's bounds end it.

        A server that is away is waited for, and given back what it has lost; if that fails too often in a row, the
        candidate is rolled back.
        """
        failures, failed_at = 0, 0.0
        while True:
            now = self.records.steps(last.promotion)[-1]
            if now.number != last.number:
                return now  # a person, or another process, has ended it meanwhile
            elapsed = self.clock() - last.time
            try:
                restore(self.records, self.publisher, (last.incumbent, last.candidate))
                evidence = of_canary(self.sources.live(last.time), self.plan, self.gate.criteria, elapsed)
            except (ToolorchError, OSError, SQLAlchemyError):
                failed_at = failed_at if failures else self.clock()
                failures += 1
                if failures >= FAILURES and self.clock() - failed_at >= OUTAGE:
                    raise
            else:
                failures = 0
                decision = self.gate.judge(evidence)
                if decision.verdict is not Verdict.WAIT:
                    return self._judged(last, Step.PROMOTED, evidence, decision)
            self.sleep(self.look_every)

    def _judged(
        self, last: PromotionRecord, step: Step, evidence: Evidence, decision: Decision | None = None
    ) -> PromotionRecord:
        decision = decision or self.gate.judge(evidence)
        if decision.verdict is Verdict.PASS:
            return self._next(last, step, decision.reason, evidence.to_dict())
        return self._end(last, decision.reason, evidence.to_dict())

    def _end(self, last: PromotionRecord, reason: str, evidence: Mapping[str, Any] | None = None) -> PromotionRecord:
        return end(last, self.publisher, self._write, reason, evidence, self.clock())

    def _next(
        self,
        last: PromotionRecord,
        step: Step,
        reason: str,
        evidence: Mapping[str, Any] | None = None,
        share: float = 0.0,
    ) -> PromotionRecord:
        return self._write(following(last, step, reason, evidence, share, self.clock()), last)

    def _write(self, record: PromotionRecord, last: PromotionRecord | None = None) -> PromotionRecord:
        written = self.records.append(record, last)
        self.tell(written)
        return written
