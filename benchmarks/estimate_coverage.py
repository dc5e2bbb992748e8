"""How often the estimate's 95 % interval holds what the new policy really earns, in a world where that can be computed.

A run is a task with three decisions among four specialists, each written as three tokens (reasoning of two kinds, the
choice, one that is nearly certain). Specialists differ in skill by kind of task, price and speed; solving needs one
good choice, and the policy stops after it more often than not. Log and truth are of independent tasks. Policies are
softmax tables over what they see: the behaviour policy is near uniform, the new ones are it moved towards, or away
from, the better choice by a given step.

    python benchmarks/estimate_coverage.py --trials 300
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from toolorch_rl.estimate import LoggedRuns, Outcome, estimate
from toolorch_rl.estimate.intervals import Floats

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
        policy.go_on + np.array([0.0, step]),
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


def _decide(
    policy: Policy, new: Policy, kind: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    thought, first = _draw(policy.reasoning[kind], new.reasoning[kind], random)
    chosen, second = _draw(policy.choice[kind, thought], new.choice[kind, thought], random)
    certain = random.normal(0, 0.002, len(kind))  # a token of probability one, seen by two engines
    return chosen, first + second + certain


def _draw(old: Floats, new: Floats, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
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


@dataclass
class Count:
    """Of one metric: intervals given, how many held the truth, their mean width, and verdicts that were wrong."""

    said: int = 0
    held: int = 0
    width: float = 0.0
    differences: int = 0
    wrong: int = 0


def trial(seed: int, runs: int, per_task: int, step: float, counts: dict[str, Count]) -> None:
    """Count what one log says against what the new policy then earns."""
    random = np.random.default_rng(seed)
    old = base_policy(random)
    new = moved(old, step, random)
    found = estimate(run(old, new, runs, per_task, random)).metrics
    truth, before = realised(new, seed), realised(old, seed)
    for name, entry in found.items():
        if entry.estimate is None or entry.difference is None:
            continue
        count = counts.setdefault(name, Count())
        count.said += 1
        count.held += entry.estimate.low <= truth[name] <= entry.estimate.high
        count.differences += entry.difference.low <= truth[name] - before[name] <= entry.difference.high
        count.width += (entry.estimate.high - entry.estimate.low) / max(abs(truth[name]), 1e-9)
        better = (truth[name] > before[name]) == entry.higher_is_better
        count.wrong += entry.verdict == ("worse" if better else "better")


def coverage(trials: int, runs: int, per_task: int, step: float, seed: int = 0) -> dict[str, Count]:
    """Return the counts of `trials` logs of `runs` runs each."""
    counts: dict[str, Count] = {}
    for number in range(trials):
        trial(seed + number, runs, per_task, step, counts)
    return counts


def main() -> None:
    """Print a line a setting and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--runs", type=int, nargs="+", default=[60, 200, 800])
    parser.add_argument("--steps", type=float, nargs="+", default=[-0.3, 0.1, 0.3, 0.6, 1.0])
    given = parser.parse_args()
    print(
        f"{'runs':>5} {'a task':>6} {'step':>5} {'metric':8} {'said':>5} {'held':>6} {'change':>6} {'width':>6} wrong"
    )
    total, held = 0, 0
    for runs in given.runs:
        for per_task in (1, 4):
            for step in given.steps:
                for name, count in coverage(given.trials, runs, per_task, step).items():
                    print(
                        f"{runs:5} {per_task:6} {step:5} {name:8} {count.said / given.trials:5.2f} "
                        f"{count.held / count.said:6.3f} {count.differences / count.said:6.3f} "
                        f"{count.width / count.said:6.2f} {count.wrong}"
                    )
                    total, held = total + count.said, held + count.held
    print(f"intervals that hold the truth: {held} of {total}, {held / total:.3f} (to reach: 0.90)")


if __name__ == "__main__":
    main()
