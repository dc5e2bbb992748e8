"""One run of the app on a task: captured, with its seed and policy version, and given up when its time is over."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.overrides import policy_overrides
from toolorch_integrations.workers import submit
from toolorch_rl.pools import is_async
from toolorch_rl.rollouts.context import RolloutContext, _current
from toolorch_rl.rollouts.recording import RunRecorder, policy_failure

App = Callable[[Any], Any]
"""Runs the app on a task and returns its result: a plain function, or a coroutine function."""

_GRACE = 1.0
"""Seconds that a cancelled run has to end by itself."""


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
        recorder: What was captured; closed.
        result: What the app returned.
        error: What it raised.
        timed_out: Whether it was given up.
        policy_failed: Why the policy server gave no reply to it, or an empty text.
        seconds: Wall clock.
    """

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

    A run whose time is over is cancelled and left to itself: it may hang in a thread that nobody can stop, and nobody
    waits for it.

    Args:
        app: Called with the task.
        context: The run.
        sampling: How the policy is asked.
        seconds: Time for it.
        recorder: What captures it; by default a new one.
    """
    recorder = recorder or RunRecorder(uuid.uuid4().hex)
    began = time.monotonic()
    task = asyncio.create_task(_captured(app, context, sampling, recorder))
    done, _ = await asyncio.wait({task}, timeout=seconds)
    made = Attempt(recorder, timed_out=not done)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
    recorder.close()
    made.seconds = time.monotonic() - began
    if done:
        try:
            made.result = task.result()
        except asyncio.CancelledError as error:
            made.error = error  # the app's own cancelling: a cancelled rollout does not come here
        except Exception as error:
            made.error = error
        made.policy_failed = policy_failure(recorder.events())
    elif task.done():
        with suppress(asyncio.CancelledError, Exception):
            task.exception()  # it has been heard of
    return made


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a coroutine function here, and a plain function in a thread."""
    if is_async(function):
        return await function(*arguments)
    result = await asyncio.wrap_future(submit(lambda: function(*arguments)))
    return await result if isinstance(result, Awaitable) else result


async def _captured(app: App, context: RolloutContext, sampling: Sampling, recorder: RunRecorder) -> Any:
    parameters = {"temperature": sampling.temperature, **sampling.further}
    if sampling.seeded:
        parameters["seed"] = context.seed
    if context.policy_version is not None:
        parameters["model"] = context.policy_version
    _current.set(context)  # in this task's own context: nothing to reset
    with policy_overrides(sampling.url, **parameters), recorder.session():
        return await call(app, context.task)
