"""A run is made again where the policy server failed in it: from its beginning, once the server answers."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from toolorch_integrations.events import Event
from toolorch_rl.rollouts.attempt import App, Attempt, attempt
from toolorch_rl.rollouts.context import RolloutContext
from toolorch_rl.rollouts.groups import Loss, LostRun
from toolorch_rl.rollouts.plan import RolloutPlan
from toolorch_rl.rollouts.recording import RunRecorder

logger = logging.getLogger(__name__)

_PAUSE, _LONGEST = 0.2, 5.0
"""Seconds before the second try, doubled for each further one, and the most."""


async def tried(
    app_of: Callable[[str], App], context: RolloutContext, plan: RolloutPlan, before: Sequence[Event] = ()
) -> Attempt | LostRun:
    """Make a run, again where the policy server failed, and return the try that counts.

    Args:
        app_of: Gives the app for a try, from the try's id (`Attempt.recorder.trace_id`). An app that keeps something
            of a run, such as a thread of checkpoints, keeps it under this id: a failed try leaves half a run behind.
        context: The run; a later try asks the policy version that is served by then.
        plan: How often it is tried, and for how long.
        before: Events of an earlier run that this one goes on from.

    Raises:
        PolicyDownError: The policy server is gone for good.
    """
    settings, failed = plan.settings, ""
    for number in range(settings.attempts):
        recorder = RunRecorder(uuid.uuid4().hex, before)
        made = await attempt(app_of(recorder.trace_id), context, settings.sampling, settings.seconds, recorder)
        if made.timed_out:
            return LostRun(context, Loss.TIMEOUT, f"it was given up after {settings.seconds:g} s")
        if not made.policy_failed:
            return made
        failed = made.policy_failed
        logger.info("rollout %s %d: the policy failed: %s", context.key, context.repetition, failed)
        # A server that is going down may still call itself healthy.
        await asyncio.sleep(min(_LONGEST, _PAUSE * 2**number))
        if plan.server is not None:
            await plan.server.ready()
        context = replace(context, policy_version=plan.version())  # the old one may be gone with the old process
    return LostRun(context, Loss.POLICY, f"{settings.attempts} tries failed, at last: {failed}")
