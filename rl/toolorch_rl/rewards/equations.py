"""The paper's equations over many groups at once.

A group T holds the runs of one task. With m the calls per tool, o the outcome, d dollars and s seconds:

    M(t) = [m_1 .. m_n, o, -d, -s]
    M~(t)[k] = (M(t)[k] - min_T M[k]) / (max_T M[k] - min_T M[k]), and 0 where the feature is constant over T
    R(t) = M~(t) . P if o(t) = 1, else 0                            (equation 2)
    A(t) = (R(t) - mean_T R) / std_T R                              (equation 3)

Edge cases, for every preset:

* One run in a group: all features are constant, so R = 0 (under `normalise_over="solved"` R = P[outcome]); A = 0.
* All runs wrong, or all rewards equal: A = 0.
* Constant features count 0. Values that differ only by rounding (a part in 10^9) are constant.
* A tool that only some runs called has a count of 0 in the others.
* Dollars or seconds that are not known for every run of a group: the feature is absent there, counts 0, and `notes`
  says so. They are not taken for 0, which would make the unknown run the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolorch_integrations.preferences import Preferences
from toolorch_rl.rewards.features import RewardError, RunFeatures
from toolorch_rl.rewards.presets import PAPER, Preset

Floats = npt.NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of runs, row by row in the order in which they were given."""

    runs: tuple[RunFeatures, ...]
    groups: npt.NDArray[np.intp]
    """Number of each run's group, from 0 in order of appearance."""
    tools: tuple[str, ...]
    """The first columns; then come `outcome`, `cost` and `latency`."""
    vectors: Floats
    """M~: one row a run, each entry in [0, 1]; rows of runs that did not solve their task stand as they are."""
    weights: Floats
    """P: one row a run."""
    scalars: Floats
    """R."""
    advantages: Floats
    """A."""
    spreads: Floats
    """What dollars (column 0) and seconds (column 1) were divided by; 0 where the feature counts nothing."""
    tops: Floats
    """The dollars and seconds that earn nothing, likewise."""
    notes: tuple[str, ...]
    """What could not be counted, and in which group."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `vectors`."""
        return (*self.tools, "outcome", "cost", "latency")


def reward(
    runs: Sequence[RunFeatures],
    groups: Sequence[Hashable],
    preferences: Preferences | Sequence[Preferences],
    settings: Preset = PAPER,
) -> Rewards:
    """Return rewards and advantages of runs.

    Args:
        runs: The runs.
        groups: Which task each run was made for.
        preferences: What the callers cared about: of all runs, or of each.
        settings: How.

    Raises:
        RewardError: There are no runs, the three do not go together, or a run's dollars or seconds are no numbers.
    """
    wanted = [preferences] * len(runs) if isinstance(preferences, Preferences) else list(preferences)
    if not runs:
        raise RewardError("there are no runs to reward")
    if not len(runs) == len(groups) == len(wanted):
        raise RewardError(f"{len(runs)} runs, {len(groups)} groups and {len(wanted)} preferences do not go together")
    for run in runs:
        for name, value in (("dollars", run.dollars), ("seconds", run.seconds)):
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise RewardError(f"{name} of run {run.run} is {value}: it must be a number, 0 or more")
    keys = list(dict.fromkeys(groups))
    place = {key: number for number, key in enumerate(keys)}
    of = np.fromiter((place[key] for key in groups), np.intp, len(groups))
    tools = tuple(sorted({name for run in runs for name in run.calls}))
    solved = np.fromiter((run.solved for run in runs), np.bool_, len(runs))
    raw, notes = raw_features(runs, of, keys, tools)
    vectors, spreads, tops = _normalise(raw, of, len(keys), solved, settings)
    weights = np.array([entry.vector(tools) for entry in wanted], np.float64)
    scalars = scalarise(vectors, weights, solved)
    return Rewards(
        runs=tuple(runs),
        groups=of,
        tools=tools,
        vectors=vectors,
        weights=weights,
        scalars=scalars,
        advantages=advantages(scalars, of, settings),
        spreads=spreads,
        tops=tops,
        notes=tuple(notes),
    )


