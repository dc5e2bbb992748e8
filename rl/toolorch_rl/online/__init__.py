"""Online training: GRPO on rollouts of the user's own app, made while the trainer trains."""

from toolorch_rl.online.maker import RolloutMaker
from toolorch_rl.online.publishing import WeightStream
from toolorch_rl.online.run import train_online
from toolorch_rl.online.settings import OnlineSettings
from toolorch_rl.online.source import RolloutSource

__all__ = ["OnlineSettings", "RolloutMaker", "RolloutSource", "WeightStream", "train_online"]
