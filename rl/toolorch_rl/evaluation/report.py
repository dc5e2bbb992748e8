"""An evaluation's report: every figure with its interval, over all runs, by pattern and by domain."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.preferences import Preferences
from toolorch_rl.evaluation.arms import Arm, headroom
from toolorch_rl.evaluation.compare import Comparison, compare
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.results import TaskResult
from toolorch_rl.imports.task import AnyTask
from toolorch_rl.metrics import Estimate, MeasuredRun, Routing, bootstrap, measure, preference_score, routing
from toolorch_rl.rewards.features import RewardError

POLICY_ARM = "policy"
"""What the evaluated policy is called beside its baselines."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found."""

    settings: Mapping[str, Any]
    """What was evaluated, and how; JSON-safe."""
    results: Sequence[TaskResult]
    metrics: Mapping[str, Mapping[str, Estimate]]
    """By group (`all`, `pattern NAME`, `domain NAME`) and metric; `preference_score` where there is another
    evaluation to score by."""
    routing: Mapping[str, Routing]
    """By group: where specialist calls went, or all calls where there are no specialists."""
    baselines: Sequence[Arm] = ()
    comparison: Comparison | None = None
    """Against the other evaluation."""
    skipped: Sequence[str] = ()
    """Tasks that could not be used, and why."""
    notes: Sequence[str] = field(default_factory=list)

    @property
    def arm(self) -> Arm:
        """The policy as an arm beside the baselines: on those tasks that they have tried."""
        tried = {run.run for arm in self.baselines for run in arm.runs}
        kept = [item for item in self.results if not self.baselines or item.task_id in tried]
        return Arm(POLICY_ARM, tuple(item.features() for item in kept))

    @property
    def arms(self) -> list[Arm]:
        """The policy first, then its baselines."""
        return [self.arm, *self.baselines]

    @property
    def failed(self) -> list[TaskResult]:
        """Runs that came to no end of their own."""
        return [result for result in self.results if result.failed]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe values."""
        names = {arm.name for arm in self.baselines}
        return {
            "settings": dict(self.settings),
            "tasks": len(self.results),
            "failed": len(self.failed),
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "metrics": {
                group: {name: item.to_dict() for name, item in row.items()} for group, row in self.metrics.items()
            },
            "routing": {group: _routing_dict(item) for group, item in self.routing.items()},
            "baselines": [arm.to_dict() for arm in self.baselines],
            "headroom": headroom(self.baselines) if {"oracle", "always-strongest"} <= names else None,
            "against": None if self.comparison is None else self.comparison.to_dict(),
            "results": [result.model_dump(mode="json", exclude_defaults=True) for result in self.results],
        }


def report(
    settings: Mapping[str, Any],
    tasks: Sequence[AnyTask],
    results: Sequence[TaskResult],
    *,
    baselines: Sequence[Arm] = (),
    against: Sequence[TaskResult] | None = None,
    skipped: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Put a report together.

    Args:
        settings: What was evaluated, and how; JSON-safe.
        tasks: The tasks, one for each result, in the same order.
        results: The policy's results.
        baselines: What fixed rules made of the same tasks.
        against: Another evaluation of the same tasks; its runs are the starting policy's of equations 5 and 6.
        skipped: Tasks that could not be used, and why.
        notes: Whatever else a reader should know.

    Raises:
        EvaluationError: There are no results, or no task in common with `against`.
    """
    if not results:
        raise EvaluationError("there are no tasks to evaluate on")
    said = list(notes)
    rewarded, comparison = list(results), None
    if against is not None:
        wanted = {task.id: task.preferences for task in tasks}
        rewarded, base, unscored = scored(results, against, wanted)
        said += unscored
        comparison = compare(base, rewarded)
    runs = [
        MeasuredRun(item.task_id, item.pattern, item.domain, item.solved, features=item.features(), scores=item.scores)
        for item in rewarded
    ]
    groups = _groups(rewarded)
    metrics = {group: dict(row) for group, row in measure(runs).groups.items()}
    if against is not None:
        for group, items in groups.items():
            known = [item.reward for item in items if item.reward is not None]
            metrics[group]["preference_score"] = bootstrap(known, note="no run could be scored")
    specialists = {item.name for task in tasks for item in task.specialists}
    return Report(
        settings=settings,
        results=rewarded,
        metrics=metrics,
        routing=_routings(groups, specialists),
        baselines=baselines,
        comparison=comparison,
        skipped=skipped,
        notes=said,
    )


def scored(
    results: Sequence[TaskResult], base: Sequence[TaskResult], wanted: Mapping[str, Preferences]
) -> tuple[list[TaskResult], list[TaskResult], list[str]]:
    """Give results the preference scores of equations 5 and 6 as their rewards.

    Args:
        results: The policy's.
        base: The starting policy's.
        wanted: The caller's preferences by task.

    Returns:
        Both with rewards, the starting policy scored by itself, and why some have none.
    """
    start = {item.task_id: item for item in base}
    notes: dict[str, int] = {}

    def rewarded(item: TaskResult) -> TaskResult:
        if item.task_id not in start or item.task_id not in wanted:
            return item.model_copy(update={"reward": None})
        try:
            (value,), _ = preference_score([item.features()], [start[item.task_id].features()], [wanted[item.task_id]])
        except RewardError as error:
            reason = str(error).replace(f" of run {item.task_id}", "")
            notes[reason] = notes.get(reason, 0) + 1
            return item.model_copy(update={"reward": None})
        return item.model_copy(update={"reward": value})

    both = [rewarded(item) for item in results], [rewarded(item) for item in base]
    return *both, [f"{count} runs have no preference score: {reason}" for reason, count in notes.items()]


def _groups(results: Sequence[TaskResult]) -> dict[str, list[TaskResult]]:
    groups: dict[str, list[TaskResult]] = {"all": list(results)}
    for kind in ("pattern", "domain"):
        for item in sorted(results, key=lambda item: str(getattr(item, kind))):
            label: str = getattr(item, kind)
            if label:
                groups.setdefault(f"{kind} {label}", []).append(item)
    return groups


def _routings(groups: Mapping[str, Sequence[TaskResult]], specialists: Collection[str]) -> dict[str, Routing]:
    called = {name for item in groups["all"] for name in item.calls} & set(specialists)

    def counts(items: Sequence[TaskResult]) -> list[dict[str, int]]:
        return [
            {name: count for name, count in item.calls.items() if not called or name in specialists} for item in items
        ]

    offered = sorted(specialists) if called else ()
    return {group: routing(counts(items), offered) for group, items in groups.items()}


def _routing_dict(item: Routing) -> dict[str, Any]:
    return {
        "shares": {name: share.to_dict() for name, share in item.shares.items()},
        "entropy": item.entropy.to_dict(),
        "most": item.most,
        "collapsed": item.collapsed,
    }
