"""Evaluation: a policy on tasks, beside baselines, and against another policy on the same tasks."""

from toolorch_rl.evaluation.arms import HEADROOM, Arm, front, headroom, named, share_of
from toolorch_rl.evaluation.baselines import (
    AlwaysCheapest,
    AlwaysStrongest,
    Attempt,
    Baseline,
    Cascade,
    Oracle,
    RandomChoice,
    agreeing,
    all_baselines,
    answered,
    chosen_baselines,
)
from toolorch_rl.evaluation.compare import COMPARED, Compared, Comparison, Difference, compare
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.faces import Face, LangGraphFace, LlamaIndexFace, face
from toolorch_rl.evaluation.plots import plot_front, plot_routing
from toolorch_rl.evaluation.policy_at import PolicyAt
from toolorch_rl.evaluation.report import Report, report
from toolorch_rl.evaluation.results import ResultsFile, TaskResult, read_results, write_results
from toolorch_rl.evaluation.run import evaluate, run_task
from toolorch_rl.evaluation.task_baselines import task_baselines
from toolorch_rl.evaluation.trials import Trials

__all__ = [
    "COMPARED",
    "HEADROOM",
    "AlwaysCheapest",
    "AlwaysStrongest",
    "Arm",
    "Attempt",
    "Baseline",
    "Cascade",
    "Compared",
    "Comparison",
    "Difference",
    "EvaluationError",
    "Face",
    "LangGraphFace",
    "LlamaIndexFace",
    "Oracle",
    "PolicyAt",
    "RandomChoice",
    "Report",
    "ResultsFile",
    "TaskResult",
    "Trials",
    "agreeing",
    "all_baselines",
    "answered",
    "chosen_baselines",
    "compare",
    "evaluate",
    "face",
    "front",
    "headroom",
    "named",
    "plot_front",
    "plot_routing",
    "read_results",
    "report",
    "run_task",
    "share_of",
    "task_baselines",
    "write_results",
]
