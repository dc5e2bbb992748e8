"""What a new policy would have earned on captured runs: off-policy estimates, or why the log cannot tell."""

from toolorch_rl.estimate.logged import EstimateError, LoggedRuns, Outcome, RunRatios, run_ratios
from toolorch_rl.estimate.report import EstimateReport, Interval, MetricEstimate, VersionShare, estimate
from toolorch_rl.estimate.weights import Weights, weigh

__all__ = [
    "EstimateError",
    "EstimateReport",
    "Interval",
    "LoggedRuns",
    "MetricEstimate",
    "Outcome",
    "RunRatios",
    "VersionShare",
    "Weights",
    "estimate",
    "run_ratios",
    "weigh",
]
