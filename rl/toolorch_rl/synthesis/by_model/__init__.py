"""Synthesis of tasks by language model (ToolScale), at any OpenAI-compatible endpoint.

Domain, schema, states, intents, tasks with golden calls, harder versions. Each step is data that is checked, never code
that is run; a task is kept only if its golden calls solve it, doing nothing does not, and some tries of a solver do.
"""

from toolorch_rl.synthesis.by_model.errors import AnswerError, SynthesisError
from toolorch_rl.synthesis.by_model.pipeline import STAGES, synthesize_by_model
from toolorch_rl.synthesis.by_model.report import Dropped, Made, Progress
from toolorch_rl.synthesis.by_model.settings import Settings
from toolorch_rl.synthesis.by_model.solver import OrchestratorSolver, Solver, Try
from toolorch_rl.synthesis.by_model.spending import StageCost

__all__ = [
    "STAGES",
    "AnswerError",
    "Dropped",
    "Made",
    "OrchestratorSolver",
    "Progress",
    "Settings",
    "Solver",
    "StageCost",
    "SynthesisError",
    "Try",
    "synthesize_by_model",
]
