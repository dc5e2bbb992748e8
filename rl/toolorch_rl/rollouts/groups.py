"""What rollouts give: groups of runs of one task, and an account of those that gave nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from toolorch_integrations.ledger import CallKind
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.trace import Trace
from toolorch_rl.rewards import OURS, Preset, Rewards, RunFeatures, features_of, reward
from toolorch_rl.rollouts.context import RolloutContext
from toolorch_rl.verifiers.verdict import Verdict


class Loss(StrEnum):
    """Why a run gave nothing to learn from."""

    TIMEOUT = "timeout"
    """Its time was over: a tool hung, or it was too slow."""
    POLICY = "policy server"
    """The policy server failed, on every try."""
    VERIFIER = "verifier"
    """Nobody can say whether it solved the task."""
    EMPTY = "nothing captured"
    """The app asked no policy that is captured."""
    WORKER = "worker"
    """The process that it ran in died."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that ended, well or badly.

    Attributes:
        context: Which run.
        trace: What was captured.
        verdict: What the verifier says; a run in which the app raised has failed.
        seconds: Wall clock of the whole run.
        error: What the app raised, in words; empty where it returned.
        fork: Where the run goes on from another one's checkpoint: how many of its graph's nodes it shares with it.
    """

    context: RolloutContext
    trace: Trace
    verdict: Verdict
    seconds: float
    error: str = ""
    fork: int = 0


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run that is not trained on.

    Attributes:
        context: Which run.
        loss: Why.
        detail: The same in words.
    """

    context: RolloutContext
    loss: Loss
    detail: str = ""


@dataclass(slots=True)
class Group:
    """All runs of one task.

    Attributes:
        number: Number of the group, from 0.
        task: The task.
        key: Its name.
        runs: Those that ended, by repetition.
        lost: Those that gave nothing.
    """

    number: int
    task: Any
    key: str
    runs: list[FinishedRun] = field(default_factory=list)
    lost: list[LostRun] = field(default_factory=list)

    def add(self, run: FinishedRun | LostRun) -> None:
        """Add a run in its place."""
        if isinstance(run, LostRun):
            self.lost.append(run)
        else:
            self.runs.append(run)
            self.runs.sort(key=lambda known: known.context.repetition)

    @property
    def settled(self) -> int:
        """How many runs have ended or are lost."""
        return len(self.runs) + len(self.lost)


def rewards_of(
    groups: Sequence[Group],
    preferences: Preferences | None = None,
    preset: Preset = OURS,
    policy_seconds: float | None = None,
) -> Rewards:
    """Return the rewards of all runs of some groups, group by group in their order.

    Args:
        groups: At least one run among them.
        preferences: Whose reward; None: each run's own caller's, as it was captured.
        preset: How rewards are normalised.
        policy_seconds: Seconds that each policy call counts, in place of those that it took: a server under the load
            of many rollouts is slower than it will be, and by chance. None: as measured.

    Raises:
        RewardError: There are no runs.
    """
    runs = [run for group in groups for run in group.runs]
    keys = [group.number for group in groups for _ in group.runs]
    wanted = [preferences or preferences_of(run.trace) for run in runs]
    features = [features_of(run.trace, run.verdict) for run in runs]
    if policy_seconds is not None:
        features = [with_policy_seconds(entry, policy_seconds) for entry in features]
    return reward(features, keys, wanted, preset)


def with_policy_seconds(features: RunFeatures, seconds: float) -> RunFeatures:
    """Return a run's features with so many seconds for each policy call."""
    if features.seconds is None:
        return features
    costs = tuple(replace(cost, seconds=seconds) if cost.kind is CallKind.POLICY else cost for cost in features.costs)
    return replace(features, seconds=sum(cost.seconds for cost in costs), costs=costs)


def preferences_of(trace: Trace) -> Preferences:
    """Return what a run's caller cared about."""
    return Preferences.model_validate(trace.preferences) if trace.preferences else Preferences()


def report(groups: Iterable[Group]) -> str:
    """Say in a line how many runs ended and how many were lost, and why."""
    groups = list(groups)
    counts = Counter(run.loss.value for group in groups for run in group.lost)
    ended = sum(len(group.runs) for group in groups)
    lost = ", ".join(f"{number} by {loss}" for loss, number in counts.most_common())
    return f"{ended} runs of {len(groups)} tasks" + (f"; lost: {lost}" if lost else "")
