"""Forks: several continuations of one run from a decision on, of apps on either framework."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent

from tests.doubles import chat_policy
from toolorch_integrations import Budget
from toolorch_integrations.langgraph import create_orchestrator
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_rl.online import OnlineSettings, RolloutSource
from toolorch_rl.rollouts import (
    Forks,
    Group,
    LangGraphForks,
    LlamaIndexForks,
    Loss,
    PolicyServer,
    RolloutError,
    RolloutPlan,
    RolloutSettings,
    Sampling,
    after_fork,
    collect_forks,
)
from toolorch_rl.trace_rows import rollout_of

TASKS = [{"id": f"sum-{n}", "text": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(4)]
SETTINGS = RolloutSettings(repetitions=4, at_once=16, seconds=60, sampling=Sampling(seeded=True))
TWICE = RolloutSettings(repetitions=2, at_once=4, seconds=60)

MakeForks = Callable[..., Forks]


def by_seed(request: Any) -> Reply:
    """Look the sum up, then answer; wrongly for every fourth seed."""
    done = [message for message in request["messages"] if message["role"] == "tool"]
    if not done:
        return Reply(calls=[("look_up", {"what": request["messages"][-1]["content"]})])
    value = str(done[-1]["content"])
    return Reply("wrong" if request.get("seed", 1) % 4 == 0 else value)


def right(task: Any, trace: Any, result: Any) -> bool:
    """Compare the answer."""
    return bool(result == task["answer"])


def look_up(what: str) -> str:
    """Look a sum up."""
    return str(2 * int(what.split()[2]))


def llm(policy: ScriptedPolicy) -> PolicyLLM:
    """Return the policy as LlamaIndex has it."""
    return PolicyLLM(model="scripted", api_base=policy.url, max_retries=0)


def words(task: Any) -> dict[str, Any]:
    """Return what a LlamaIndex agent is given for a task."""
    return {"user_msg": task["text"]}


def on_langgraph(policy: ScriptedPolicy, tool: Any = look_up, **options: Any) -> Forks:
    """Return an orchestrator on LangGraph."""
    saver = InMemorySaver()
    return LangGraphForks(
        lambda: create_orchestrator(chat_policy(policy), [tool], budget=Budget(turns=2), checkpointer=saver),
        **{"inputs": lambda task: {"messages": [("user", task["text"])]}, **options},
    )


def on_llamaindex(policy: ScriptedPolicy, tool: Any = look_up, **options: Any) -> Forks:
    """Return an orchestrator on LlamaIndex."""
    return LlamaIndexForks(
        lambda: OrchestratorAgent(tools=[tool], llm=llm(policy), budget=Budget(turns=2)), **{"inputs": words, **options}
    )


def in_a_workflow(policy: ScriptedPolicy, tool: Any = look_up, **options: Any) -> Forks:
    """Return LlamaIndex's own agent, in a workflow, with the memory that LlamaIndex gives it."""
    return LlamaIndexForks(
        lambda: AgentWorkflow(agents=[FunctionAgent(name="clerk", description="Adds.", tools=[tool], llm=llm(policy))]),
        **{"inputs": words, **options},
    )


both_faces = pytest.mark.parametrize("make", [on_langgraph, on_llamaindex])


@pytest.fixture
def policy() -> Iterator[ScriptedPolicy]:
    """A scripted policy."""
    with ScriptedPolicy(by_seed) as served:
        yield served


async def groups_of(forks: Forks, tasks: Any, plan: RolloutPlan) -> list[Group]:
    """Return the groups of tasks."""
    return [group async for group in collect_forks(forks, tasks, plan)]


@pytest.mark.parametrize("decision", [0, 1])
@pytest.mark.parametrize("make", [on_langgraph, on_llamaindex, in_a_workflow])
async def test_forks_share_what_came_before_the_decision(
    policy: ScriptedPolicy, make: MakeForks, decision: int
) -> None:
    looked_up: list[str] = []

    def look_up(what: str) -> str:
        """Look a sum up."""
        looked_up.append(what)
        return str(2 * int(what.split()[2]))

    seen: list[int] = []

    def choose(decisions: int, seed: int) -> int:
        seen.append(decisions)
        return decision

    found = await groups_of(make(policy, look_up, choose=choose), TASKS[1:3], RolloutPlan(right, SETTINGS))

    assert sorted(group.key for group in found) == ["sum-1", "sum-2"]
    assert seen == [2, 2]
    assert len(looked_up) == (2 if decision else 8)  # forks of the second decision do nothing again
    assert len(policy.requests) == (10 if decision else 16)
    for group in found:
        assert len(group.runs) == 4
        assert not group.lost
        whole = [rollout_of(run.trace) for run in group.runs]
        parts = [after_fork(rollout, run.fork) for rollout, run in zip(whole, group.runs, strict=True)]
        for run, rollout, part in zip(group.runs, whole, parts, strict=True):
            assert run.trace.totals.turns == 2
            assert run.trace.totals.calls == 1
            assert run.trace.request == group.task["text"]
            assert run.trace.status == "answered"  # and so are its turns: the budget of two is not overdrawn
            assert run.verdict.passed == (run.context.seed % 4 != 0)
            assert (run.fork > 0) == (decision > 0)
            if decision:
                assert part.trained_tokens == len(run.trace.graph.nodes[-1].token_ids)
                assert 0 < part.trained_tokens < rollout.trained_tokens
        first = [node.ids for node in group.runs[0].trace.graph.nodes[: group.runs[0].fork]]
        for run in group.runs[1:]:
            assert [node.ids for node in run.trace.graph.nodes[: run.fork]] == first


