"""Rollouts whose parts fail: verifiers that hang, closing in mid-run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from tests.doubles import app_of
from toolorch_integrations.events import TraceEnded
from toolorch_integrations.testing import ScriptedPolicy
from toolorch_rl.rollouts import (
    Loss,
    RolloutContext,
    RolloutError,
    RolloutPlan,
    RolloutSettings,
    Sampling,
    collect,
    rollouts,
)
from toolorch_rl.rollouts.attempt import attempt
from toolorch_rl.rollouts.recording import RunRecorder

TASKS = [{"id": f"task-{number}", "text": f"Choose {number}."} for number in range(4)]
TWICE = RolloutSettings(repetitions=2, at_once=4, seconds=60)


@pytest.fixture
def policy() -> Iterator[ScriptedPolicy]:
    """A scripted policy that says yes."""
    with ScriptedPolicy(lambda request: "yes") as served:
        yield served


def yes(task: Any, trace: Any, result: Any) -> bool:
    """Only yes is right."""
    return bool(result == "yes")


class Hanging:
    """An app that never ends by itself."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, task: Any) -> str:
        """Wait."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "never"


# --- cancelling


async def test_cancelling_whoever_waits_for_a_run_cancels_the_run() -> None:
    app, recorder = Hanging(), RunRecorder("a" * 32)
    context = RolloutContext(TASKS[0], "task-0", 0, 0, 1)
    waiting = asyncio.create_task(attempt(app, context, Sampling(), 600, recorder))
    await app.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert app.cancelled == 1
    recorder.put(TraceEnded("a" * 32))
    assert recorder.events() == []  # it is closed


async def test_closing_cancels_what_runs_at_once(policy: ScriptedPolicy) -> None:
    hanging, quick = Hanging(), app_of(policy)

    async def app(task: Any) -> str:
        return await (hanging(task) if task["id"] == "task-0" else quick(task))

    plan = RolloutPlan(yes, RolloutSettings(repetitions=1, at_once=4, seconds=600))
    async with aclosing(collect(app, TASKS, plan)) as groups:
        assert (await anext(groups)).key != "task-0"
        await hanging.begun.wait()
    assert hanging.cancelled == 1


async def test_tasks_that_cancel_themselves_end_it(policy: ScriptedPolicy) -> None:
    async def tasks() -> AsyncIterator[Any]:
        yield TASKS[0]
        raise asyncio.CancelledError

    with pytest.raises(RolloutError, match="cancelled"):
        async for _ in collect(app_of(policy), tasks(), RolloutPlan(yes, TWICE)):
            pass


# --- verifiers


async def waits(*_: Any) -> bool:
    return await asyncio.Event().wait()


def blocks(*_: Any) -> bool:
    return threading.Event().wait(60)  # in a thread that nobody waits for


async def holds_out(*_: Any) -> bool:
    try:
        return await asyncio.Event().wait()
    except asyncio.CancelledError:
        return await asyncio.Event().wait()


async def cancels_itself(*_: Any) -> bool:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("verify", "why"),
    [
        (waits, "gave no verdict within 0.2 s"),
        (blocks, "gave no verdict within 0.2 s"),
        (holds_out, "gave no verdict within 0.2 s"),
        (cancels_itself, "CancelledError: it was cancelled from inside"),
    ],
)
def test_a_verifier_without_a_verdict_loses_the_run_and_holds_up_no_other(
    policy: ScriptedPolicy, verify: Any, why: str
) -> None:
    settings = RolloutSettings(repetitions=2, at_once=1, seconds=60, verify_seconds=0.2)
    [group] = rollouts(app_of(policy), TASKS[:1], verify, settings)
    assert [run.loss for run in group.lost] == [Loss.VERIFIER] * 2
    assert all(why in run.detail for run in group.lost)


def test_a_verifier_needs_time() -> None:
    with pytest.raises(RolloutError, match="verify_seconds is 0"):
        RolloutSettings(verify_seconds=0)
