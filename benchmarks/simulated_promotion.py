"""Candidates on their way through the real gate, with evidence from `policy_world`: a log, held-out tasks, live runs.

Kinds of candidates, against an incumbent that already is better than chance:

* good: moved further towards what pays;
* noise: its logits shaken at random, and drawn again while that happens to make it better;
* hacker: it always takes the cheapest specialist, and its reward comes from a broken verifier that believes every
  answer, so that the goal rises and what is really solved falls;
* old: a checkpoint from before the incumbent, a little worse in everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.policy_world import PRICES, Policy, base_policy, moved, realised, run
from toolorch_integrations.store import TraceStore
from toolorch_integrations.versions import tries
from toolorch_rl.estimate import EstimateReport, LoggedRuns, Outcome, estimate
from toolorch_rl.evaluation import TaskResult
from toolorch_serving.promotion import (
    CanaryPlan,
    Gate,
    LiveRun,
    Promotion,
    PromotionError,
    PromotionRecord,
    PromotionRecords,
    Sources,
)

T = TypeVar("T")

KINDS = ("good", "noise", "hacker", "old")
INCUMBENT, CANDIDATE = "policy-1", "policy-2"
PLAN = CanaryPlan(share=0.2, least=50, planned=3_000, most=8_000, patience=100_000.0)
A_SECOND = 1.0
"""Live conversations."""


@dataclass
class FakeServer:
    """A server as a promotion sees it; it may be told to fail."""

    versions: set[str] = field(default_factory=lambda: {INCUMBENT})
    fails: set[str] = field(default_factory=set)
    """Of publish, probe, serves and retire."""
    asked: list[str] = field(default_factory=list)

    def publish(self, version: str, folder: Path) -> None:
        """Load a version, and prove that it answers."""
        self._ask("publish")
        self.versions.add(version)
        self._ask("probe")

    def serves(self, version: str) -> bool:
        """Say whether a version is loaded."""
        self._ask("serves")
        return version in self.versions

    def retire(self, version: str) -> None:
        """Drop a version."""
        self._ask("retire")
        self.versions.discard(version)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails:
            raise PromotionError(f"the server does not answer ({what})")


@dataclass
class Clock:
    """Time that only passes by sleeping."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        """Return epoch seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass
class World:
    """Evidence for one candidate."""

    seed: int
    incumbent: Policy
    candidate: Policy
    hacked: bool = False
    clock: Clock = field(default_factory=Clock)
    runs: int = 1_500
    tasks: int = 1_000

    memo: dict[str, Any] = field(default_factory=dict)
    """What was worked out already."""

    def again(self) -> World:
        """Return the same world before anything has happened."""
        return replace(self, clock=Clock())

    def estimate(self) -> EstimateReport:
        """Return the off-policy estimate on a log of the incumbent."""
        return self._once("estimate", self._estimate)

    def evaluate(self, version: str) -> Sequence[TaskResult]:
        """Return results on held-out tasks, the same ones for each version; the luck is each run's own."""
        return self._once(f"evaluate {version}", lambda: self._evaluate(version))

    def _once(self, what: str, make: Callable[[], T]) -> T:
        if what not in self.memo:
            self.memo[what] = make()
        found: T = self.memo[what]
        return found

    def _estimate(self) -> EstimateReport:
        random = np.random.default_rng([self.seed, 2])
        return estimate(self._judged(run(self.incumbent, self.candidate, self.runs, 3, random)))

    def _evaluate(self, version: str) -> Sequence[TaskResult]:
        policy = self.candidate if version == CANDIDATE else self.incumbent
        found = self._judged(run(policy, policy, self.tasks, 1, np.random.default_rng([self.seed, 3])))
        columns = {name: outcome.values.tolist() for name, outcome in found.outcomes.items()}
        return [
            TaskResult(
                task_id=str(place),
                solved=bool(columns["solved"][place]),
                dollars=columns["dollars"][place],
                seconds=columns["seconds"][place],
                reward=columns["reward"][place],
            )
            for place in range(self.tasks)
        ]

    def live(self, since: float) -> Iterable[LiveRun]:
        """Return the live runs since a time: one conversation each, routed as the router would."""
        number = min(math.floor((self.clock() - since) * A_SECOND), PLAN.most)
        return self._once("live", lambda: list(self._live()))[:number]

    def _live(self) -> Iterator[LiveRun]:
        arms = {candidate: self._arm(candidate) for candidate in (False, True)}
        columns = {
            candidate: {name: entry.values.tolist() for name, entry in arm.outcomes.items()}
            for candidate, arm in arms.items()
        }
        for place in range(PLAN.most):
            key = f"{self.seed}-{place}"
            candidate = tries(key, CANDIDATE, PLAN.share)
            yield LiveRun(key, candidate, {name: values[place] for name, values in columns[candidate].items()})

    def _arm(self, candidate: bool) -> LoggedRuns:
        policy = self.candidate if candidate else self.incumbent
        random = np.random.default_rng([self.seed, 4, candidate])
        return self._judged(run(policy, policy, PLAN.most, 1, random))

    def _judged(self, logged: LoggedRuns) -> LoggedRuns:
        """Return the runs as the verifier sees them."""
        if not self.hacked:
            return logged
        believed = 1 - 8 * logged.outcomes["dollars"].values
        return replace(logged, outcomes={**logged.outcomes, "reward": Outcome(believed, bounds=(0.0, 1.0))})


