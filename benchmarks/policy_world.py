"""A small world in which what a policy earns can be computed: for benchmarks and tests of estimates and promotion.

A run is a task with up to three decisions among four specialists, each written as three tokens (reasoning of two kinds,
the choice, and one that is certain but for rounding); a fourth says whether to go on. Specialists differ in skill by
kind of task, price and speed; one good result solves the task. Policies are softmax tables over what they see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolorch_rl.estimate import LoggedRuns, Outcome
from toolorch_rl.estimate.intervals import Floats

Ints = npt.NDArray[np.integer[Any]]
KINDS, SPECIALISTS, DECISIONS = 3, 4, 3
PRICES = np.array([0.001, 0.004, 0.012, 0.03])
SECONDS = np.array([1.0, 3.0, 2.0, 6.0])
SKILL = np.array([[0.9, 0.5, 0.6, 0.95], [0.1, 0.8, 0.5, 0.9], [0.05, 0.2, 0.8, 0.9]])


@dataclass(frozen=True)
class Policy:
    """Softmax tables: of the reasoning token by kind, of the choice by kind and reasoning, of going on after it."""

    reasoning: Floats
    choice: Floats
    go_on: Floats


def base_policy(random: np.random.Generator) -> Policy:
    """Return a policy that is near uniform."""
    return Policy(
        random.normal(0, 0.3, (KINDS, 2)),
        random.normal(0, 0.5, (KINDS, 2, SPECIALISTS)),
        random.normal(0, 0.3, (KINDS, 2)),
    )


def moved(policy: Policy, step: float, random: np.random.Generator) -> Policy:
    """Return the policy moved by `step` towards what pays (away from it for a negative step), with some noise."""
    worth = SKILL - 15 * PRICES
    choice = policy.choice + 4 * step * (worth - worth.mean(axis=1, keepdims=True))[:, None, :]
    noise = 0.3 * abs(step)
    return Policy(
        policy.reasoning + random.normal(0, noise, policy.reasoning.shape),
        choice + random.normal(0, noise, choice.shape),
        policy.go_on + np.array([step, 0.0]),
    )


def run(policy: Policy, new: Policy, number: int, per_task: int, random: np.random.Generator) -> LoggedRuns:
    """Return `number` runs sampled from `policy`, with the ratios of `new` to it."""
    tasks = np.repeat(np.arange(-(-number // per_task)), per_task)[:number]
    kind = random.integers(0, KINDS, tasks.max() + 1)[tasks]
    hardness = random.normal(0, 0.15, tasks.max() + 1)[tasks]
    live, good = np.ones(number, bool), np.zeros(number, bool)
    ratios, dollars, seconds = (np.zeros((number, DECISIONS)) for _ in range(3))
    for step in range(DECISIONS):
        chosen, ratio = _decide(policy, new, kind, random)
        ok = random.random(number) < np.clip(SKILL[kind, chosen] + hardness, 0.02, 0.98)
        ratios[:, step] = np.where(live, ratio, 0.0)
        dollars[:, step] = np.where(live, PRICES[chosen], 0.0)
        seconds[:, step] = np.where(live, SECONDS[chosen] * random.lognormal(0, 0.3, number), 0.0)
        good |= live & ok
        more, more_ratio = _draw(policy.go_on[kind], new.go_on[kind], random)
        ratios[:, step] += np.where(live, more_ratio, 0.0)
        live &= (more == 0) & ~ok
    reward = np.where(good, 1 - 8 * dollars.sum(axis=1), 0.0)
    features = np.eye(KINDS)[kind] + random.normal(0, 0.2, (number, KINDS))
    return LoggedRuns(
        runs=tuple(str(n) for n in range(number)),
        groups=tasks.astype(np.intp),
        log_ratios=ratios,
        outcomes={
            "reward": Outcome(reward, bounds=(0.0, 1.0)),
            "solved": Outcome(good.astype(float), bounds=(0.0, 1.0)),
            "dollars": Outcome(dollars.sum(axis=1), dollars, higher_is_better=False),
            "seconds": Outcome(seconds.sum(axis=1), seconds, higher_is_better=False),
        },
        features=features,
    )


def _decide(policy: Policy, new: Policy, kind: Ints, random: np.random.Generator) -> tuple[Ints, Floats]:
    thought, first = _draw(policy.reasoning[kind], new.reasoning[kind], random)
    chosen, second = _draw(policy.choice[kind, thought], new.choice[kind, thought], random)
    certain = random.normal(0, 0.002, len(kind))  # a token of probability one, seen by two engines
    return chosen, first + second + certain


def _draw(old: Floats, new: Floats, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Sample a token a row by Gumbel's trick; return it and its log-ratio."""
    drawn = (old + random.gumbel(size=old.shape)).argmax(axis=1)
    rows = np.arange(len(drawn))
    return drawn, _log_softmax(new)[rows, drawn] - _log_softmax(old)[rows, drawn]


def _log_softmax(logits: Floats) -> Floats:
    top = logits - logits.max(axis=1, keepdims=True)
    return top - np.log(np.exp(top).sum(axis=1, keepdims=True))


def realised(policy: Policy, seed: int) -> dict[str, float]:
    """Return what a policy earns on average, from many runs of it; the same luck for every policy."""
    runs = run(policy, policy, 30_000, 1, np.random.default_rng([seed, 1]))
    return {name: float(outcome.values.mean()) for name, outcome in runs.outcomes.items()}
