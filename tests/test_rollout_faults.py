"""Rollouts whose parts fail: verifiers that hang, closing in mid-run, forks of a run that was made again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tests.doubles import app_of, chat_policy
from toolorch_integrations.events import TraceEnded
from toolorch_integrations.langgraph import create_orchestrator
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_rl.rollouts import (
    Group,
    LangGraphForks,
    Loss,
    PolicyServer,
    RolloutContext,
    RolloutError,
    RolloutPlan,
    RolloutSettings,
    Sampling,
    collect,
    collect_forks,
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


# --- forks


def look_up(what: str) -> str:
    """Look something up."""
    return f"All about {what}."


def forks_of(policy: ScriptedPolicy) -> LangGraphForks:
    saver = InMemorySaver()
    return LangGraphForks(
        make_agent=lambda: create_orchestrator(chat_policy(policy), [look_up], checkpointer=saver),
        inputs=lambda task: {"messages": [("user", task["text"])]},
        choose=lambda decisions, seed: decisions - 1,
    )


def looks_up(request: Any) -> Reply:
    if any(message["role"] == "tool" for message in request["messages"]):
        return Reply("yes")
    return Reply(calls=[("look_up", {"what": "it"})])


async def test_forks_go_on_from_the_run_that_was_made_again() -> None:
    served = ["policy-v1"]

    def script(request: Any) -> Reply:
        reply = looks_up(request)
        return Reply("out of memory", status=500) if reply.content and served == ["policy-v1"] else reply

    class Healing(PolicyServer):
        async def ready(self) -> None:
            served.append("policy-v2")

    with ScriptedPolicy(script) as policy:
        plan = RolloutPlan(yes, TWICE, Healing(policy.url), version=lambda: served[-1])
        [group] = [group async for group in collect_forks(forks_of(policy), TASKS[:1], plan)]
    assert served == ["policy-v1", "policy-v2"]  # the fork did not fail
    trunk, fork = group.runs
    assert trunk.fork == fork.fork == 3  # instructions, request, first turn
    for run in (trunk, fork):
        assert run.verdict.passed
        assert run.context.policy_version == "policy-v2"
        assert run.trace.totals.turns == 2
    prefixes = [[node.ids for node in run.trace.graph.nodes[: run.fork]] for run in (trunk, fork)]
    assert prefixes[0] == prefixes[1]
    assert [request["model"] for request in policy.requests] == ["policy-v1"] * 2 + ["policy-v2"] * 3


async def test_groups_of_forks_do_not_wait_for_the_next_task() -> None:
    given = asyncio.Event()
    found: list[Group] = []

    async def tasks() -> AsyncIterator[Any]:
        yield TASKS[0]
        await given.wait()

    with ScriptedPolicy(looks_up) as policy:
        async for group in collect_forks(forks_of(policy), tasks(), RolloutPlan(yes, TWICE)):
            found.append(group)
            given.set()
    assert [len(group.runs) for group in found] == [2]