def world(kind: str, seed: int) -> World:
    """Return a candidate of a kind and its evidence."""
    random = np.random.default_rng([seed, 0])
    base = base_policy(random)
    incumbent = moved(base, 0.25, random)
    if kind == "good":
        return World(seed, incumbent, moved(incumbent, 0.4, random))
    if kind == "hacker":
        cheapest = incumbent.choice + 1.5 * (PRICES.min() == PRICES)
        return World(seed, incumbent, replace(incumbent, choice=cheapest), hacked=True)
    if kind == "old":
        return World(seed, incumbent, base)
    before = realised(incumbent, seed)["reward"]
    while True:
        shaken = replace(incumbent, choice=incumbent.choice + random.normal(0, 0.7, incumbent.choice.shape))
        if realised(shaken, seed)["reward"] <= before:
            return World(seed, incumbent, shaken)


def promotion(evidence: World, folder: Path, server: FakeServer | None = None, **more: object) -> Promotion:
    """Return a promotion of the world's candidate, recorded in a store in `folder`."""
    records = PromotionRecords(TraceStore.open(folder / "traces.db"))
    found = Promotion(
        records,
        Gate(),
        server or FakeServer(),
        Sources(evidence.estimate, evidence.evaluate, evidence.live),
        PLAN,
        look_every=500.0,
        clock=evidence.clock,
        sleep=evidence.clock.sleep,
    )
    return replace(found, **more)  # type: ignore[arg-type]


def attempt(kind: str, seed: int, folder: Path, fooled: Sequence[str] = ()) -> list[PromotionRecord]:
    """Bring one candidate to its end; return the steps.

    Args:
        kind: Of candidate.
        seed: Of all that is random.
        folder: For the store.
        fooled: Stages that are shown a good candidate's evidence in place of this one's: `estimate`, `evaluation`.
    """
    evidence = world(kind, seed)
    found = promotion(evidence, folder)
    if "estimate" in fooled:
        found.sources = replace(found.sources, estimate=_good(seed).estimate)
    if "evaluation" in fooled:
        found.sources = replace(found.sources, evaluate=_good(seed).evaluate)
    last = found.begin(CANDIDATE, folder, INCUMBENT)
    return found.records.steps(last.promotion)


@lru_cache(maxsize=1)
def _good(seed: int) -> World:
    return world("good", seed)
