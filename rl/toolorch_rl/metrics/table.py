"""All metrics of a set of runs, as a whole, by pattern and by domain.

| metric | what | target |
|---|---|---|
| `solved` | runs that solved their task | |
| `chain_completion` | of tasks with two golden turns or more, those done rightly to the end | > 0.90 |
| `dependency_accuracy` | of calls made that depend on a result, those with the right values | > 0.95 |
| `parallel_recognition` | of golden turns with parallel calls, those made in one turn | > 0.85 |
| `over_serialisation` | of independent calls after the first, those made in a turn of their own | < 0.10 |
| `synthesis_quality` | of runs with calls, those whose answer covers every operation | > 0.90 |
| `dollars`, `seconds` | mean of a run | |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from toolorch_integrations.errors import ToolorchError
from toolorch_rl.conversation import Conversation
from toolorch_rl.coverage import uncovered
from toolorch_rl.imports.task import AnyTask
from toolorch_rl.metrics.chains import ChainScores, GoldenCall, chain_scores
from toolorch_rl.metrics.estimates import Estimate, bootstrap, wilson
from toolorch_rl.rewards.features import RunFeatures


@dataclass(frozen=True, slots=True)
class Target:
    """What a metric should reach."""

    limit: float
    below: bool = False
    """Whether it should stay below."""

    def reached(self, value: float) -> bool:
        """Say whether a value is on the right side of the limit."""
        return value < self.limit if self.below else value > self.limit

    def __str__(self) -> str:
        return f"{'<' if self.below else '>'} {self.limit:.2f}"


TARGETS = {
    "chain_completion": Target(0.9),
    "dependency_accuracy": Target(0.95),
    "parallel_recognition": Target(0.85),
    "over_serialisation": Target(0.1, below=True),
    "synthesis_quality": Target(0.9),
}
"""Targets by metric, for those that have one."""


class MetricsError(ToolorchError, ValueError):
    """A metric was asked for that does not exist."""


@dataclass(frozen=True, slots=True)
class RunScores:
    """What a run's conversation gives to the metrics: all that they need of it."""

    chains: ChainScores | None = None
    """None: there are no golden calls to compare with."""
    synthesis: bool | None = None
    """Whether the answer covers every operation; None: there was none."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run and what is known of it. What is None leaves out the metrics that need it."""

    name: str
    pattern: str = ""
    domain: str = ""
    solved: bool | None = None
    golden: Sequence[Sequence[GoldenCall]] | None = None
    """The task's right calls, turn by turn."""
    refused: Collection[str] = ()
    """Ids of golden calls that a person says no to."""
    conversation: Conversation | None = None
    features: RunFeatures | None = None
    scores: RunScores | None = None
    """What `score` gave, where the conversation itself is not at hand."""

    @classmethod
    def of(
        cls,
        task: AnyTask,
        conversation: Conversation | None,
        solved: bool | None = None,
        features: RunFeatures | None = None,
    ) -> Self:
        """Return a run of a task."""
        refused = [call.id for call in task.calls if task.approval is False and task.is_destructive(call)]
        return cls(task.id, task.pattern, task.domain, solved, task.golden, refused, conversation, features)


@dataclass(frozen=True, slots=True)
class MetricTable:
    """Estimates by group of runs and metric. Groups: `all`, `pattern NAME`, `domain NAME`."""

    groups: dict[str, dict[str, Estimate]]

    def __getitem__(self, metric: str) -> Estimate:
        """Return a metric over all runs."""
        return self.groups["all"][metric]

    def to_json(self) -> str:
        """Return the table as JSON."""
        data = {group: {name: found.to_dict() for name, found in row.items()} for group, row in self.groups.items()}
        return json.dumps(data)


@dataclass(frozen=True, slots=True)
class _Scored:
    run: MeasuredRun
    scores: RunScores | None

    @property
    def chains(self) -> ChainScores | None:
        return None if self.scores is None else self.scores.chains


def score(run: MeasuredRun) -> RunScores | None:
    """Compare a run's conversation with the golden calls; None where it has none."""
    seen = run.conversation
    if seen is None:
        return run.scores
    chains = chain_scores(run.golden, seen, run.refused) if run.golden is not None else None
    return RunScores(chains, bool(seen.answer.strip()) and not uncovered(seen) if seen.steps else None)


def measure(runs: Iterable[MeasuredRun], metrics: Sequence[str] | None = None) -> MetricTable:
    """Measure runs.

    A metric that a group's runs cannot give has the value None, and its note says what is missing.

    Args:
        runs: The runs.
        metrics: Which of `METRICS`; by default all.

    Raises:
        MetricsError: There is no such metric.
    """
    wanted = list(METRICS) if metrics is None else list(metrics)
    for name in wanted:
        if name not in METRICS:
            raise MetricsError(f"there is no metric {name!r}; choose among {', '.join(METRICS)}")
    scored = [_Scored(run, score(run)) for run in runs]
    groups = {"all": scored}
    for kind in ("pattern", "domain"):
        for item in sorted(scored, key=lambda item: str(getattr(item.run, kind))):
            label: str = getattr(item.run, kind)
            if label:
                groups.setdefault(f"{kind} {label}", []).append(item)
    return MetricTable({group: {name: METRICS[name](items) for name in wanted} for group, items in groups.items()})


def _solved(items: list[_Scored]) -> Estimate:
    known = [item.run.solved for item in items if item.run.solved is not None]
    return wilson(sum(known), len(known), "no run says whether it solved its task: run a verifier")


def _completed(items: list[_Scored]) -> Estimate:
    known = [item.chains.completed for item in items if item.chains is not None and item.chains.completed is not None]
    return wilson(sum(known), len(known), _missing(items, "no task has two golden turns"))


def _synthesis(items: list[_Scored]) -> Estimate:
    scores = [item.scores for item in items if item.scores is not None]
    known = [item.synthesis for item in scores if item.synthesis is not None]
    if not scores:
        return wilson(0, 0, "no run has a conversation")
    return wilson(sum(known), len(known), "no run made a call")


def _ratio(part: str, whole: str, note: str) -> Callable[[list[_Scored]], Estimate]:
    def metric(items: list[_Scored]) -> Estimate:
        known = [item.chains for item in items if item.chains is not None]
        parts, wholes = ([getattr(chains, name) for chains in known] for name in (part, whole))
        return bootstrap(parts, wholes, share=True, note=_missing(items, note))

    return metric


def _mean(name: str) -> Callable[[list[_Scored]], Estimate]:
    def metric(items: list[_Scored]) -> Estimate:
        values: list[Any] = [getattr(item.run.features, name) for item in items if item.run.features is not None]
        known = [value for value in values if value is not None]
        return bootstrap(known, note=f"{name} are not known of any run")

    return metric


def _missing(items: list[_Scored], note: str) -> str:
    if not items:
        return "there are no runs"
    if all(item.scores is None for item in items):
        return "no run has a conversation"
    return "no run has golden calls to compare with" if all(item.chains is None for item in items) else note


METRICS: dict[str, Callable[[list[_Scored]], Estimate]] = {
    "solved": _solved,
    "chain_completion": _completed,
    "dependency_accuracy": _ratio("dependent_right", "dependent", "no call that depends on a result was made"),
    "parallel_recognition": _ratio("opportunities_taken", "opportunities", "no task has parallel golden calls"),
    "over_serialisation": _ratio("serialised", "independent", "no two calls of a parallel golden turn were made"),
    "synthesis_quality": _synthesis,
    "dollars": _mean("dollars"),
    "seconds": _mean("seconds"),
}
"""The metrics by name."""
