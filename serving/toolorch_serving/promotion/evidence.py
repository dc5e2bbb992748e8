"""What one stage found: the candidate against the incumbent, metric by metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from toolorch_integrations.preferences import Preferences
from toolorch_rl.estimate import EstimateReport
from toolorch_rl.evaluation import Comparison, TaskResult
from toolorch_rl.rewards import preset, reward
from toolorch_serving.promotion.criteria import Stage


@dataclass(frozen=True, slots=True)
class Change:
    """A metric of the candidate less that of the incumbent, in its own unit."""

    value: float | None = None
    low: float | None = None
    """Of the 95 % interval; None: the data cannot tell, and `note` says why."""
    high: float | None = None
    before: float | None = None
    """The incumbent's mean."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one stage found.

    Attributes:
        stage: Which.
        changes: By metric; one that the stage does not measure is absent.
        counts: How much it rests on, such as runs or tasks.
        waiting: Why more evidence may still come; empty: this is all there will be.
    """

    stage: Stage
    changes: Mapping[str, Change]
    counts: Mapping[str, float] = field(default_factory=dict)
    waiting: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence as JSON-safe values."""
        return asdict(self)


def of_estimate(report: EstimateReport) -> Evidence:
    """Return an off-policy estimate as evidence: the log's own policy is the incumbent.

    One that rests on runs of tasks that the candidate was trained on shows nothing: it looks better on them than it is.
    """
    changes = {}
    partial = f"{report.trained_on} of {report.runs} runs are of tasks that the candidate was trained on"
    for name, entry in report.metrics.items():
        if report.trained_on:
            changes[name] = Change(before=entry.logged, note=partial)
        elif entry.difference is None:
            changes[name] = Change(before=entry.logged, note="; ".join([entry.reason, *_left_out(report)]))
        else:
            found = entry.difference
            changes[name] = Change(found.value, found.low, found.high, entry.logged)
    counts = {"runs": report.runs, "tasks": report.groups, "effective_tasks": report.effective_groups}
    return Evidence(Stage.ESTIMATE, changes, counts | {"missing": report.missing})


def _left_out(report: EstimateReport) -> list[str]:
    """Return what an estimate lacked, for one that cannot say."""
    return [f"left out: {number} {reason}" for reason, number in report.skipped.items()]


def of_comparison(comparison: Comparison) -> Evidence:
    """Return a held-out evaluation as evidence; metrics that neither side knows are left out."""
    changes = {}
    for name, entry in comparison.groups["all"].items():
        if entry.before.value is None and entry.after.value is None:
            continue
        change = entry.change
        changes[str(name)] = Change(change.value, change.low, change.high, entry.before.value, change.note)
    return Evidence(Stage.EVALUATION, changes, {"tasks": comparison.paired})


def rewarded(
    before: Sequence[TaskResult], after: Sequence[TaskResult], preferences: Callable[[str], Preferences]
) -> tuple[list[TaskResult], list[TaskResult]]:
    """Return two evaluations with the scalar reward of each run, where it has none: a task's runs of both are a group.

    Args:
        before: Results of one version.
        after: Results of the other, on the same tasks.
        preferences: Says what the caller of a task cares about.
    """
    results = [*before, *after]
    if not results or all(result.reward is not None for result in results):
        return list(before), list(after)
    tasks = [result.task_id for result in results]
    found = reward(
        [result.features() for result in results], tasks, [preferences(task) for task in tasks], preset("ours")
    )
    filled = [
        result.model_copy(update={"reward": float(scalar)})
        for result, scalar in zip(results, found.scalars, strict=True)
    ]
    return filled[: len(before)], filled[len(before) :]
