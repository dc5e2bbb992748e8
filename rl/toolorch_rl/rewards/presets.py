"""Settings of rewards, and of how far a policy may go, under three names: the paper's, the released script's, ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolorch_rl.rewards.features import RewardError


@dataclass(frozen=True, slots=True)
class Preset:
    """How rewards are computed, and what holds a policy that is trained on them near the one it was."""

    name: str
    normalise_over: Literal["all", "solved"] = "all"
    """Runs of a group that the least and the greatest value of dollars, seconds and calls are taken from. `all`: a run
    that gave up at once for nothing decides what counts as cheap. The outcome is then a feature like any other, and 0
    where all runs of a group are solved; with `solved` it is 1 for each solved run."""
    least_spread: float = 0.0
    """Dollars and seconds that differ by less than this share of the greatest in the group are not stretched over the
    whole of [0, 1]: half the spread earns at most half."""
    sample_std: bool = False
    """Divide by n - 1 in the standard deviation of advantages."""
    epsilon: float = 0.0
    """Added to that standard deviation."""
    homogeneous_std: float = 0.1
    """Groups whose rewards have a smaller standard deviation are dropped."""
    kl: float = 0.0
    """Coefficient of the divergence from the reference policy."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    """Tokens whose probability has fallen or risen further than these shares no longer train (online)."""


PAPER = Preset("paper")
"""arXiv 2511.21689, sections 3.2 and 4.4. It names no clip range: PPO's usual 0.2 stands in."""

RELEASED_SCRIPT = Preset(
    "released_script",
    sample_std=True,
    epsilon=1e-6,
    kl=1e-4,
    clip_high=0.28,
)
"""training/train_orchestrator.sh of NVIDIA's repository, and verl's advantages; the signs of cost and latency are the
paper's, not the script's."""

OURS = Preset("ours", normalise_over="solved", least_spread=0.2, clip_high=0.28)
"""Cheap and quick are measured among the runs that solved the task, and noise of a few per cent in dollars or seconds
is not blown up to a full reward."""

PRESETS = {entry.name: entry for entry in (PAPER, RELEASED_SCRIPT, OURS)}


def preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        RewardError: There is none.
    """
    if name not in PRESETS:
        raise RewardError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
