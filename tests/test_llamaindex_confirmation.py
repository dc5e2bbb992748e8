"""A person's yes in the LlamaIndex face: asked before anything of the turn runs, in this process or in another."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from workflows.errors import WorkflowCancelledByUser

from toolorch_integrations import Budget, Catalog, CatalogFilter, Price, Tool
from toolorch_integrations.capture import capture
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import CallStatus
from toolorch_integrations.llamaindex import ConfirmationRequired, OrchestratorAgent, PolicyLLM, ledger_of
from toolorch_integrations.llamaindex.state import load, save
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy

APPROVE = {"type": "approve"}


class Shop:
    """Tools that note what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def delete_order(self, number: int) -> str:
        """Delete an order."""
        self.done.append(f"delete {number}")
        return f"deleted {number}"

    def look(self, number: int) -> str:
        """Look at an order."""
        self.done.append(f"look {number}")
        return f"order {number}"

    @property
    def tools(self) -> list[Any]:
        return [self.delete_order, self.look]


def script(*calls: tuple[str, dict[str, Any]]) -> list[Reply | str]:
    return [Reply(calls=calls), "Done."]


ONE = script(("look", {"number": 1}), ("delete_order", {"number": 1}))
TWO = script(("delete_order", {"number": 1}), ("delete_order", {"number": 2}))


def agent_for(policy: ScriptedPolicy, shop: Shop, **options: Any) -> OrchestratorAgent:
    return OrchestratorAgent(tools=shop.tools, llm=PolicyLLM("scripted", policy.url, max_retries=0), **options)


async def answered(handler: Any, *answers: dict[str, Any]) -> tuple[str, list[ConfirmationRequired]]:
    """Answer each question with the next answer; return the run's answer and the questions."""
    asked: list[ConfirmationRequired] = []
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            assert isinstance(event, ConfirmationRequired)
            asked.append(event)
            handler.ctx.send_event(HumanResponseEvent(**answers[len(asked) - 1]))
    return str(await handler), asked


async def test_nothing_runs_and_nothing_is_spent_before_the_yes() -> None:
    shop = Shop()
    with ScriptedPolicy(ONE) as policy:
        agent = agent_for(policy, shop, catalog=Catalog([Tool(name="look", price=Price(call=0.1))]))
        handler = agent.run(user_msg="Clean up.")
        async for event in handler.stream_events():
            if isinstance(event, ConfirmationRequired):
                await asyncio.sleep(0.05)
                assert shop.done == []
                assert (await ledger_of(handler.ctx)).dollars == 0
                assert [request["name"] for request in event.action_requests] == ["delete_order"]
                assert event.action_requests[0]["args"] == {"number": 1}
                assert "delete_order {'number': 1}" in event.prefix
                handler.ctx.send_event(HumanResponseEvent(decisions=[APPROVE]))
        assert str(await handler) == "Done."
        assert [call.name for call in await ledger_of(handler.ctx) if call.confirmed] == ["delete_order"]
    assert sorted(shop.done) == ["delete 1", "look 1"]
    assert len(policy.requests) == 2


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        ({"decisions": [APPROVE, {"type": "reject", "message": "no"}]}, ["delete 1"]),
        ({"response": "yes"}, ["delete 1", "delete 2"]),
        ({"response": "no"}, []),
        ({"response": "not on Fridays"}, []),
    ],
)
async def test_answers(answer: dict[str, Any], done: list[str]) -> None:
    shop = Shop()
    with ScriptedPolicy(TWO) as policy:
        handler = agent_for(policy, shop).run(user_msg="Clean up.")
        assert (await answered(handler, answer))[0] == "Done."
        refused = [call for call in await ledger_of(handler.ctx) if call.status is CallStatus.REFUSED]
    assert sorted(shop.done) == done
    assert len(refused) == 2 - len(done)
    results = [m["content"] for m in policy.requests[1]["messages"] if m["role"] == "tool"]
    if answer.get("response") == "not on Fridays":
        assert results == ["The user refused the call of delete_order: not on Fridays. Do not repeat it."] * 2


