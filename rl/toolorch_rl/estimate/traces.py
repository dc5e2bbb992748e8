"""From captured traces to what the estimators take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from toolorch_integrations.trace import Trace
from toolorch_rl.estimate.intervals import Floats
from toolorch_rl.estimate.logged import EstimateError, LoggedRuns, Outcome, RunRatios, numbered, padded, run_ratios
from toolorch_rl.estimate.outcomes import HIGHER_IS_BETTER, outcomes_of
from toolorch_rl.estimate.report import EstimateReport, estimate
from toolorch_rl.rewards import RunFeatures, features_of
from toolorch_rl.rows import Row
from toolorch_rl.trace_rows import rollouts_of
from toolorch_rl.training.baseline import request_features
from toolorch_rl.training.corpus import Run, assess, corpus_of, preferences_of
from toolorch_rl.training.plan import TrainedOn
from toolorch_rl.training.settings import TrainSettings

BatchLogprobs = Callable[[Sequence[Row]], Sequence[npt.NDArray[np.float32]]]
"""Gives the new policy's log-probabilities of many rows: float32 (T,) each."""

_SUMS = ("dollars", "seconds")
"""Metrics that are sums over calls, and so can be weighed decision by decision."""


TRAINED_ON = "of tasks that the new policy was trained on"
"""Why runs are left out: it looks better on them than it is on others."""


def estimate_traces(
    traces: Sequence[Trace],
    logprobs: BatchLogprobs,
    settings: TrainSettings,
    vocabulary: int | None = None,
    *,
    trained_on: TrainedOn | None = None,
    keep_trained: bool = False,
) -> EstimateReport:
    """Return what a new policy would have earned on captured traces.

    Args:
        traces: The runs; those that cannot be used are counted by reason in `skipped`.
        logprobs: The new policy.
        settings: What counts as reward, solved and the same task, as in training.
        vocabulary: How many tokens the new policy has; runs with other ids are left out.
        trained_on: What the new policy was trained on; runs of those tasks are left out, and counted.
        keep_trained: Take them all the same, and count them as `trained_on`. Such a report is no evidence.

    Raises:
        EstimateError: No run can be used; the message has the reasons and their counts.
    """
    corpus = corpus_of(traces, settings)
    known = (trained_on or TrainedOn()).among(traces)
    if not keep_trained:
        corpus.drop((run.trace.id, TRAINED_ON) for run in list(corpus.runs) if run.trace.id in known)
    read = rollouts_of([run.trace for run in corpus.runs], vocabulary=vocabulary)
    rollouts = {rollout.trace_id: rollout for rollout in read.rollouts}
    skipped = Counter(corpus.refused) + Counter({reason.value: number for reason, number in read.counts.items()})
    runs = [run for run in corpus.runs if run.trace.id in rollouts]
    if not runs:
        why = ", ".join(f"{number} {reason}" for reason, number in skipped.most_common()) or "the store is empty"
        fix = "; train with a share of the tasks held back (held_back), or capture others" if known else ""
        raise EstimateError(f"none of {len(traces)} traces can be used: {why}{fix}")
    corpus.runs = runs
    assess(corpus, settings)
    rows = [row for run in runs for row in rollouts[run.trace.id].rows]
    found = {id(row): values for row, values in zip(rows, logprobs(rows), strict=True)}
    ratios = [run_ratios(rollouts[run.trace.id], lambda row: found[id(row)]) for run in runs]
    report = estimate(_logged(runs, ratios, settings), skipped=skipped)
    return replace(report, trained_on=sum(run.trace.id in known for run in runs))


def _logged(runs: Sequence[Run], ratios: Sequence[RunRatios], settings: TrainSettings) -> LoggedRuns:
    features = [features_of(run.trace, run.solved) for run in runs]
    figures = [outcomes_of(run.trace, own, run.reward) for run, own in zip(runs, features, strict=True)]
    log_ratios = padded([own.log_ratios for own in ratios])
    outcomes = {}
    for name, higher in HIGHER_IS_BETTER.items():
        values = np.array([entry[name] for entry in figures])
        steps = _steps(name, features, ratios, log_ratios.shape) if name in _SUMS else None
        outcomes[name] = Outcome(values, steps, (0.0, 1.0) if name == "solved" else None, higher)
    now = time.time()
    return LoggedRuns(
        runs=tuple(run.trace.id for run in runs),
        groups=numbered([run.task for run in runs]),
        log_ratios=log_ratios,
        outcomes=outcomes,
        features=request_features([run.trace for run in runs], [preferences_of(run.trace, settings) for run in runs]),
        versions=tuple(tuple(run.trace.policy_versions) for run in runs),
        ages=np.array([now - run.trace.started for run in runs]),
    )


def _steps(name: str, features: Sequence[RunFeatures], ratios: Sequence[RunRatios], shape: tuple[int, ...]) -> Floats:
    """Return what each decision caused; what hangs on none of them is charged to the last, whose weight knows all."""
    steps = np.zeros(shape)
    for row, own, ratio in zip(steps, features, ratios, strict=True):
        place = {int(node): number for number, node in enumerate(ratio.nodes)}
        last = len(place) - 1
        for cost in own.costs:
            row[place.get(-1 if cost.node is None else cost.node, last)] += getattr(cost, name)
    return steps