def scalarise(vectors: Floats, weights: Floats, solved: npt.NDArray[np.bool_]) -> Floats:
    """Return R: each run's vector weighed by its preferences, and 0 for a run that did not solve its task."""
    # Exactly rounded sums: a column of zeros, or another order of the columns, changes no bit.
    sums = np.fromiter(map(math.fsum, vectors * weights), np.float64, len(vectors))
    result: Floats = np.where(solved, sums, 0.0)
    return result


def advantages(rewards: Floats, groups: npt.NDArray[np.intp], settings: Preset = PAPER) -> Floats:
    """Return A: each reward less the mean of its group, by its standard deviation; 0 where that is 0."""
    number = int(groups.max()) + 1 if len(groups) else 0
    sizes = np.bincount(groups, minlength=number)
    mean = np.bincount(groups, rewards, number) / np.maximum(sizes, 1)
    apart = rewards - mean[groups]
    degrees = np.maximum(sizes - int(settings.sample_std), 1)
    std = np.sqrt(np.bincount(groups, apart**2, number) / degrees)
    scale = np.bincount(groups, np.abs(rewards), number) / np.maximum(sizes, 1)
    flat = std <= _ROUNDING * scale
    result: Floats = np.where(flat[groups], 0.0, apart / np.where(flat, 1.0, std + settings.epsilon)[groups])
    return result


def bounds(
    raw: Floats, of: npt.NDArray[np.intp], number: int, solved: npt.NDArray[np.bool_], settings: Preset
) -> tuple[Floats, Floats]:
    """Return the least value of each feature in each group, and what is divided by: 0 where the feature is constant."""
    counted = solved if settings.normalise_over == "solved" else np.ones_like(solved)
    low = np.full((number, raw.shape[1]), np.inf)
    high = np.full((number, raw.shape[1]), -np.inf)
    np.minimum.at(low, of[counted], raw[counted])
    np.maximum.at(high, of[counted], raw[counted])
    empty = ~np.isfinite(low)  # nobody to measure by, or not known
    low[empty] = high[empty] = 0.0
    size = np.maximum(np.abs(low), np.abs(high))
    divisor = high - low
    constant = divisor <= _ROUNDING * size
    divisor[:, -2:] = np.maximum(divisor[:, -2:], settings.least_spread * size[:, -2:])
    divisor[constant] = 0.0
    return low, divisor


def raw_features(
    runs: Sequence[RunFeatures], of: npt.NDArray[np.intp], keys: Sequence[Hashable], tools: tuple[str, ...]
) -> tuple[Floats, list[str]]:
    """Return M, dollars and seconds as NaN in groups that do not know them of every run, and say so."""
    column = {name: number for number, name in enumerate(tools)}
    raw = np.zeros((len(runs), len(tools) + 3))
    for row, run in zip(raw, runs, strict=True):
        for name, count in run.calls.items():
            row[column[name]] = count
        row[-3] = run.solved
        row[-2] = np.nan if run.dollars is None else -run.dollars
        row[-1] = np.nan if run.seconds is None else -run.seconds
    notes = []
    for place, name in ((-2, "dollars"), (-1, "seconds")):
        unknown = np.isnan(raw[:, place])
        missing = np.bincount(of, unknown, len(keys)).astype(int)
        sizes = np.bincount(of, minlength=len(keys))
        notes += [
            f"group {keys[group]}: {name} of {missing[group]} of {sizes[group]} runs are not known and do not count"
            for group in np.flatnonzero(missing).tolist()
        ]
        raw[:, place] = np.where(missing[of] > 0, np.nan, raw[:, place])
    return raw, notes


def _normalise(
    raw: Floats, of: npt.NDArray[np.intp], number: int, solved: npt.NDArray[np.bool_], settings: Preset
) -> tuple[Floats, Floats, Floats]:
    low, divisor = bounds(raw, of, number, solved, settings)
    constant = divisor == 0
    safe = np.where(constant, 1.0, divisor)[of]
    vectors = np.where(constant[of], 0.0, (raw - low[of]) / safe)
    vectors = np.clip(np.nan_to_num(vectors), 0.0, 1.0)  # only runs that were not counted lie outside
    if settings.normalise_over == "solved":
        vectors[:, -3] = solved
    return vectors, divisor[of][:, -2:], -low[of][:, -2:]
