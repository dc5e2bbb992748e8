"""Rollouts as a source of examples: made while the trainer trains, with the weights that it has published last."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from toolorch_integrations.store import TraceStore
from toolorch_rl.examples import examples_of
from toolorch_rl.filters import FILTERS, drop_homogeneous
from toolorch_rl.online.maker import RolloutMaker
from toolorch_rl.online.publishing import WeightStream
from toolorch_rl.online.settings import OnlineSettings
from toolorch_rl.rewards import Rewards
from toolorch_rl.rollouts import Forks, Group, PolicyServer, RolloutError, RolloutPlan, after_fork, rewards_of
from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.plan import Verify
from toolorch_rl.rows import Example, Rollout
from toolorch_rl.trace_rows import rollouts_of
from toolorch_rl.training.tasks import task_names

if TYPE_CHECKING:
    from torch import nn


class RolloutSource:
    """An `ExampleSource` of the user's own app.

    Args:
        app: Runs the app on a task; or one whose runs are forked at a decision (`rollouts.Forks`).
        tasks: What it is trained on, in an order that the seed decides, pass after pass; or a function that gives the
            tasks without end, from the number of a group on.
        verify: Says whether a run solved its task.
        settings: How many, how old.
        weights: Where a step's weights go; None: nowhere, and all runs are made with the weights that are served.
        server: The policy's server, which is waited for or restarted when it fails.
        store: Where traces are kept as well.
        ended: Told of each group that is trained on or left out, with its rewards where it has some.
    """

    def __init__(
        self,
        app: App | Forks,
        tasks: Sequence[Any] | Callable[[int], Iterator[Any]],
        verify: Verify,
        settings: OnlineSettings | None = None,
        *,
        weights: WeightStream | None = None,
        server: PolicyServer | None = None,
        store: TraceStore | None = None,
        ended: Callable[[Sequence[Group], Rewards], None] | None = None,
    ) -> None:
        self.settings = settings or OnlineSettings()
        if not callable(tasks) and not tasks:
            raise RolloutError("tasks is empty: online training needs something to do")
        self._app = app
        self._plan = RolloutPlan(verify, self.settings.rollouts, server, store, self._version)
        self._tasks = tasks if callable(tasks) else _passes(tasks, self.settings.rollouts.seed)
        self._weights = weights
        self._ended = ended
        self._maker: RolloutMaker | None = None
        self._since = 0.0
        self._taken = 0
        self._first = 0
        self._resumed = False
        self._born: dict[int, int] = {}
        self._given: set[str] = set()
        self._figures: dict[str, float] = {}
        if server is not None and weights is not None and server.restored is None:
            server.restored = weights.again

    # --- the protocol ---

    def next_batch(self, step: int, policy_version: str) -> list[Example]:
        """Return the examples of a step's groups, waiting for them where they are not ready; none when time is over."""
        began = time.monotonic()
        self._since = self._since or began
        if self.settings.seconds is not None and began - self._since > self.settings.seconds:
            return []
        left_out: Counter[str] = Counter()
        for _ in range(self.settings.rounds):
            groups = self._fresh(left_out)
            examples = self._examples(groups, left_out)
            if examples:
                self._figures["waited"] = time.monotonic() - began
                return examples
        reasons = "; ".join(f"{number} {reason}" for reason, number in left_out.most_common())
        raise RolloutError(
            f"{self.settings.rounds} rounds of {self.settings.groups} groups gave nothing to learn from ({reasons}): "
            "take tasks that the policy solves sometimes, or preferences by which its runs differ"
        )

    def after_step(self, step: int, model: nn.Module) -> str | None:
        """Publish the weights, beside the training; those of a resumed run before its first rollout."""
        weights = self._weights
        if weights is None:
            return None
        if self._resumed:
            self._resumed = False
            weights.send(step, model)
            weights.wait()
        elif (step + 1) % self.settings.publish_every == 0:
            weights.send(step, model)
        return weights.name

    def metrics(self) -> dict[str, float]:
        """Return figures of the last batch: reward, solved, dollars, seconds, staleness, and what was left out."""
        if self.settings.seconds is None:
            return dict(self._figures)
        return {**self._figures, "seconds_left": max(0.0, self._since + self.settings.seconds - time.monotonic())}

    def tasks(self) -> set[str]:
        """Return the names of the tasks whose runs were compared for training so far, trained on or not."""
        return set(self._given)

    def state(self) -> dict[str, Any]:
        """Return the number of the next group, and how this run's versions are marked.

        A resumed run goes on with other tasks and seeds than it has seen.
        """
        group = self._first + (self._maker.begun if self._maker is not None else 0)
        return {"group": group, "marks": self._weights.marks if self._weights is not None else []}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._first = int(state["group"])
        self._resumed = True
        if self._weights is not None:
            self._weights.restore(state.get("marks", []))

    def close(self) -> None:
        """End the rollouts, and let the version on its way end."""
        if self._maker is not None:
            self._maker.stop()
        if self._weights is not None:
            self._weights.close()

    # --- inside ---

    def _fresh(self, left_out: Counter[str]) -> list[Group]:
        """Return a step's groups; those that have grown too old on the way are replaced."""
        settings = self.settings
        maker = self._started()
        maker.allow(self._taken + round(settings.groups * (1 + settings.ahead)))
        groups: list[Group] = []
        while len(groups) < settings.groups:
            group = maker.next(settings.timeout)
            self._taken += 1
            age = self._age(group)
            if age > settings.max_staleness:
                self._born.pop(group.number, None)
                left_out["too old"] += len(group.runs)
                maker.allow(self._taken + round(settings.groups * (1 + settings.ahead)) - len(groups))
                continue
            groups.append(group)
        ages = [self._age(group) for group in groups]
        self._figures = {"staleness": float(np.mean(ages)), "staleness_max": float(max(ages))}
        for group in groups:
            self._born.pop(group.number, None)
            left_out.update(run.loss.value for run in group.lost)
        return groups

    def _examples(self, groups: list[Group], left_out: Counter[str]) -> list[Example]:
        for name in self.settings.filters:
            for group in groups:
                kept = FILTERS[name]([run.trace for run in group.runs])
                group.runs = [group.runs[place] for place in kept.places]
                left_out.update(f"{drop.filter}: {drop.reason}" for drop in kept.dropped)
        groups = [group for group in groups if group.runs]
        if not groups:
            return []
        settings = self.settings
        rewards = rewards_of(groups, settings.preferences, settings.preset, settings.policy_seconds)
        if self._ended is not None:
            self._ended(groups, rewards)
        runs = [run for group in groups for run in group.runs]
        self._given.update(name for run in runs for name in task_names(run.trace))
        chosen = drop_homogeneous(rewards, settings.preset).kept
        if len(chosen) < len(runs):
            left_out["in a group of equal rewards"] += len(runs) - len(chosen)
        read = rollouts_of([runs[place].trace for place in chosen], vocabulary=settings.vocabulary)
        left_out.update(refusal.reason.value for refusal in read.refused)
        advantages = {runs[place].trace.id: float(rewards.advantages[place]) for place in chosen}
        forks = {runs[place].trace.id: runs[place].fork for place in chosen}
        rollouts = [after_fork(rollout, forks[rollout.trace_id]) for rollout in read.rollouts]
        rollouts = self._short_enough([rollout for rollout in rollouts if rollout.trained_tokens], left_out)
        self._note(rewards, len(rollouts), left_out)
        return examples_of(rollouts, advantages)

    def _short_enough(self, rollouts: list[Rollout], left_out: Counter[str]) -> list[Rollout]:
        longest = self.settings.max_length
        if longest is None:
            return rollouts
        kept = [rollout for rollout in rollouts if max(map(len, rollout.rows)) <= longest]
        if len(kept) < len(rollouts):
            left_out[f"longer than {longest} tokens"] += len(rollouts) - len(kept)
        return kept

    def _note(self, rewards: Rewards, trained: int, left_out: Counter[str]) -> None:
        runs = rewards.runs
        known = {
            "reward": float(rewards.scalars.mean()),
            "solved": float(np.mean([run.solved for run in runs])),
            "dollars": float(np.mean([run.dollars or 0.0 for run in runs])),
            "run_seconds": float(np.mean([run.seconds or 0.0 for run in runs])),
            "runs": float(len(runs)),
            "trained_runs": float(trained),
            "left_out": float(left_out.total()),
        }
        if self._weights is not None:
            known |= {"versions": float(self._weights.number), "publish_seconds": self._weights.seconds}
        self._figures |= known

    def _age(self, group: Group) -> int:
        number = self._weights.number if self._weights is not None else 0
        return number - self._born.get(group.number, number)

    def _started(self) -> RolloutMaker:
        if self._maker is None:
            plan = replace(self._plan, start=self._first)
            self._maker = RolloutMaker(self._app, self._tasks, plan, begins=self._begins)
            self._maker.start()
        return self._maker

    def _version(self) -> str | None:
        return self._weights.model if self._weights is not None else None

    def _begins(self, number: int) -> None:
        """Note which version is served as a group begins."""
        self._born[number] = self._weights.number if self._weights is not None else 0


def _passes(tasks: Sequence[Any], seed: int) -> Callable[[int], Iterator[Any]]:
    """Give tasks pass after pass, each pass in an order of its own."""

    def stream(start: int) -> Iterator[Any]:
        number = start
        while True:
            turn, place = divmod(number, len(tasks))
            order = list(range(len(tasks)))
            random.Random(f"{seed} {turn}").shuffle(order)
            for index in order[place:]:
                yield tasks[index]
            number = (turn + 1) * len(tasks)

    return stream
