"""Rollouts: many runs at once, judged and rewarded; hung tools, dying servers, verifiers that fail, workers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_policy as tiny
from tests.doubles import chat_policy
from toolorch_integrations import Preferences
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_rl.rollouts import (
    Loss,
    PolicyDownError,
    PolicyServer,
    RolloutError,
    RolloutPlan,
    RolloutSettings,
    Sampling,
    collect,
    current_rollout,
    report,
    rewards_of,
    rollouts,
    spread_rollouts,
)
from toolorch_rl.trace_rows import rollout_of
from toolorch_rl.verifiers.verdict import Verdict
from toolorch_serving.embedded import EmbeddedServer


@dataclass(frozen=True)
class Sum:
    """A task: add two numbers."""

    id: str
    text: str
    answer: str


TASKS = [Sum(f"sum-{n}", f"What is {n} + {n}?", str(2 * n)) for n in range(8)]


def by_seed(request: Any) -> Reply:
    """Look the sum up, then answer; wrongly for every fourth seed."""
    done = [message for message in request["messages"] if message["role"] == "tool"]
    if not done:
        return Reply(calls=[("look_up", {"what": request["messages"][-1]["content"]})])
    value = str(done[-1]["content"])
    return Reply("wrong" if request.get("seed", 1) % 4 == 0 else value)


def look_up(what: str) -> str:
    """Look a sum up."""
    return str(2 * int(what.split()[2]))


def verify(task: Sum, trace: Any, result: Any) -> Verdict:
    """Compare the answer."""
    return Verdict(float(result == task.answer), result == task.answer, f"the answer is {result}")


@pytest.fixture
def policy() -> Iterator[ScriptedPolicy]:
    """A scripted policy."""
    with ScriptedPolicy(by_seed) as served:
        yield served


def app_of(policy: ScriptedPolicy, tool: Any = look_up, **options: Any) -> Any:
    """Return an app on LangGraph."""
    agent = create_orchestrator(chat_policy(policy), [tool], **options)

    async def app(task: Sum) -> str:
        result = await agent.ainvoke(
            {"messages": [("user", task.text)]}, context={"preferences": Preferences(cost=0.5)}
        )
        return str(result["messages"][-1].text)

    return app


SEEDED = RolloutSettings(repetitions=4, at_once=16, seconds=30, sampling=Sampling(seeded=True))


def test_runs_are_captured_judged_and_rewarded(policy: ScriptedPolicy, tmp_path: Path) -> None:
    store = TraceStore.open(tmp_path / "traces.db")
    groups = rollouts(app_of(policy), TASKS, verify, SEEDED, store=store, version="policy-v3")
    assert [group.key for group in groups] == [task.id for task in TASKS]
    runs = [run for group in groups for run in group.runs]
    assert [run.context.repetition for run in runs] == [0, 1, 2, 3] * 8
    for run in runs:
        assert run.verdict.passed == (run.context.seed % 4 != 0)
        assert run.trace.metadata["task"] == run.context.key
        assert run.trace.metadata["rollout"]["seed"] == run.context.seed
        assert run.trace.preferences is not None
        assert run.trace.preferences["cost"] == 0.5
        turn = run.trace.graph.nodes[-1].turn
        assert turn is not None
        assert turn.sampling["seed"] == run.context.seed
        assert turn.sampling["temperature"] == 1.0
        assert run.trace.exact
        assert rollout_of(run.trace).trained_tokens > 0
        assert store.trace(run.trace.id).metadata["task"] == run.context.key
    assert len({run.context.seed for run in runs}) == len(runs)
    assert {request["model"] for request in policy.requests} == {"policy-v3"}
    rewards = rewards_of(groups)
    assert rewards.weights.tolist() == [[0.0, 1.0, 0.5, 0.0]] * 32
    assert np.array_equal(rewards.scalars > 0, [run.verdict.passed for run in runs])
    assert report(groups) == "32 runs of 8 tasks"
    store.close()


def test_the_same_seed_makes_the_same_runs(policy: ScriptedPolicy) -> None:
    first, again = (rollouts(app_of(policy), TASKS[:3], verify, SEEDED) for _ in range(2))
    seeds = [[run.context.seed for group in groups for run in group.runs] for groups in (first, again)]
    assert seeds[0] == seeds[1]
    later = rollouts(app_of(policy), TASKS[1:3], verify, SEEDED, start=1)
    assert [run.context.seed for group in later for run in group.runs] == seeds[0][4:]


def test_a_plain_function_gets_a_thread_and_one_trace(policy: ScriptedPolicy) -> None:
    threads = set()

    def app(task: Sum) -> str:
        rollout = current_rollout()
        assert rollout is not None
        assert rollout.task is task
        threads.add(threading.current_thread().name)
        model = chat_policy(policy)  # two calls outside of any graph are one run all the same
        model.invoke("first")
        return str(model.invoke("second").text)

    settings = RolloutSettings(repetitions=2, at_once=4, seconds=30)
    [group] = rollouts(app, TASKS[:1], lambda task, trace, result: 1.0, settings)
    assert "MainThread" not in threads
    for run in group.runs:
        assert [node.role for node in run.trace.graph.nodes] == ["user", "assistant", "user", "assistant"]
        assert run.verdict.passed


def light_app(policy: ScriptedPolicy, hangs: Any) -> Any:
    """Return an app without a graph, whose tool runs in the loop's threads and hangs where `hangs` says so."""
    model = chat_policy(policy)
    release = threading.Event()

    def tool(question: str) -> str:
        rollout = current_rollout()
        assert rollout is not None
        if hangs(rollout):
            release.wait(300)
        return look_up(question)

    async def app(task: Sum) -> str:
        await model.ainvoke(task.text)
        return await asyncio.to_thread(tool, task.text)

    return app, release


