"""Two evaluations side by side: paired differences with confidence intervals.

Both ran the same tasks, so what counts is the difference task by task: what makes a task dear or hard cancels out. The
interval is a percentile bootstrap over tasks (2,000 resamples, fixed seed). Several runs of a task are averaged first.
Where all tasks differ alike the bootstrap has no width, which says nothing of the next task: the share of solved tasks
then takes Wilson's bound on how often it may differ; other figures are believed from 20 tasks on (so that tasks which
cost nothing before and after count as no dearer), and have no interval below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.results import TaskResult
from toolorch_rl.metrics.estimates import Estimate, bootstrap, resampled, wilson

Compared = Literal["solved", "dollars", "seconds", "reward"]
COMPARED: tuple[Compared, ...] = ("solved", "dollars", "seconds", "reward")
ENOUGH_ALIKE = 20
"""Tasks from which on figures that differ all alike are taken for certain."""
LESS_IS_BETTER = frozenset({"dollars", "seconds"})


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two evaluations, over the tasks for which both know it."""

    metric: Compared
    before: Estimate
    after: Estimate
    change: Estimate
    """Mean of `after` less `before`, task by task. `count` is the number of tasks."""

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.metric in LESS_IS_BETTER else 1

    @property
    def better(self) -> bool:
        """Whether the whole interval lies on the good side of nothing."""
        worst = self._worst()
        return worst is not None and worst > 0

    @property
    def worse(self) -> bool:
        """Whether the whole interval lies on the bad side of nothing."""
        best = self._end(self.change.high if self.sign > 0 else self.change.low)
        return best is not None and best < 0

    def no_worse(self, margin: float = 0.0) -> bool:
        """Say whether even the bad end of the interval gives up no more than `margin`, in the metric's own unit.

        What cannot be told is never no worse.
        """
        worst = self._worst()
        return worst is not None and worst >= -margin

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON-safe values."""
        estimates = {"before": self.before, "after": self.after, "change": self.change}
        return {name: item.to_dict() for name, item in estimates.items()} | {
            "better": self.better,
            "worse": self.worse,
        }

    def _worst(self) -> float | None:
        return self._end(self.change.low if self.sign > 0 else self.change.high)

    def _end(self, end: float | None) -> float | None:
        return None if end is None else self.sign * end


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences by group of tasks and metric. Groups: `all`, `pattern NAME`, `domain NAME`."""

    groups: Mapping[str, Mapping[Compared, Difference]]
    paired: int
    """Tasks that both have run."""
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    """Ids of tasks that only one of them has run; they do not count."""

    def __getitem__(self, metric: Compared) -> Difference:
        """Return a metric's difference over all tasks."""
        return self.groups["all"][metric]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-safe values."""
        return {
            "paired": self.paired,
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "groups": {
                group: {name: item.to_dict() for name, item in row.items()} for group, row in self.groups.items()
            },
        }


def compare(before: Sequence[TaskResult], after: Sequence[TaskResult], *, level: float = 0.95) -> Comparison:
    """Compare two evaluations task by task.

    Args:
        before: Results of the policy that is there.
        after: Results of the policy that may take its place, on the same tasks.
        level: Confidence of the intervals of `change`.

    Raises:
        EvaluationError: They have no task in common, or `level` is no confidence.

    Example:
        >>> old = [TaskResult(task_id=f"t{n}", solved=n % 2 == 0, dollars=0.02) for n in range(40)]
        >>> new = [TaskResult(task_id=f"t{n}", solved=True, dollars=0.01) for n in range(40)]
        >>> compare(old, new)["solved"].better
        True
    """
    if not 0.5 <= level < 1:
        raise EvaluationError(f"level is {level}: give a confidence from 0.5 up to 1, such as 0.95")
    old, new = _by_task(before), _by_task(after)
    shared = [task for task in old if task in new]
    if not shared:
        raise EvaluationError(
            f"the two evaluations have no task in common ({len(old)} and {len(new)} tasks): run both on the same tasks"
        )
    groups: dict[str, list[str]] = {"all": shared}
    kinds: tuple[Callable[[TaskResult], str], ...] = (
        lambda result: f"pattern {result.pattern}" if result.pattern else "",
        lambda result: f"domain {result.domain}" if result.domain else "",
    )
    for kind in kinds:
        labels = {task: kind(new[task][0]) for task in shared}
        for label in sorted(set(labels.values()) - {""}):
            groups[label] = [task for task in shared if labels[task] == label]
    return Comparison(
        groups={
            group: {metric: _difference(metric, old, new, tasks, level) for metric in COMPARED}
            for group, tasks in groups.items()
        },
        paired=len(shared),
        only_before=tuple(task for task in old if task not in new),
        only_after=tuple(task for task in new if task not in old),
    )


def _by_task(results: Sequence[TaskResult]) -> dict[str, list[TaskResult]]:
    found: dict[str, list[TaskResult]] = {}
    for result in results:
        found.setdefault(result.task_id, []).append(result)
    return found


def _difference(
    metric: Compared,
    old: Mapping[str, Sequence[TaskResult]],
    new: Mapping[str, Sequence[TaskResult]],
    tasks: Sequence[str],
    level: float,
) -> Difference:
    pairs = [(_mean(old[task], metric), _mean(new[task], metric)) for task in tasks]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    note = f"{metric} is not known of any task in both evaluations"
    firsts, seconds = [one for one, _ in known], [other for _, other in known]
    changes = [other - one for one, other in known]
    missing = len(pairs) - len(known)
    return Difference(
        metric,
        _estimate(metric, firsts, note),
        _estimate(metric, seconds, note),
        _change(changes, metric == "solved", level, note if not known else f"{missing} not known" if missing else ""),
    )


def _mean(results: Sequence[TaskResult], metric: Compared) -> float | None:
    values = [getattr(result, metric) for result in results]
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def _estimate(metric: Compared, values: Sequence[float], note: str) -> Estimate:
    if metric != "solved":
        return bootstrap(values, note=note)
    if all(value in (0.0, 1.0) for value in values):
        return wilson(sum(values), len(values), note)
    return bootstrap(values, share=True, note=note)


def _change(changes: Sequence[float], share: bool, level: float, note: str) -> Estimate:
    number = len(changes)
    if not number:
        return Estimate(None, note=note)
    value = fmean(changes)
    column = np.asarray(changes, np.float64)
    if np.ptp(column) <= 1e-12 * max(1.0, abs(value)):
        if not share:
            end = value if number >= ENOUGH_ALIKE else None
            return Estimate(value, end, end, "" if end is None else "constant", number, note)
        # All tasks differ alike; another may do so by anything, but not often.
        other = wilson(0, number).high or 1.0
        reach = other * (1 if value == 0 else 1 + abs(value))
        return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), "wilson", number, note)
    means = resampled(column[None, :])[0] / number
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail]).tolist()
    return Estimate(value, low, high, "bootstrap", number, note)
