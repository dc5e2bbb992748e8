"""Rewards of runs: from captured traces to vectors, and from vectors to what a trainer optimises.

The equations are those of ToolOrchestra (arXiv 2511.21689, section 3.2) with the signs right: of two solved runs the
dearer or slower one never earns more. A reward stays a vector until `scalarise`.
"""

from toolorch_rl.rewards.attach import attach
from toolorch_rl.rewards.credit import CallCredit, RunCredit, credit
from toolorch_rl.rewards.equations import Rewards, advantages, reward, scalarise
from toolorch_rl.rewards.features import CallCost, RewardError, RunFeatures, features_of
from toolorch_rl.rewards.presets import OURS, PAPER, PRESETS, RELEASED_SCRIPT, Preset, preset
from toolorch_rl.rewards.scale import Scale

__all__ = [
    "OURS",
    "PAPER",
    "PRESETS",
    "RELEASED_SCRIPT",
    "CallCost",
    "CallCredit",
    "Preset",
    "RewardError",
    "Rewards",
    "RunCredit",
    "RunFeatures",
    "Scale",
    "advantages",
    "attach",
    "credit",
    "features_of",
    "preset",
    "reward",
    "scalarise",
]
