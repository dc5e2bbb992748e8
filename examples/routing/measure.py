"""What a policy is worth in this world, beside the rules that it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from examples.routing.app import App, answer_in, verify
from examples.routing.requests import RoutingTask
from examples.routing.specialists import NOWHERE
from toolorch_integrations import Specialist
from toolorch_rl.evaluation.arms import Arm
from toolorch_rl.evaluation.trials import Brought, Trials
from toolorch_rl.metrics.estimates import Estimate, bootstrap
from toolorch_rl.rewards import OURS, RunFeatures, features_of, reward
from toolorch_rl.rollouts import PolicyServer, RolloutError, RolloutSettings, Sampling, report, rollouts
from toolorch_rl.rollouts.groups import with_policy_seconds
from toolorch_serving.simulated.specialists import SimulatedSpecialist
from toolorch_serving.simulated.tokens import count, count_messages

POLICY_SECONDS = 0.5
"""What a policy call counts in seconds: a server under the load of rollouts says nothing about one in use."""


def asked(specialist: SimulatedSpecialist, task: RoutingTask) -> Brought:
    """Return answer, dollars and seconds of a specialist on a task, as the app would be charged."""
    text = specialist.answer(task.request)
    read = count_messages([{"role": "user", "content": task.request}])
    return text, specialist.price.dollars(read, count(text)), specialist.latency


def baselines(tasks: Sequence[RoutingTask]) -> list[Arm]:
    """Return always-strongest, always-cheapest, random, cascade and oracle."""

    def entries(task: RoutingTask) -> list[Specialist]:
        return [specialist.entry(NOWHERE) for specialist in task.team.specialists]

    def ask(who: Specialist, task: RoutingTask) -> Brought:
        return asked(next(one for one in task.team.specialists if one.name == who.name), task)

    def right(task: RoutingTask, answer: str) -> bool:
        return answer_in(answer) == task.answer

    return Trials(tasks, entries, right, key=lambda task: task.id).run(ask)


def policy_arm(
    name: str, app: App, tasks: Sequence[RoutingTask], server: PolicyServer | None = None, at_once: int = 48
) -> Arm:
    """Run the app on each task, greedily, and return what came of it.

    Raises:
        RolloutError: A task has no run after three tries: what a busy machine lost is no wrong answer.
    """
    settings = RolloutSettings(repetitions=1, at_once=at_once, seconds=120, sampling=Sampling(temperature=0.0))
    found: dict[str, RunFeatures] = {}
    for _ in range(3):
        left = [task for task in tasks if task.id not in found]
        groups = rollouts(app, left, verify, settings, server=server) if left else []
        for task, group in zip(left, groups, strict=True):
            for run in group.runs:
                found[task.id] = with_policy_seconds(features_of(run.trace, run.verdict), POLICY_SECONDS)
    missing = [task.id for task in tasks if task.id not in found]
    if missing:
        raise RolloutError(f"{name} has no run of {len(missing)} of {len(tasks)} tasks; the last try: {report(groups)}")
    return Arm(name, tuple(found[task.id] for task in tasks))


Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def rewards(arm: Arm, tasks: Sequence[RoutingTask]) -> Floats:
    """Return each run's reward, measured beside what each specialist alone would have brought on the task."""
    return np.array([found[-1] for found in _beside_specialists(tasks, arm)])


def best_rewards(tasks: Sequence[RoutingTask]) -> Floats:
    """Return what the best specialist for each task earns: the oracle of the reward, which looks at all answers."""
    return np.array([found.max() for found in _beside_specialists(tasks)])


def _beside_specialists(tasks: Sequence[RoutingTask], arm: Arm | None = None) -> list[Floats]:
    """Return for each task the rewards of each specialist alone, and of an arm's run."""
    runs, keys = [], []
    for number, task in enumerate(tasks):
        alone = [_alone(specialist, task) for specialist in task.team.specialists]
        runs += alone if arm is None else [*alone, arm.runs[number]]
        keys += [number] * (len(runs) - len(keys))
    scalars = reward(runs, keys, [tasks[number].preferences for number in keys], OURS).scalars
    return np.split(np.asarray(scalars), np.flatnonzero(np.diff(keys)) + 1)


def _alone(specialist: SimulatedSpecialist, task: RoutingTask) -> RunFeatures:
    text, dollars, seconds = asked(specialist, task)
    solved = answer_in(text) == task.answer
    return RunFeatures(f"{task.id} {specialist.name}", {specialist.name: 1}, solved, dollars, seconds + POLICY_SECONDS)


@dataclass(frozen=True, slots=True)
class Worth:
    """An arm's figures on some tasks; dollars and reward as shares of always-strongest's and of the best possible."""

    name: str
    solved: Estimate
    dollars: float
    dollar_share: Estimate
    seconds: float
    reward: float
    reward_share: Estimate

    def row(self) -> list[str]:
        """Return the figures as a table shows them."""
        shares = [_percent(estimate) for estimate in (self.solved, self.dollar_share, self.reward_share)]
        return [self.name, shares[0], shares[1], f"{self.seconds:.2f}", f"{self.reward:.3f}", shares[2]]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-safe values."""
        return asdict(self)


def _percent(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-" if estimate.value is None else f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def worth(arm: Arm, strongest: Arm, tasks: Sequence[RoutingTask]) -> Worth:
    """Return an arm's figures with 95 % intervals, over tasks."""
    dollars = [run.dollars or 0.0 for run in arm.runs]
    dear = [run.dollars or 0.0 for run in strongest.runs]
    earned, best = rewards(arm, tasks).tolist(), best_rewards(tasks).tolist()
    return Worth(
        arm.name,
        arm.solved,
        float(np.mean(dollars)),
        bootstrap(dollars, dear),
        float(np.mean([run.seconds or 0.0 for run in arm.runs])),
        float(np.mean(earned)),
        bootstrap(earned, best),
    )
