"""Metrics of runs: multi-tool behaviour, outcome, cost, preferences and routing, each with a confidence interval."""

from toolorch_rl.metrics.chains import ChainScores, GoldenCall, chain_scores
from toolorch_rl.metrics.estimates import Estimate, bootstrap, wilson
from toolorch_rl.metrics.preference import preference_score
from toolorch_rl.metrics.routing import Routing, routing
from toolorch_rl.metrics.table import (
    METRICS,
    TARGETS,
    MeasuredRun,
    MetricsError,
    MetricTable,
    RunScores,
    Target,
    measure,
    score,
)

__all__ = [
    "METRICS",
    "TARGETS",
    "ChainScores",
    "Estimate",
    "GoldenCall",
    "MeasuredRun",
    "MetricTable",
    "MetricsError",
    "Routing",
    "RunScores",
    "Target",
    "bootstrap",
    "chain_scores",
    "measure",
    "preference_score",
    "routing",
    "score",
    "wilson",
]
