"""Evaluation: a policy on tasks, beside baselines, and against another policy on the same tasks."""

from toolorch_rl.evaluation.compare import COMPARED, Compared, Comparison, Difference, compare
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.results import TaskResult, read_results, write_results

__all__ = [
    "COMPARED",
    "Compared",
    "Comparison",
    "Difference",
    "EvaluationError",
    "TaskResult",
    "compare",
    "read_results",
    "write_results",
]
