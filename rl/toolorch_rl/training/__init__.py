"""Training a policy on captured runs, with TRL underneath.

`train` is the whole of it: traces are read, checked, rewarded and turned into what the method trains on, and the
result is an adapter or a model with a card. A run that was killed goes on from its last checkpoint.
"""

from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.result import TrainResult
from toolorch_rl.training.run import train
from toolorch_rl.training.settings import Method, TrainSettings
from toolorch_rl.training.source import ExampleSource, StepSource

__all__ = ["ExampleSource", "Method", "StepSource", "TrainResult", "TrainSettings", "TrainingError", "train"]
