"""One run of the app on a task: captured, with its seed and policy version, and given up when its time is over."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.overrides import policy_overrides
from toolorch_rl.rollouts.calls import call, limited
from toolorch_rl.rollouts.context import RolloutContext, _current
from toolorch_rl.rollouts.recording import RunRecorder, policy_failure

App = Callable[[Any], Any]
"""Runs the app on a task and returns its result: a plain function, or a coroutine function."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the policy is asked in rollouts.

    Attributes:
        temperature: Above 0; 1 samples from the policy's own distribution.
        url: Endpoint of the policy, `/v1` included, where the app asks other models through the same classes.
        seeded: Send each run's seed with its requests. vLLM 0.32 on a CPU dies of it ("CPU Generator does not use
            offset"), so it is off by default; the embedded engine takes it.
        further: Request parameters besides. The defaults switch off what model folders like to bring along and what
            would make sampled tokens come from another distribution than the trainer computes.
    """

    temperature: float = 1.0
    url: str | None = None
    seeded: bool = False
    further: Mapping[str, Any] = field(default_factory=lambda: {"top_p": 1.0, "top_k": -1})


@dataclass(slots=True)
class Attempt:
    """What came of one run of the app.

    Attributes:
        context: Which run, with the version of the policy that made it.
        recorder: What was captured; closed.
        result: What the app returned.
        error: What it raised.
        timed_out: Whether it was given up.
        policy_failed: Why the policy server gave no reply to it, or an empty text.
        seconds: Wall clock.
    """

    context: RolloutContext
    recorder: RunRecorder
    result: Any = None
    error: BaseException | None = None
    timed_out: bool = False
    policy_failed: str = ""
    seconds: float = 0.0


async def attempt(
    app: App, context: RolloutContext, sampling: Sampling, seconds: float, recorder: RunRecorder | None = None
) -> Attempt:
    """Run the app once.

    A run whose time is over is cancelled and left to itself, see `limited`; nothing that it does then is captured.

    Args:
        app: Called with the task.
        context: The run.
        sampling: How the policy is asked.
        seconds: Time for it.
        recorder: What captures it; by default a new one.
    """
    recorder = recorder or RunRecorder(uuid.uuid4().hex)
    began = time.monotonic()
    try:
        ending = await limited(_captured(app, context, sampling, recorder), seconds)
    finally:
        recorder.close()
    took = time.monotonic() - began
    failed = "" if ending.timed_out else policy_failure(recorder.events())
    return Attempt(context, recorder, ending.result, ending.error, ending.timed_out, failed, took)


async def _captured(app: App, context: RolloutContext, sampling: Sampling, recorder: RunRecorder) -> Any:
    parameters = {"temperature": sampling.temperature, **sampling.further}
    if sampling.seeded:
        parameters["seed"] = context.seed
    if context.policy_version is not None:
        parameters["model"] = context.policy_version
    _current.set(context)  # in this task's own context: nothing to reset
    with policy_overrides(sampling.url, **parameters), recorder.session():
        return await call(app, context.task)
