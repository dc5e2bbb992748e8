"""The live runs of a canary, read from the trace store that the app captures into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Trace
from toolorch_rl.estimate.outcomes import outcomes_of
from toolorch_rl.rewards import features_of
from toolorch_rl.training.corpus import Run, assess, corpus_of
from toolorch_rl.training.settings import TrainSettings
from toolorch_serving.promotion.canary import LiveRun

_ENDED = frozenset({TraceStatus.ANSWERED, TraceStatus.BUDGET, TraceStatus.ERROR})


def live_runs(
    store: TraceStore, candidate: str, incumbent: str, settings: TrainSettings | None = None
) -> Callable[[float], Iterable[LiveRun]]:
    """Return what gives the live runs of two versions since an epoch second, oldest first.

    Conversations that had begun before are left out: they stay on the version that they began with, so they were not
    assigned at random. A run that both versions answered counts as the candidate's. Outcomes come from the rewards and
    feedback of the traces, as in training; a run without any counts for what is known of it.

    Args:
        store: The app's traces.
        candidate: Version that is tried out.
        incumbent: Version that serves.
        settings: What counts as solved and as reward; by default as in training.
    """
    chosen = settings or TrainSettings(policy=candidate, output=Path(candidate))

    def runs(since: float) -> list[LiveRun]:
        traces = [
            trace
            for trace in store.full_traces(since=since, app=chosen.app)
            if trace.status in _ENDED and {candidate, incumbent} & set(trace.policy_versions)
        ][::-1]
        older = {thread for thread in {trace.thread_id for trace in traces} if thread and _began(store, thread, since)}
        fresh = [trace for trace in traces if trace.thread_id not in older]
        corpus = corpus_of(fresh, chosen)
        if corpus.runs:
            assess(corpus, chosen)
        rewarded = {run.trace.id: run for run in corpus.runs}
        return [_live(trace, rewarded.get(trace.id), candidate) for trace in fresh]

    return runs


def _live(trace: Trace, run: Run | None, candidate: str) -> LiveRun:
    unknown = {"reward": math.nan, "solved": math.nan} if run is None else {}
    features = features_of(trace, run is not None and run.solved)
    outcomes = outcomes_of(trace, features, math.nan if run is None else run.reward)
    return LiveRun(trace.thread_id or trace.id, candidate in trace.policy_versions, outcomes | unknown)


def _began(store: TraceStore, thread: str, before: float) -> bool:
    return next(iter(store.traces(thread_id=thread, until=before, limit=1)), None) is not None
