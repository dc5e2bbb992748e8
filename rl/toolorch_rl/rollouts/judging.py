"""What becomes of a run that has ended: its trace, and a verdict on it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from toolorch_integrations.trace import Trace
from toolorch_rl.rollouts.attempt import Attempt
from toolorch_rl.rollouts.calls import call, limited
from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.rollouts.groups import FinishedRun, Loss, LostRun
from toolorch_rl.rollouts.plan import RolloutPlan
from toolorch_rl.verifiers.verdict import Verdict

logger = logging.getLogger(__name__)

PASSED = 0.5
"""Least score that counts as solved, where a verifier gives a number."""


async def judged(plan: RolloutPlan, made: Attempt, fork: int = 0) -> FinishedRun | LostRun:
    """Return an attempt that ended as a run with its trace and verdict.

    Args:
        plan: Says who judges it, within which time, and where its trace goes.
        made: The attempt.
        fork: How many of its graph's nodes it shares with the run that it goes on from.
    """
    context = made.context
    rollout = {"group": context.group, "repetition": context.repetition, "seed": context.seed}
    trace = made.recorder.trace({"task": context.key, "rollout": rollout, **context.metadata})
    if not trace.graph.nodes:
        why = f"the app raised {made.error!r}" if made.error else "see docs/capture.md for what is captured"
        return LostRun(context, Loss.EMPTY, why)
    error = "" if made.error is None else f"{type(made.error).__name__}: {made.error}"
    verdict = Verdict(0.0, False, f"the app raised {error}"[:500]) if error else await _verdict(plan, made, trace)
    if isinstance(verdict, LostRun):
        return verdict
    if plan.store is not None:
        await asyncio.to_thread(plan.store.add, trace)
    return FinishedRun(context, trace, verdict, made.seconds, error, fork)


async def _verdict(plan: RolloutPlan, made: Attempt, trace: Trace) -> Verdict | LostRun:
    """Ask the verifier, who may hang or fail: then nobody can say what the run is worth."""

    async def asked() -> Verdict:
        return verdict_of(await call(plan.verify, made.context.task, trace, made.result))

    seconds = plan.settings.verify_seconds
    ending = await limited(asked(), seconds)
    if ending.timed_out:
        logger.error("the verifier gave no verdict on rollout %s within %g s", made.context.key, seconds)
        return LostRun(made.context, Loss.VERIFIER, f"it gave no verdict within {seconds:g} s")
    if ending.error is not None:
        logger.error("the verifier failed on rollout %s", made.context.key, exc_info=ending.error)
        return LostRun(made.context, Loss.VERIFIER, f"{type(ending.error).__name__}: {ending.error}")
    verdict: Verdict = ending.result
    return verdict


def verdict_of(found: Any) -> Verdict:
    """Return what a verifier gave as a verdict.

    Raises:
        RolloutError: It is none, and no number from 0 to 1.
    """
    if isinstance(found, Verdict):
        return found
    if isinstance(found, (bool, int, float)) and 0 <= found <= 1:
        return Verdict(float(found), found >= PASSED, f"the score is {float(found):g}")
    raise RolloutError(f"verify returned {found!r}: give a Verdict, or a score from 0 to 1")