async def test_an_answer_that_cannot_be_used_is_asked_for_again() -> None:
    shop = Shop()
    answers = [
        {"decisions": [APPROVE]},
        {"decisions": [APPROVE, {"type": "perhaps"}]},
        {"decisions": [APPROVE, {"type": "edit", "edited_action": {"name": "fly", "args": {}}}]},
        {"words": "hm"},
        {"decisions": [APPROVE, APPROVE]},
    ]
    with ScriptedPolicy(TWO) as policy:
        handler = agent_for(policy, shop).run(user_msg="Clean up.", max_iterations=3)  # asking again is no step
        answer, asked = await answered(handler, *answers)
    assert answer == "Done."
    assert [bool(event.problem) for event in asked] == [False, True, True, True, True]
    assert "1 decisions, and 2" in asked[1].problem
    assert "'perhaps'" in asked[2].problem
    assert "'fly'" in asked[3].problem
    assert sorted(shop.done) == ["delete 1", "delete 2"]
    assert len(policy.requests) == 2


async def test_an_edited_call_may_become_another_tool_under_its_alias() -> None:
    shop = Shop()
    edit = {"type": "edit", "edited_action": {"name": "look", "args": {"number": 7}}}
    with ScriptedPolicy(script(("drop", {"number": 1}))) as policy:
        changes = CatalogFilter(aliases={"delete_order": "drop", "look": "peek"})
        handler = agent_for(policy, shop, changes=changes).run(user_msg="Clean up.")
        await answered(handler, {"decisions": [edit]})
        assert [call.name for call in await ledger_of(handler.ctx)] == ["scripted", "look", "scripted"]
    assert shop.done == ["look 7"]
    assert "Executed instead: look with arguments" in policy.requests[1]["messages"][-1]["content"]


async def test_a_person_may_answer_in_the_tools_place() -> None:
    shop = Shop()
    with ScriptedPolicy(TWO) as policy:
        decisions = [{"type": "respond", "message": "It is gone already."}] * 2
        await answered(agent_for(policy, shop).run(user_msg="Clean up."), {"decisions": decisions})
    assert shop.done == []
    assert policy.requests[1]["messages"][-1]["content"] == "It is gone already."


async def test_waiting_does_not_count_as_time_of_the_run() -> None:
    shop = Shop()
    with ScriptedPolicy(ONE) as policy:
        handler = agent_for(policy, shop, budget=Budget(seconds=1.0)).run(user_msg="Clean up.")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                await asyncio.sleep(1.2)
                handler.ctx.send_event(HumanResponseEvent(decisions=[APPROVE]))
        assert str(await handler) == "Done."
    assert sorted(shop.done) == ["delete 1", "look 1"]


async def test_a_destructive_call_that_the_budget_forbids_is_not_made_after_the_yes() -> None:
    shop = Shop()
    catalog = Catalog([Tool(name="delete_order", price=Price(call=1.0)), Tool(name="look", price=Price(call=0.2))])
    calls = [("look", {"number": 1}), ("delete_order", {"number": 1}), ("delete_order", {"number": 2})]
    with ScriptedPolicy(script(*calls)) as policy:
        agent = agent_for(policy, shop, catalog=catalog, budget=Budget(dollars=1.0))
        await answered(agent.run(user_msg="Clean up."), {"response": "yes"})
    assert sorted(shop.done) == ["delete 1", "look 1"]


async def test_what_is_declared_wins_over_the_name_and_the_app_may_do_it_itself() -> None:
    shop = Shop()
    with ScriptedPolicy(ONE) as policy:
        declared = Catalog([Tool(name="delete_order", destructive=False), Tool(name="look", destructive=True)])
        _, asked = await answered(
            agent_for(policy, shop, catalog=declared).run(user_msg="Clean up."), {"response": "yes"}
        )
        assert [request["name"] for request in asked[0].action_requests] == ["look"]
        _, asked = await answered(agent_for(policy, shop, confirm=False).run(user_msg="Clean up."))
        assert asked == []


async def test_a_member_of_a_workflow_asks_too() -> None:
    shop = Shop()
    with ScriptedPolicy(ONE) as policy:
        lead = agent_for(policy, shop, name="lead", description="Leads.")
        other = FunctionAgent(name="other", description="Other.", llm=lead.llm)
        handler = AgentWorkflow(agents=[lead, other], root_agent="lead").run(user_msg="Clean up.")
        answer, asked = await answered(handler, {"response": "yes"})
    assert answer == "Done."
    assert asked[0].agent == "lead"
    assert sorted(shop.done) == ["delete 1", "look 1"]


