"""From a trace store to runs that a trainer can take, each with its group, reward and advantage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceFilters, TraceStore
from toolorch_integrations.trace import Trace
from toolorch_rl.filtered import Dropped
from toolorch_rl.filters import FILTERS
from toolorch_rl.rewards import RewardError, Rewards, features_of, preset, reward
from toolorch_rl.training.baseline import leave_one_out, request_features
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.settings import Method, TrainSettings
from toolorch_rl.training.tasks import task_of, withheld
from toolorch_rl.verifiers import FeedbackVerifier, OffScaleError, VerifierError

SINGLES = "single runs"
"""Group that holds the runs of tasks that were made once: they are normalised together."""


@dataclass(slots=True)
class Run:
    """A captured run with what it earned.

    Attributes:
        trace: The run.
        task: What it was made for; runs of one task are compared.
        solved: Whether it solved its task.
        reward: Its scalar reward.
        expected: What a run of its task earns on average, or is expected to, where there is but one.
        advantage: How much more than expected the reward is, in standard deviations; 0 where nothing can be compared.
        single: Whether no other run has its task, so that what is expected of it was fitted.
    """

    trace: Trace
    task: str
    solved: bool
    reward: float = 0.0
    expected: float = 0.0
    advantage: float = 0.0
    single: bool = False


@dataclass(slots=True)
class Corpus:
    """The runs of a store that can be trained on.

    Attributes:
        runs: Oldest first.
        rewards: Of the runs as `assess` found them, row by row.
        read: How many traces the filters of the store let through.
        dropped: What was left out, and why.
    """

    runs: list[Run]
    rewards: Rewards | None
    read: int
    dropped: list[Dropped] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """What each run is compared with: its task, or all runs of tasks that were made once."""
        return [SINGLES if run.single else run.task for run in self.runs]

    @property
    def refused(self) -> dict[str, int]:
        """How many runs were left out, by reason."""
        return dict(Counter(entry.reason for entry in self.dropped).most_common())

    def drop(self, runs: Iterable[tuple[str, str]]) -> None:
        """Leave out runs, given as id and reason."""
        reasons = dict(runs)
        kept = [place for place, run in enumerate(self.runs) if run.trace.id not in reasons]
        self.dropped += [Dropped(run, "training", reason) for run, reason in reasons.items()]
        self.runs = [self.runs[place] for place in kept]

    def need(self, number: int, what: str) -> None:
        """Check that enough is left.

        Raises:
            TrainingError: It is not; the message says how many traces there were and why which were left out.
        """
        if len(self.runs) >= number:
            return
        why = "; ".join(f"{count} {reason}" for reason, count in self.refused.items())
        found = f"{self.read} trace" if self.read == 1 else f"{self.read} traces"
        raise TrainingError(f"{what}: {len(self.runs)} of {found} can be used" + (f" ({why})" if why else ""))


def read_traces(settings: TrainSettings, ids: Sequence[str] | None = None) -> list[Trace]:
    """Return the traces that the settings choose, oldest first.

    Args:
        settings: Store and filters.
        ids: Only these, whatever the filters say: those that a run began with, when it goes on.

    Raises:
        StoreError: The store cannot be opened.
        TrainingError: The store has none of them, or has lost one that the run began with.
    """
    with TraceStore.open(settings.store, create=False) as store:
        if ids is not None:
            found = [store.find(one) for one in ids]
            missing = [one for one, trace in zip(ids, found, strict=True) if trace is None]
            if missing:
                raise TrainingError(
                    f"{store} no longer holds {len(missing)} of {len(ids)} traces that the run began with, such as "
                    f"{missing[0]}; begin anew with restart"
                )
            return [trace for trace in found if trace is not None]
        filters = TraceFilters(
            status=settings.status,
            app=settings.app,
            thread_id=settings.thread,
            model=settings.model,
            since=None if settings.since is None else time.time() - settings.since,
            limit=settings.limit,
        )
        traces = list(store.full_traces(**filters))[::-1]
        if not traces:
            held = store.stats().traces
            raise TrainingError(
                f"{store} is empty: capture some runs first"
                if held == 0
                else f"none of the {held} traces of {store} passes the filters; see `toolorch traces list`"
            )
    return traces


def corpus_of(traces: Sequence[Trace], settings: TrainSettings) -> Corpus:
    """Return the runs, not yet assessed; those that nothing is known of are left out and counted."""
    corpus = Corpus([], None, len(traces))
    kept = _filtered(traces, settings, corpus.dropped)
    for trace in kept:
        try:
            solved = _solved(trace, settings)
            reason = "no outcome: no verifier's reward and no feedback says whether it solved its task"
        except OffScaleError:
            solved = None
            worst, best = settings.feedback_scale
            reason = f"its feedback {settings.feedback!r} is off the scale {worst:g} to {best:g} (feedback_scale)"
        if solved is None:
            corpus.dropped.append(Dropped(trace.id, "training", reason))
        else:
            corpus.runs.append(Run(trace, task_of(trace, settings), solved))
    return corpus


def assess(corpus: Corpus, settings: TrainSettings) -> None:
    """Fill in rewards, what was expected, and advantages: after all filters, so that no dropped run decides on them."""
    runs = corpus.runs
    sizes = Counter(run.task for run in runs)
    features = [features_of(run.trace, run.solved) for run in runs]
    wanted = [preferences_of(run.trace, settings) for run in runs]
    groups = [run.task if sizes[run.task] > 1 else SINGLES for run in runs]
    corpus.rewards = rewards = reward(features, groups, wanted, preset(settings.preset))
    advantages = rewards.advantages.copy()
    expected = (np.bincount(rewards.groups, rewards.scalars) / np.bincount(rewards.groups))[rewards.groups]
    single = np.array([sizes[run.task] == 1 for run in runs])
    if single.sum() > 1:
        places = np.flatnonzero(single)
        scalars = rewards.scalars[places]
        known = request_features([runs[place].trace for place in places], [wanted[place] for place in places])
        expected[places] = leave_one_out(known, scalars)
        apart = scalars - expected[places]
        spread = float(apart.std())
        # Rewards that are all equal are predicted exactly but for rounding.
        advantages[places] = apart / spread if spread > 1e-9 else 0.0
    for place, run in enumerate(runs):
        run.reward = float(rewards.scalars[place])
        run.expected = float(expected[place])
        run.advantage = float(advantages[place])
        run.single = bool(single[place])


def preferences_of(trace: Trace, settings: TrainSettings) -> Preferences:
    """Return whose reward a run is measured by: the settings' or its caller's."""
    return settings.preferences or Preferences.model_validate(trace.preferences or {})


def _filtered(traces: Sequence[Trace], settings: TrainSettings, dropped: list[Dropped]) -> list[Trace]:
    kept = []
    for trace in traces:
        if trace.status is TraceStatus.RUNNING:
            dropped.append(Dropped(trace.id, "training", "the run has not ended"))
        elif (reason := withheld(trace, settings)) is not None:
            dropped.append(Dropped(trace.id, "training", reason))
        else:
            kept.append(trace)
    for name in settings.filters:
        found = FILTERS[name](kept)
        kept = found.kept
        dropped += found.dropped
    return kept


def _solved(trace: Trace, settings: TrainSettings) -> bool | None:
    """Return whether a run solved its task; people's word goes before a verifier's where preferences are learnt."""
    first, second = _stored, _liked
    if settings.method in (Method.DPO, Method.KTO):
        first, second = second, first
    found = first(trace, settings)
    return second(trace, settings) if found is None else found


def _stored(trace: Trace, settings: TrainSettings) -> bool | None:
    try:
        return features_of(trace).solved
    except RewardError:
        return None


def _liked(trace: Trace, settings: TrainSettings) -> bool | None:
    try:
        verifier = FeedbackVerifier(settings.feedback, settings.feedback_scale, settings.feedback_threshold)
        return verifier.verify(None, trace).passed
    except OffScaleError:
        raise
    except VerifierError:
        return None
