"""Logged runs as the estimators take them: ratios of the two policies decision by decision, and what was earned."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from toolorch_integrations.errors import ToolorchError
from toolorch_rl.estimate.intervals import Floats
from toolorch_rl.rows import Rollout, Row

Logprobs = Callable[[Row], npt.NDArray[np.float32]]
"""Gives the new policy's log-probability of each token of a row, at the row's temperatures: float32 (T,). Entries of
tokens that the row does not train are not looked at."""


class EstimateError(ToolorchError, ValueError):
    """An estimate cannot be made from what was given; the message names the run or field and the fix."""


@dataclass(frozen=True, slots=True, eq=False)
class RunRatios:
    """The new policy against the one that sampled a run, decision by decision.

    A decision is a message that the policy sampled: reasoning, calls and answer together.
    """

    trace_id: str
    nodes: npt.NDArray[np.int32]
    """(K,) graph nodes of the decisions, in the order in which they were sampled."""
    log_ratios: Floats
    """(K,) natural logarithm of new over old probability; minus infinity where the new policy never does it."""


def run_ratios(rollout: Rollout, logprobs: Logprobs) -> RunRatios:
    """Return a run's ratios: token by token in float64, added up within each decision.

    Raises:
        EstimateError: The run has no sampled tokens, or no behaviour log-probability for some, or the new policy gave
            no number.
    """
    nodes, ratios = [], []
    for row in rollout.rows:
        if not row.trained.any():
            continue
        old = row.logprobs[row.trained].astype(np.float64)
        if np.isnan(old).any():
            raise EstimateError(
                f"run {rollout.trace_id}: {int(np.isnan(old).sum())} sampled tokens have no behaviour log-probability; "
                "capture with a policy server that gives log-probabilities (ChatPolicy with exact=True)"
            )
        new = np.asarray(logprobs(row), np.float64)
        if new.shape != row.ids.shape:
            raise EstimateError(f"run {rollout.trace_id}: {new.shape} log-probabilities for {len(row)} tokens")
        new = new[row.trained]
        if np.isnan(new).any() or np.isposinf(new).any():
            raise EstimateError(f"run {rollout.trace_id}: the new policy's log-probabilities hold NaN or infinity")
        nodes.append(row.nodes[row.trained])
        ratios.append(new - old)
    if not nodes:
        raise EstimateError(f"run {rollout.trace_id} has no token that the policy sampled")
    found, place = np.unique(np.concatenate(nodes), return_inverse=True)
    sums = np.bincount(place, np.concatenate(ratios), len(found)).astype(np.float64)
    return RunRatios(rollout.trace_id, found, sums)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one metric was in each run."""

    values: Floats
    """(N,); NaN where it is not known."""
    steps: Floats | None = None
    """(N, K) the part of it that each decision caused, if it is a sum over decisions; 0 beyond a run's last one."""
    bounds: tuple[float, float] | None = None
    """What a run's value cannot leave; None: what was seen."""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRuns:
    """N runs of the behaviour policies, as NumPy arrays.

    Attributes:
        runs: Ids.
        groups: (N,) number of the task of each run: runs of one task are not independent.
        log_ratios: (N, K) of each decision; 0 beyond a run's last one.
        outcomes: By metric.
        features: (N, F) of what was known before the first decision; None: the outcome model is a constant.
        versions: Policy versions that sampled each run.
        ages: (N,) seconds since each run began; NaN where it is not known.
    """

    runs: tuple[str, ...]
    groups: npt.NDArray[np.intp]
    log_ratios: Floats
    outcomes: Mapping[str, Outcome]
    features: Floats | None = None
    versions: tuple[tuple[str, ...], ...] = ()
    ages: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        number = len(self.runs)
        shapes: dict[str, tuple[int, ...]] = {"groups": self.groups.shape, "log_ratios": self.log_ratios.shape[:1]}
        shapes |= {f"outcomes[{name!r}].values": entry.values.shape for name, entry in self.outcomes.items()}
        shapes |= {"features": self.features.shape[:1]} if self.features is not None else {}
        for name, shape in shapes.items():
            if shape != (number,):
                raise EstimateError(f"{name} has {shape} entries for {number} runs")
        for name, entry in self.outcomes.items():
            if entry.steps is not None and entry.steps.shape != self.log_ratios.shape:
                raise EstimateError(f"outcomes[{name!r}].steps has shape {entry.steps.shape}, not that of log_ratios")

    def __len__(self) -> int:
        return len(self.runs)


def padded(rows: Sequence[npt.ArrayLike]) -> Floats:
    """Return rows of unequal lengths as one array, zeros at their ends."""
    arrays = [np.asarray(row, np.float64) for row in rows]
    result = np.zeros((len(arrays), max((len(row) for row in arrays), default=0)))
    for place, row in enumerate(arrays):
        result[place, : len(row)] = row
    return result


def numbered(groups: Sequence[Hashable]) -> npt.NDArray[np.intp]:
    """Return the number of each entry's group, from 0 in order of appearance."""
    place: dict[Hashable, int] = {}
    return np.fromiter((place.setdefault(key, len(place)) for key in groups), np.intp, len(groups))
