"""The live runs of a canary, read from the trace store that the app captures into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Trace
from toolorch_rl.estimate.outcomes import outcomes_of
from toolorch_rl.rewards import Scale, features_of, preset
from toolorch_rl.training.corpus import Run, corpus_of, preferences_of
from toolorch_rl.training.settings import TrainSettings
from toolorch_serving.promotion.canary import LiveRun

_ENDED = frozenset({TraceStatus.ANSWERED, TraceStatus.BUDGET, TraceStatus.ERROR})
_MEASURED_BY = 1_000
"""Most runs of the incumbent, the newest before the canary, that rewards are measured by."""
_ENOUGH = 20
"""Solved runs that make a scale."""


def live_runs(
    store: TraceStore, candidate: str, incumbent: str, settings: TrainSettings | None = None
) -> Callable[[float], Iterable[LiveRun]]:
    """Return what gives the live runs of two versions since an epoch second, oldest first.

    Conversations that had begun before are left out: they stay on the version that they began with, so they were not
    assigned at random. A run that both versions answered counts as the candidate's. Outcomes come from the rewards and
    feedback of the traces, as in training; a run without any counts for what is known of it. Rewards are measured by
    what the incumbent's runs before the canary called, cost and took: once for all looks, so that no run's reward
    changes with those that come later. Where there were too few, the first look with enough solved runs decides.

    Args:
        store: The app's traces.
        candidate: Version that is tried out.
        incumbent: Version that serves.
        settings: What counts as solved and as reward; by default as in training.
    """
    chosen = settings or TrainSettings(policy=candidate, output=Path(candidate))
    scale: Scale | None = None

    def runs(since: float) -> list[LiveRun]:
        nonlocal scale
        traces = [
            trace
            for trace in store.full_traces(since=since, app=chosen.app)
            if trace.status in _ENDED and {candidate, incumbent} & set(trace.policy_versions)
        ][::-1]
        older = {thread for thread in {trace.thread_id for trace in traces} if thread and _began(store, thread, since)}
        fresh = [trace for trace in traces if trace.thread_id not in older]
        judged = {run.trace.id: run for run in corpus_of(fresh, chosen).runs}
        if scale is None:
            before = store.full_traces(until=since, app=chosen.app, model=incumbent, limit=_MEASURED_BY)
            scale = _scale(corpus_of(list(before), chosen).runs, chosen) or _scale(list(judged.values()), chosen)
        return [_live(trace, judged.get(trace.id), scale, candidate, chosen) for trace in fresh]

    return runs


def _scale(runs: Sequence[Run], settings: TrainSettings) -> Scale | None:
    if sum(run.solved for run in runs) < _ENOUGH:
        return None
    return Scale.of([features_of(run.trace, run.solved) for run in runs], preset(settings.preset))


def _live(trace: Trace, run: Run | None, scale: Scale | None, candidate: str, settings: TrainSettings) -> LiveRun:
    features = features_of(trace, run is not None and run.solved)
    known = run is not None
    reward = scale.reward(features, preferences_of(trace, settings)) if known and scale is not None else math.nan
    outcomes = outcomes_of(trace, features, reward)
    unknown = {"solved": math.nan} if run is None else {}
    return LiveRun(trace.thread_id or trace.id, candidate in trace.policy_versions, outcomes | unknown)


def _began(store: TraceStore, thread: str, before: float) -> bool:
    return next(iter(store.traces(thread_id=thread, until=before, limit=1)), None) is not None