def test_a_hung_tool_in_one_of_64_runs_stops_no_other(policy: ScriptedPolicy) -> None:
    app, release = light_app(policy, lambda rollout: rollout.key == "sum-3" and rollout.repetition == 5)
    groups = rollouts(app, TASKS, verify, RolloutSettings(repetitions=8, at_once=64, seconds=6))
    release.set()
    [lost] = [run for group in groups for run in group.lost]
    assert (lost.context.key, lost.context.repetition, lost.loss) == ("sum-3", 5, Loss.TIMEOUT)
    assert report(groups) == "63 runs of 8 tasks; lost: 1 by timeout"
    assert len(rewards_of(groups).runs) == 63


def test_hung_tools_do_not_use_up_the_threads(policy: ScriptedPolicy) -> None:
    app, release = light_app(policy, lambda rollout: rollout.key != "sum-7")
    groups = rollouts(app, TASKS, verify, RolloutSettings(repetitions=8, at_once=64, seconds=6))
    release.set()
    assert [len(group.runs) for group in groups] == [0] * 7 + [8]


def test_an_app_that_raises_has_not_solved_its_task(policy: ScriptedPolicy) -> None:
    async def app(task: Sum) -> str:
        await app_of(policy)(task)
        raise RuntimeError("no room")

    [group] = rollouts(app, TASKS[:1], verify, RolloutSettings(repetitions=2, seconds=30))
    assert [(run.verdict.passed, run.error) for run in group.runs] == [(False, "RuntimeError: no room")] * 2


def test_what_cannot_be_judged_is_lost_and_counted(policy: ScriptedPolicy) -> None:
    def broken(task: Sum, trace: Any, result: Any) -> float:
        return 7.0

    async def silent(task: Sum) -> str:
        return "2"

    settings = RolloutSettings(repetitions=2, seconds=30)
    assert "2 by verifier" in report(rollouts(app_of(policy), TASKS[:1], broken, settings))
    assert "2 by nothing captured" in report(rollouts(silent, TASKS[:1], verify, settings))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RolloutError, match="repetitions is 0"):
        RolloutSettings(repetitions=0)
    with pytest.raises(RolloutError, match="temperature is 0"):
        RolloutSettings(sampling=Sampling(temperature=0.0))


def test_a_run_whose_policy_fails_is_made_again_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    failing = threading.Event()
    failing.set()
    first = threading.Event()

    def script(request: Any) -> Reply:
        if failing.is_set() and any(message["role"] == "tool" for message in request["messages"]):
            first.set()
            return Reply("out of memory", status=500)
        return by_seed(request)

    class Server:
        """Heals when it is waited for."""

        running = True

        def __init__(self, url: str) -> None:
            self.root_url = url

        def start(self) -> None:
            """Never asked for."""

        def stop(self) -> None:
            """Never asked for."""

    class Healing(PolicyServer):
        async def ready(self) -> None:
            failing.clear()

    store = TraceStore.open(tmp_path / "traces.db")
    with ScriptedPolicy(script) as policy:
        agent = app_of(policy)
        settings = RolloutSettings(repetitions=4, at_once=4, seconds=60, attempts=3)
        [group] = rollouts(agent, TASKS[1:2], verify, settings, server=Healing(Server(policy.url)), store=store)
    assert first.is_set()
    assert not group.lost
    assert len(group.runs) == 4
    assert all(trace.status == "answered" for trace in store.full_traces())
    assert len(list(store.traces())) == 4
    for run in group.runs:
        assert run.trace.totals.turns == 2
        assert rollout_of(run.trace).trained_tokens > 0
    store.close()


def test_a_server_that_stays_away_ends_the_rollouts() -> None:
    def script(request: Any) -> Reply:
        return Reply("gone", status=500)

    server = PolicyServer("http://127.0.0.1:9", seconds=0.5)
    settings = RolloutSettings(repetitions=2, seconds=60)
    with ScriptedPolicy(script) as broken:
        app = app_of(broken)
        with pytest.raises(PolicyDownError, match="has not answered"):
            rollouts(app, TASKS[:1], verify, settings, server=server)


