"""Rollouts: the user's own app run on tasks, many times at once, each run captured exactly, judged and rewarded."""

from toolorch_rl.rollouts.attempt import Sampling
from toolorch_rl.rollouts.context import RolloutContext, current_rollout
from toolorch_rl.rollouts.errors import PolicyDownError, RolloutError
from toolorch_rl.rollouts.forks import Decision, Forks, after_fork, collect_forks
from toolorch_rl.rollouts.groups import FinishedRun, Group, Loss, LostRun, report, rewards_of
from toolorch_rl.rollouts.langgraph_forks import LangGraphForks
from toolorch_rl.rollouts.llamaindex_forks import LlamaIndexForks
from toolorch_rl.rollouts.plan import RolloutPlan, RolloutSettings
from toolorch_rl.rollouts.runner import collect
from toolorch_rl.rollouts.server import PolicyServer
from toolorch_rl.rollouts.spread import rollouts, spread_rollouts

__all__ = [
    "Decision",
    "FinishedRun",
    "Forks",
    "Group",
    "LangGraphForks",
    "LlamaIndexForks",
    "Loss",
    "LostRun",
    "PolicyDownError",
    "PolicyServer",
    "RolloutContext",
    "RolloutError",
    "RolloutPlan",
    "RolloutSettings",
    "Sampling",
    "after_fork",
    "collect",
    "collect_forks",
    "current_rollout",
    "report",
    "rewards_of",
    "rollouts",
    "spread_rollouts",
]
