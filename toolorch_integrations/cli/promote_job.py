"""One promotion from the command's options: who serves, where evidence comes from, and what must be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from toolorch_integrations.cli.estimate import estimated
from toolorch_integrations.cli.held_out import HeldOut
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_rl.evaluation import TaskResult
from toolorch_rl.training.settings import TrainSettings
from toolorch_rl.weights import Precision
from toolorch_serving.promotion import (
    CanaryPlan,
    Criteria,
    Gate,
    Margin,
    Promotion,
    PromotionError,
    PromotionRecord,
    PromotionRecords,
    Publisher,
    ServedReplicas,
    Sources,
    live_runs,
)


@dataclass(frozen=True)
class PromoteJob:
    """What the command's options say; see `PromoteOptions` for each."""

    server: str
    replicas: Sequence[str]
    name: str
    base: str
    store: str
    held_out: HeldOut
    folder: Path
    """For the held-out results, so that an interrupted evaluation goes on."""
    plan: CanaryPlan = field(default_factory=CanaryPlan)
    criteria: Criteria = field(default_factory=Criteria)
    precision: Precision | None = None
    preferences: Preferences | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    """Which traces the estimate rests on, by names of `TrainSettings`."""
    look_every: float = 30.0

    def bring(
        self, version: str, folder: Path, console: Console, tell: Callable[[PromotionRecord], None]
    ) -> PromotionRecord:
        """Bring a candidate to its end; one that is on its way, or at its end, is gone on with.

        Args:
            version: Name that it is to serve under.
            folder: Its adapter.
            console: For the progress of the held-out evaluation.
            tell: Is told each step.

        Raises:
            ToolorchError: It cannot be begun, or another candidate is on its way.
        """
        with (
            TraceStore.open(self.store) as store,
            ServedReplicas(self.replicas, self.name, self.base, self.precision) as adapters,
        ):
            records = PromotionRecords(store)
            known = [record for record in records.history() if record.candidate == version]
            if known and known[-1].step.ends:
                return known[-1]
            incumbent = known[-1].incumbent if known else records.routes(self.name).current
            promotion = self.promotion(store, adapters, version, incumbent, folder, console, tell)
            return promotion.run(known[-1]) if known else promotion.begin(version, folder, incumbent)

    def resume(self, console: Console, tell: Callable[[PromotionRecord], None]) -> PromotionRecord:
        """Go on with the promotion that has not ended.

        Raises:
            PromotionError: There is none.
        """
        with TraceStore.open(self.store) as store:
            last = PromotionRecords(store).unfinished()
        if last is None:
            raise PromotionError("there is no promotion to go on with; see toolorch promote --history")
        return self.bring(last.candidate, Path(last.folder), console, tell)

    def promotion(
        self,
        store: TraceStore,
        adapters: Publisher,
        candidate: str,
        incumbent: str,
        folder: Path,
        console: Console,
        tell: Callable[[PromotionRecord], None],
    ) -> Promotion:
        """Return the promotion, not begun."""
        settings = TrainSettings.of(
            {"policy": self.base, "output": folder, "app": self.filters.get("app"), "preferences": self.preferences}
        )
        return Promotion(
            PromotionRecords(store),
            Gate(self.criteria),
            adapters,
            Sources(
                estimate=lambda: estimated(
                    str(folder),
                    self.base,
                    store=self.store,
                    preferences=self.preferences,
                    **{"model": incumbent, **self.filters},
                ),
                evaluate=lambda version: self._evaluate(candidate, version, console),
                live=live_runs(store, candidate, incumbent, settings),
                preferences=self.held_out.preferences,
            ),
            self.plan,
            tell,
            self.look_every,
        )

    def _evaluate(self, candidate: str, version: str, console: Console) -> Sequence[TaskResult]:
        folder = self.folder / candidate  # each promotion evaluates anew; one that was killed goes on
        folder.mkdir(parents=True, exist_ok=True)
        return self.held_out.results(version, folder / f"{version}.{self.held_out.digest}.jsonl", console)


def criteria_of(goal: str, margins: Sequence[str]) -> Criteria:
    """Return criteria from options.

    Args:
        goal: Metric that must get better.
        margins: Such as `solved=0.02` (in the metric's own unit) or `dollars=10%` (of the incumbent's mean).

    Raises:
        PromotionError: One cannot be read, or names no metric.
    """
    from toolorch_rl.estimate.outcomes import HIGHER_IS_BETTER

    protected = dict(Criteria().protected)
    for text in margins:
        name, _, value = text.partition("=")
        try:
            number = float(value.rstrip("%"))
            protected[name] = Margin(relative=number / 100) if value.endswith("%") else Margin(absolute=number)
        except ValueError as error:
            raise PromotionError(f"margin {text!r}: give NAME=NUMBER or NAME=NUMBER%, such as dollars=10%") from error
    for name in (goal, *protected):
        if name not in HIGHER_IS_BETTER:
            raise PromotionError(f"there is no metric {name!r}; choose among {', '.join(HIGHER_IS_BETTER)}")
    return Criteria(goal=goal, protected=protected)