def test_without_a_server_to_wait_for_a_failing_policy_loses_the_run() -> None:
    def script(request: Any) -> Reply:
        return Reply("gone", status=500)

    with ScriptedPolicy(script) as broken:
        settings = RolloutSettings(repetitions=2, seconds=60, attempts=2)
        [group] = rollouts(app_of(broken), TASKS[:1], verify, settings)
    assert [run.loss for run in group.lost] == [Loss.POLICY] * 2


@pytest.mark.slow
def test_a_server_that_is_killed_is_started_again(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "tiny", lessons=())
    with EmbeddedServer(folder, dtype="float32", progress=False) as server:
        model = ChatPolicy(model=server.name, base_url=server.url, max_tokens=24, max_retries=0, timeout=30)
        killed = threading.Event()

        async def app(task: Sum) -> str:
            reply = await model.ainvoke(task.text)
            if not killed.is_set():
                killed.set()
                assert server._process is not None
                os.kill(_child_of(server._process.pid), signal.SIGKILL)
            await asyncio.sleep(0.05)
            return str((await model.ainvoke([("user", task.text), reply, ("user", "And?")])).text)

        watched = PolicyServer(server)
        settings = RolloutSettings(repetitions=4, at_once=8, seconds=120, attempts=4)
        groups = rollouts(app, TASKS[:4], lambda task, trace, result: 1.0, settings, server=watched)
    assert watched.restarts == 1
    assert report(groups) == "16 runs of 4 tasks"
    for group in groups:
        for run in group.runs:
            assert run.trace.totals.turns == 2
            assert run.trace.exact


def _child_of(guard: int) -> int:
    """Return the process that a guard watches."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == guard:
                return int(entry.name)
    raise AssertionError("the server has no process")


def test_groups_come_as_they_are_ready_and_closing_cancels_the_rest(policy: ScriptedPolicy) -> None:
    async def app(task: Sum) -> str:
        if task.id == "sum-0":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(task.id)
                raise
        return str(await app_of(policy)(task))

    async def first() -> str:
        groups = collect(app, TASKS, RolloutPlan(verify, RolloutSettings(repetitions=1, at_once=4, seconds=600)))
        async for group in groups:
            await groups.aclose()  # type: ignore[attr-defined]
            return group.key
        raise AssertionError("no group came")

    cancelled: list[str] = []
    assert asyncio.run(first()) != "sum-0"
    assert cancelled == ["sum-0"]


# --- workers ---


class RemoteApp:
    """An app that travels to other processes."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, task: Sum) -> str:
        """Ask the policy twice."""
        agent = create_orchestrator(ChatPolicy(model="scripted", base_url=self.url), [look_up])
        return str(agent.invoke({"messages": [("user", task.text)]})["messages"][-1].text)


def test_threads_give_the_runs_that_one_process_gives(policy: ScriptedPolicy) -> None:
    spread = spread_rollouts(RemoteApp(policy.url), TASKS, verify, SEEDED, workers=2, backend="threads")
    found = sorted(spread, key=lambda group: group.number)
    alone = rollouts(RemoteApp(policy.url), TASKS, verify, SEEDED)
    assert [run.context.seed for group in found for run in group.runs] == [
        run.context.seed for group in alone for run in group.runs
    ]
    assert all(run.verdict.passed == (run.context.seed % 4 != 0) for group in found for run in group.runs)


@pytest.mark.slow
def test_two_ray_workers_share_the_tasks(policy: ScriptedPolicy) -> None:
    pytest.importorskip("ray")
    spread = spread_rollouts(
        RemoteApp(policy.url), TASKS, verify, SEEDED, workers=2, backend="ray", tasks_at_a_time=2, cpus=0.5
    )
    found = sorted(spread, key=lambda group: group.number)
    assert [group.key for group in found] == [task.id for task in TASKS]
    assert report(found) == "32 runs of 8 tasks"
    assert all(run.verdict.passed == (run.context.seed % 4 != 0) for group in found for run in group.runs)
    assert np.isfinite(rewards_of(found).advantages).all()


def test_a_llamaindex_agent_is_rolled_out_like_any_app(policy: ScriptedPolicy) -> None:
    from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM

    async def app(task: Sum) -> str:
        llm = PolicyLLM(model="scripted", api_base=policy.url)
        agent = OrchestratorAgent(tools=[look_up], llm=llm, preferences=Preferences(cost=0.5))
        return str(await agent.run(user_msg=task.text))

    groups = rollouts(app, TASKS[:2], verify, SEEDED, version="policy-v9")
    assert report(groups) == "8 runs of 2 tasks"
    for group in groups:
        for run in group.runs:
            assert run.verdict.passed == (run.context.seed % 4 != 0)
            assert run.trace.totals.turns == 2
            assert rollout_of(run.trace).trained_tokens > 0
            [turn] = {node.turn.sampling["seed"] for node in run.trace.graph.nodes if node.turn is not None}
            assert turn == run.context.seed
    assert {request["model"] for request in policy.requests} == {"policy-v9"}
