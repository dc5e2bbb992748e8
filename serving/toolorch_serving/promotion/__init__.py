"""Promotion: a new policy serves if, and only if, it is shown to be better."""

from toolorch_serving.promotion.canary import CanaryPlan, LiveRun, of_canary
from toolorch_serving.promotion.criteria import Criteria, Margin, Proof, Stage, StageProof
from toolorch_serving.promotion.ending import roll_back
from toolorch_serving.promotion.errors import PromotionError
from toolorch_serving.promotion.evidence import Change, Evidence, of_comparison, of_estimate
from toolorch_serving.promotion.gate import Decision, Gate, Verdict
from toolorch_serving.promotion.live import live_runs
from toolorch_serving.promotion.promotion import Promotion, Sources
from toolorch_serving.promotion.publisher import Publisher
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step
from toolorch_serving.promotion.replicas import ServedReplicas
from toolorch_serving.promotion.restoring import restore
from toolorch_serving.promotion.served import ServedAdapters

__all__ = [
    "CanaryPlan",
    "Change",
    "Criteria",
    "Decision",
    "Evidence",
    "Gate",
    "LiveRun",
    "Margin",
    "Promotion",
    "PromotionError",
    "PromotionRecord",
    "PromotionRecords",
    "Proof",
    "Publisher",
    "ServedAdapters",
    "ServedReplicas",
    "Sources",
    "Stage",
    "StageProof",
    "Step",
    "Verdict",
    "live_runs",
    "of_canary",
    "of_comparison",
    "of_estimate",
    "restore",
    "roll_back",
]