@both_faces
async def test_forks_go_on_from_the_run_that_was_made_again(make: MakeForks) -> None:
    served = ["policy-v1"]

    def script(request: Any) -> Reply:
        reply = by_seed(request)
        return Reply("out of memory", status=500) if reply.content and served == ["policy-v1"] else reply

    class Healing(PolicyServer):
        async def ready(self) -> None:
            served.append("policy-v2")

    with ScriptedPolicy(script) as policy:
        plan = RolloutPlan(right, TWICE, Healing(policy.url), version=lambda: served[-1])
        [group] = await groups_of(make(policy, choose=lambda decisions, seed: 1), TASKS[:1], plan)
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


async def test_groups_of_forks_do_not_wait_for_the_next_task(policy: ScriptedPolicy) -> None:
    given = asyncio.Event()
    found: list[Group] = []

    async def tasks() -> AsyncIterator[Any]:
        yield TASKS[0]
        await given.wait()

    async for group in collect_forks(on_langgraph(policy), tasks(), RolloutPlan(right, TWICE)):
        found.append(group)
        given.set()
    assert [len(group.runs) for group in found] == [2]


@both_faces
async def test_a_task_that_the_app_cannot_begin_loses_its_group_and_no_other(
    policy: ScriptedPolicy, make: MakeForks
) -> None:
    def inputs(task: Any) -> Any:
        if task["id"] == "sum-0":
            raise KeyError("text")
        return words(task) if make is on_llamaindex else {"messages": [("user", task["text"])]}

    found = await groups_of(make(policy, inputs=inputs), TASKS[:2], RolloutPlan(right, TWICE))

    lost, whole = sorted(found, key=lambda group: group.number)
    assert [(run.context.repetition, run.loss) for run in lost.lost] == [(0, Loss.EMPTY), (1, Loss.EMPTY)]
    assert "KeyError" in lost.lost[1].detail
    assert len(whole.runs) == 2


async def test_a_run_of_another_workflow_in_a_tool_has_no_part_in_the_decisions(policy: ScriptedPolicy) -> None:
    decisions: list[int] = []

    async def look_up(what: str) -> str:
        """Have another agent look a sum up."""
        with ScriptedPolicy(["found"]) as other:
            assert str(await FunctionAgent(llm=llm(other)).run(user_msg=what)) == "found"
        return str(2 * int(what.split()[2]))

    def choose(number: int, seed: int) -> int:
        decisions.append(number)
        return 1

    [group] = await groups_of(on_llamaindex(policy, look_up, choose=choose), TASKS[1:2], RolloutPlan(right, TWICE))

    assert decisions == [2]
    assert [run.verdict.passed for run in group.runs] == [True, True]


def test_online_training_forks_apps_of_either_framework(policy: ScriptedPolicy) -> None:
    forks = on_llamaindex(policy, choose=lambda decisions, seed: 1)
    source = RolloutSource(forks, TASKS, right, OnlineSettings(groups=2, rollouts=SETTINGS))
    try:
        examples = source.next_batch(0, "policy")
    finally:
        source.close()
    assert examples
    for example in examples:
        row = example.row
        assert row.trained.any()
        assert set(row.nodes[row.trained].tolist()) == {row.leaf}  # the answer, and not the call before it


# --- apps that cannot be forked ---


async def test_forks_need_a_checkpointer(policy: ScriptedPolicy) -> None:
    forks = LangGraphForks(
        make_agent=lambda: create_orchestrator(chat_policy(policy), [look_up]),
        inputs=lambda task: {"messages": [("user", task["text"])]},
    )
    with pytest.raises(RolloutError, match="checkpointer"):
        await groups_of(forks, TASKS[:1], RolloutPlan(right, SETTINGS))
    assert not policy.requests


@pytest.mark.parametrize(("make", "option"), [(on_langgraph, "node"), (on_llamaindex, "step")])
async def test_the_place_where_the_policy_decides_has_to_be_named(
    policy: ScriptedPolicy, make: MakeForks, option: str
) -> None:
    with pytest.raises(RolloutError, match=rf"never came to the {option} 'thinking': .*\({option}\)"):
        await groups_of(make(policy, **{option: "thinking"}), TASKS[:1], RolloutPlan(right, SETTINGS))


async def test_what_is_no_workflow_is_refused(policy: ScriptedPolicy) -> None:
    forks = LlamaIndexForks(lambda: policy, words)
    with pytest.raises(RolloutError, match="must return a LlamaIndex agent or workflow, not ScriptedPolicy"):
        await groups_of(forks, TASKS[:1], RolloutPlan(right, SETTINGS))


async def test_a_context_that_cannot_be_stored_is_named(policy: ScriptedPolicy) -> None:
    def look_up(what: str) -> Any:
        """Look a sum up."""
        return policy  # no JSON value

    with pytest.raises(RolloutError, match=r"context cannot be stored: .*current_tool_calls"):
        await groups_of(in_a_workflow(policy, look_up), TASKS[:1], RolloutPlan(right, TWICE))
