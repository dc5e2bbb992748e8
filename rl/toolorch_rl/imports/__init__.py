"""Tasks of public benchmarks as environments, run by the benchmark's own code that the user has installed."""

from toolorch_rl.imports.bfcl import bfcl_tasks
from toolorch_rl.imports.replay import Replayed, replay_imported
from toolorch_rl.imports.source import BenchmarkError
from toolorch_rl.imports.task import ImportedTask, LeftOut, Stage
from toolorch_rl.imports.tau2 import tau2_tasks
from toolorch_rl.imports.toolkit import CallMade, ToolkitEnvironment

__all__ = [
    "BenchmarkError",
    "CallMade",
    "ImportedTask",
    "LeftOut",
    "Replayed",
    "Stage",
    "ToolkitEnvironment",
    "bfcl_tasks",
    "replay_imported",
    "tau2_tasks",
]