async def test_a_tool_may_ask_a_person_itself() -> None:
    asked: list[str] = []

    async def quote(ctx: Context, item: str) -> str:
        """Ask the seller for a price."""
        asked.append(item)
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_id=item, waiter_event=InputRequiredEvent(prefix="Price?", item=item)
        )
        return f"{item}: {answer.response}"

    quote.__annotations__ |= {"ctx": Context, "item": str}  # LlamaIndex does not read annotations in quotes
    with ScriptedPolicy(script(("quote", {"item": "tent"}))) as policy:
        agent = OrchestratorAgent(
            tools=[quote],
            llm=PolicyLLM("scripted", policy.url),
            catalog=Catalog([Tool(name="quote", price=Price(call=0.3))]),
            budget=Budget(dollars=0.4),
        )
        handler = agent.run(user_msg="Price?")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(response="80"))
        assert str(await handler) == "Done."
        ledger = await ledger_of(handler.ctx)
    assert policy.requests[1]["messages"][-1]["content"] == "tent: 80"
    assert asked == ["tent", "tent"]  # LlamaIndex runs the body again; the call is recorded and paid once
    assert [call.name for call in ledger] == ["scripted", "quote", "scripted"]
    assert ledger.dollars == pytest.approx(0.3)


RESUME = """
import asyncio, json, sys
from llama_index.core.workflow import Context, HumanResponseEvent
from tests.test_llamaindex_confirmation import Shop, agent_for
from toolorch_integrations.capture import capture
from toolorch_integrations.llamaindex import ledger_of
from toolorch_integrations.testing import ScriptedPolicy


class Elsewhere:
    url = sys.argv[1]


async def main():
    shop = Shop()
    agent = agent_for(Elsewhere, shop)
    ctx = Context.from_dict(agent, json.load(open(sys.argv[2])))
    with capture(sys.argv[3]):
        handler = agent.run(ctx=ctx)
        handler.ctx.send_event(HumanResponseEvent(decisions=[{"type": "approve"}]))
        answer = str(await handler)
        print(json.dumps([answer, sorted(shop.done), [c.to_dict() for c in await ledger_of(handler.ctx)]]))


asyncio.run(main())
"""


async def test_another_process_goes_on_when_the_yes_comes(tmp_path: Path) -> None:
    shop = Shop()
    kept, traces = tmp_path / "context.json", tmp_path / "traces.db"
    with ScriptedPolicy(ONE) as policy:
        with capture(traces):
            handler = agent_for(policy, shop).run(user_msg="Clean up.")
            async for event in handler.stream_events():
                if isinstance(event, InputRequiredEvent):
                    break
            kept.write_text(json.dumps(handler.ctx.to_dict()))
            await handler.cancel_run()
            with pytest.raises(WorkflowCancelledByUser):
                await handler
        program = [sys.executable, "-c", RESUME, policy.url, str(kept), str(traces)]
        found = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    answer, done, ledger = json.loads(found.stdout)
    assert answer == "Done."
    assert shop.done == []
    assert done == ["delete 1", "look 1"]
    assert sorted(call["name"] for call in ledger) == ["delete_order", "look", "scripted", "scripted"]
    assert len(policy.requests) == 2, "the policy was asked again"
    assert "token_ids" not in kept.read_text()
    with TraceStore.open(traces) as store:
        (trace,) = store.full_traces()
    assert trace.status is TraceStatus.ANSWERED
    assert trace.request == "Clean up."
    assert [trace.totals.turns, trace.totals.calls] == [2, 2]
    assert trace.exact


@pytest.mark.parametrize("elsewhere", [True, False], ids=["another process", "this process"])
async def test_the_wait_for_a_yes_is_left_out_of_the_runs_time_once(elsewhere: bool) -> None:
    shop = Shop()
    with ScriptedPolicy(ONE) as policy:
        agent = agent_for(policy, shop)
        ctx = await _asked_long_ago(agent)
        goes_on = agent_for(policy, shop) if elsewhere else agent  # another agent knows nothing of the run
        handler = goes_on.run(ctx=Context.from_dict(goes_on, ctx.to_dict()) if elsewhere else ctx)
        handler.ctx.send_event(HumanResponseEvent(decisions=[APPROVE]))
        assert str(await handler) == "Done."
        state = await load(handler.ctx, goes_on.name)
    assert state is not None
    assert LONG <= state["run"]["paused"] < 1.5 * LONG


LONG = 10_000.0
"""Seconds."""


async def _asked_long_ago(agent: OrchestratorAgent) -> Context:
    """Return the context of a run that waits for a yes since long."""
    handler = agent.run(user_msg="Clean up.")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    ctx = Context.from_dict(agent, handler.ctx.to_dict())
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    state = await load(ctx, agent.name)
    assert state is not None
    state["run"]["started"] -= LONG
    state["run"]["updated"] -= LONG
    account = (await agent.runs.known(ctx, state)).account
    account.started -= LONG
    account._resumed -= LONG
    await save(ctx, agent.name, state)
    return ctx
