"""Verifiers: what counts as solved, apart from the tools that a run may call."""

from toolorch_rl.verifiers.database import DatabaseDifference, DatabaseVerifier, TableDifference, compare_databases
from toolorch_rl.verifiers.exact import ExactVerifier
from toolorch_rl.verifiers.feedback import FeedbackVerifier, OffScaleError
from toolorch_rl.verifiers.judge import JudgeBudgetError, JudgeVerifier, Question
from toolorch_rl.verifiers.numeric import NumericVerifier, Quantity, last_quantity
from toolorch_rl.verifiers.program import ProgramLimits, ProgramVerifier
from toolorch_rl.verifiers.sets import SetVerifier
from toolorch_rl.verifiers.verdict import Checked, Verdict, Verifier, VerifierError, verify_all

__all__ = [
    "Checked",
    "DatabaseDifference",
    "DatabaseVerifier",
    "ExactVerifier",
    "FeedbackVerifier",
    "JudgeBudgetError",
    "JudgeVerifier",
    "NumericVerifier",
    "OffScaleError",
    "ProgramLimits",
    "ProgramVerifier",
    "Quantity",
    "Question",
    "SetVerifier",
    "TableDifference",
    "Verdict",
    "Verifier",
    "VerifierError",
    "compare_databases",
    "last_quantity",
    "verify_all",
]
