"""Captured runs as a source of examples, pass after pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolorch_rl.rows import Example
from toolorch_rl.training.source import StepSource


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """A captured run as examples.

    Attributes:
        task: What it was made for.
        examples: Its rows.
        reward: What it earned.
        staleness: How many versions older than the newest in the data the policy was that made it.
    """

    task: str
    examples: tuple[Example, ...]
    reward: float
    staleness: int


class ReplaySource(StepSource):
    """Gives each run once a pass, in an order that the seed and the step decide: a resumed run goes on in it.

    Runs of a task follow each other, since they share most of their prompt.
    """

    def __init__(self, runs: Sequence[ReplayRun], batch: int, seed: int) -> None:
        """Take the runs.

        Args:
            runs: All of them.
            batch: Runs a step.
            seed: Of the order.
        """
        self.runs = list(runs)
        self.batch = min(batch, len(self.runs))
        self.seed = seed
        self._given: list[ReplayRun] = []

    def next_batch(self, step: int, policy_version: str) -> list[Example]:
        """Return the examples of a step's runs; the last ones of a pass and the first of the next may share a step."""
        number = len(self.runs)
        places = range(step * self.batch, (step + 1) * self.batch)
        orders = {turn: self._order(turn) for turn in {place // number for place in places}}
        self._given = [self.runs[orders[place // number][place % number]] for place in places]
        return [example for run in self._given for example in run.examples]

    def metrics(self) -> dict[str, float]:
        """Return the last batch's mean reward and staleness."""
        return {
            "reward": float(np.mean([run.reward for run in self._given])),
            "staleness": float(np.mean([run.staleness for run in self._given])),
        }

    def _order(self, turn: int) -> list[int]:
        draw = np.random.default_rng([self.seed, turn])
        tasks = sorted({run.task for run in self.runs})
        rank = {tasks[place]: number for number, place in enumerate(draw.permutation(len(tasks)).tolist())}
        shuffled = draw.permutation(len(self.runs)).tolist()
        return sorted(shuffled, key=lambda place: rank[self.runs[place].task])
