"""The `select` rendering in the LlamaIndex face: the same runs as in the LangGraph face, to the byte."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tools import tool as langchain_tool
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.objects import ObjectIndex
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from pydantic import BaseModel

from tests.select_world import (
    FULL,
    GOLDEN,
    QUESTION,
    TOOLS,
    Policy,
    catalog_of,
    choose,
    find,
    python,
    specialist_says,
    two_texts,
)
from toolorch_integrations import Budget, Catalog, CatalogError, CatalogFilter, Preferences, Price, Specialist, Tool
from toolorch_integrations.llamaindex import (
    ConfirmationRequired,
    OrchestratorAgent,
    OrchestratorProgress,
    PolicyLLM,
    SelectTools,
    ledger_of,
)
from toolorch_integrations.testing import Reply, ScriptedPolicy

ALL = ["enhance_reasoning", "answer", "search"]


@pytest.fixture
def specialists() -> Iterator[ScriptedPolicy]:
    with ScriptedPolicy(specialist_says) as server:
        yield server


def llm(policy: Policy) -> PolicyLLM:
    return PolicyLLM("scripted", policy.server.url, max_retries=0, price=Price(input=1, output=2))


def orchestrator(policy: Policy, server: ScriptedPolicy, **options: Any) -> OrchestratorAgent:
    given = {"catalog": catalog_of(server), "select": TOOLS, "rendering": "select", **options}
    return OrchestratorAgent(llm=llm(policy), **given)


async def ask(agent: Any, text: str = QUESTION, **options: Any) -> str:
    return str(await agent.run(user_msg=text, **options))


def golden() -> list[list[tuple[str, str]]]:
    run = json.loads((GOLDEN / "select_run.json").read_text())
    return [[(role, content) for role, content in step] for step in run["policy"]]


# --- bytes ---


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_whole_run_to_the_byte(specialists: ScriptedPolicy, streaming: bool) -> None:
    with Policy(*FULL) as policy:
        handler = orchestrator(policy, specialists, streaming=streaming).run(user_msg=QUESTION)
        events = [event async for event in handler.stream_events()]
        assert str(await handler) == "12"
        ledger = await ledger_of(handler.ctx)
    assert policy.prompts == golden()
    tools = json.loads((GOLDEN / "select_tools.json").read_text())
    assert [json.dumps(request["tools"]) for request in policy.server.requests] == [json.dumps(tools)] * 3
    assert all("tool_choice" not in request for request in policy.server.requests)
    asked = [[[m["role"], m["content"]] for m in request["messages"]] for request in specialists.requests]
    assert asked == json.loads((GOLDEN / "select_run.json").read_text())["specialists"]
    assert [call.name for call in ledger if call.kind.value != "policy"] == [
        *("search-3", "find"),
        *("reasoner-1", "python"),
        "answer-1",
    ]
    shown = [event.progress for event in events if isinstance(event, OrchestratorProgress)]
    assert [event["type"] for event in shown] == [
        *("turn", "call_started", "call_ended", "call_ended"),
        *("turn", "call_started", "call_ended", "call_ended"),
        *("turn", "call_started", "call_ended"),
    ]
    assert shown[-1]["name"] == "answer-1"
    assert any(isinstance(event, AgentStream) and event.tool_calls for event in events) is streaming


async def test_preferences_prices_and_aliases_of_one_request(specialists: ScriptedPolicy) -> None:
    catalog = catalog_of(specialists, Tool(name="find", price=Price(call=0.25)))
    changes = CatalogFilter(aliases={"search-3": "search-x"}, prices={"answer-1": Price(call=3)})
    with Policy(choose("search", "search-x"), *FULL[2:]) as policy:
        agent = orchestrator(policy, specialists, catalog=catalog, preferences=Preferences(tools={"search-3": 1}))
        handler = agent.run(user_msg=QUESTION, context={"catalog": changes})
        await handler
        dollars = {call.name: call.dollars for call in await ledger_of(handler.ctx)}
    said = "Preferences: use search-x if at all possible."
    assert policy.prompts[0][1][1] == f"Problem: {QUESTION}\n\n{said}\n\n\n\nChoose an appropriate tool."
    assert all("Preferences" not in request["messages"][-1]["content"] for request in specialists.requests)
    assert (dollars["find"], dollars["answer-1"]) == (0.25, 3.0)
    assert dollars["search-3"] > 0


async def test_a_second_request_starts_with_an_empty_context(specialists: ScriptedPolicy) -> None:
    with Policy(*FULL, choose("answer", "answer-1")) as policy:
        agent = orchestrator(policy, specialists)
        ctx: Context = Context(agent)
        await ask(agent, ctx=ctx)
        await ask(agent, "And into 4?", ctx=ctx)
    assert policy.prompts[3][1][1] == "Problem: And into 4?\n\n\n\nChoose an appropriate tool."
    assert policy.functions[3] == ALL
    asked = [(m["role"], m["content"]) for m in specialists.requests[-1]["messages"]]
    assert asked[:2] == [("user", QUESTION), ("assistant", "12")]
    assert len(asked) == 3


# --- the app's tools ---


class Shelf(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        texts = [f"About {query_bundle.query_str}: a crate holds 4.", "Crates are blue."]
        return [NodeWithScore(node=TextNode(text=text, metadata={"shelf": 1}), score=1.0) for text in texts]


@langchain_tool
def found(query: str) -> list[str]:
    """Search the shop's documents."""
    return find(query)


async def afind(query: str) -> dict[str, Any]:
    """Search the shop's documents."""
    return {"results": [{"text": text} for text in find(query)]}


@pytest.mark.parametrize("search", [Shelf(), found, afind, FunctionTool.from_defaults(find)])
async def test_search_is_a_retriever_a_tool_or_a_function(specialists: ScriptedPolicy, search: Any) -> None:
    with Policy(*FULL) as policy:
        tools = SelectTools(search=search, interpreter=python)
        assert await ask(orchestrator(policy, specialists, select=tools)) == "12"
    assert policy.prompts == golden()


async def test_a_tool_that_hands_its_answer_back_directly_does_so_in_chats_only(specialists: ScriptedPolicy) -> None:
    search = FunctionTool.from_defaults(find, name="search", return_direct=True)
    with Policy(*FULL) as policy:
        assert await ask(orchestrator(policy, specialists, select=SelectTools(search, python))) == "12"
    assert policy.prompts == golden()


def broken(code: str) -> str:
    """Run Python, badly."""
    raise RuntimeError("no sandbox")


def silent(code: str) -> str:
    """Run Python that prints nothing."""
    return "\n"


def hanging(code: str) -> str:
    """Run Python for ever."""
    time.sleep(2)
    return "late"


async def refusing(code: str) -> str:
    """Run no Python."""
    return code


class Refusing(FunctionTool):
    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return ToolOutput(content="no room", tool_name="refusing", raw_input={}, raw_output=None, is_error=True)


@pytest.mark.parametrize(
    ("interpreter", "status", "said"),
    [
        (broken, "error", "no sandbox"),
        (silent, "error", "brought nothing"),
        (hanging, "timeout", "did not answer"),
        (Refusing.from_defaults(async_fn=refusing), "error", "no room"),
    ],
)
async def test_a_tool_that_fails_adds_nothing_and_its_specialist_is_charged(
    specialists: ScriptedPolicy, interpreter: Any, status: str, said: str
) -> None:
    patience = 0.2 if interpreter is hanging else 60.0
    with Policy(*FULL[1:]) as policy:
        agent = orchestrator(policy, specialists, select=SelectTools(interpreter=interpreter), tool_timeout=patience)
        handler = agent.run(user_msg=QUESTION)
        output: Any = await handler
        calls = await ledger_of(handler.ctx)
    assert str(output) == "12"
    assert said in output.tool_calls[0].tool_output.content
    assert output.tool_calls[0].tool_output.is_error
    assert policy.prompts[1] == policy.prompts[0]
    reasoner, tool = [call for call in calls if call.turn == 1 and call.kind.value != "policy"]
    assert reasoner.dollars > 0
    assert tool.status.value == status


async def test_what_the_app_does_not_have_is_not_offered(specialists: ScriptedPolicy) -> None:
    with Policy(*FULL[2:]) as policy:
        await ask(orchestrator(policy, specialists, select=None))
        await ask(orchestrator(policy, specialists, select=SelectTools(search=find)))
        denied = {"catalog": CatalogFilter(deny=frozenset({"find"}))}
        await ask(orchestrator(policy, specialists), context=denied)
    assert policy.functions == [["answer"], ["answer", "search"], ["enhance_reasoning", "answer"]]


# --- people ---


async def test_a_run_goes_on_in_another_agent_when_a_person_has_answered(specialists: ScriptedPolicy) -> None:
    catalog = catalog_of(specialists, Tool(name="python", destructive=True))
    with Policy(*FULL) as policy:
        handler = orchestrator(policy, specialists, catalog=catalog).run(user_msg=QUESTION)
        event = await anext(e async for e in handler.stream_events() if isinstance(e, InputRequiredEvent))
        assert isinstance(event, ConfirmationRequired)
        asked = [(action["name"], action["args"]) for action in event.action_requests]
        assert asked == [("enhance_reasoning", {"model": "reasoner-1"})]
        assert len(specialists.requests) == 1  # the person is asked before the specialist that writes the code
        kept = json.dumps(handler.ctx.to_dict())
        await handler.cancel_run()
        again = orchestrator(policy, specialists, catalog=catalog)
        resumed = again.run(ctx=Context.from_dict(again, json.loads(kept)))
        resumed.ctx.send_event(HumanResponseEvent(decisions=[{"type": "approve"}]))
        assert str(await resumed) == "12"
        ledger = await ledger_of(resumed.ctx)
    assert policy.prompts == golden()
    assert len(ledger) == 8
    assert [call.name for call in ledger if call.confirmed] == ["reasoner-1", "python"]


@pytest.mark.parametrize(
    ("decision", "prompt", "functions"),
    [
        ({"type": "reject"}, 0, ALL),
        ({"type": "edit", "edited_action": {"name": "search", "args": {"model": "search-1"}}}, 1, ALL),
    ],
)
async def test_a_person_refuses_or_changes_a_call(
    specialists: ScriptedPolicy, decision: Any, prompt: int, functions: list[str]
) -> None:
    catalog = catalog_of(specialists, Tool(name="python", destructive=True))
    with Policy(choose("enhance_reasoning", "reasoner-1"), *FULL[2:]) as policy:
        handler = orchestrator(policy, specialists, catalog=catalog).run(user_msg=QUESTION)
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(decisions=[decision]))
        assert str(await handler) == "12"
        ledger = await ledger_of(handler.ctx)
    assert policy.prompts[1] == golden()[prompt]
    assert policy.functions[1] == functions
    assert "reasoner-1" not in [call.name for call in ledger]


async def test_a_person_cannot_put_a_specialist_in_a_functions_place(specialists: ScriptedPolicy) -> None:
    catalog = catalog_of(specialists, Tool(name="python", destructive=True))
    decisions: list[Any] = [
        {"type": "edit", "edited_action": {"name": "reasoner-2", "args": {}}},
        {"type": "approve"},
    ]
    problems = []
    with Policy(*FULL[1:]) as policy:
        handler = orchestrator(policy, specialists, catalog=catalog).run(user_msg=QUESTION)
        async for event in handler.stream_events():
            if isinstance(event, ConfirmationRequired):
                problems.append(event.problem)
                handler.ctx.send_event(HumanResponseEvent(decisions=[decisions[len(problems) - 1]]))
        assert str(await handler) == "12"
    assert problems[0] == ""
    assert "There is no tool 'reasoner-2'; choose one of ['enhance_reasoning', 'answer', 'search']" in problems[1]


# --- other agents ---


async def test_another_agent_hands_over_to_it(specialists: ScriptedPolicy) -> None:
    over = Reply(calls=[("handoff", {"to_agent": "expert", "reason": "It counts."})])
    with Policy(over) as front, Policy(*FULL) as policy:
        expert = orchestrator(policy, specialists, name="expert", description="Counts.")
        root = OrchestratorAgent(llm=llm(front), name="front", description="Listens.")
        workflow = AgentWorkflow(agents=[root, expert], root_agent="front")
        assert await ask(workflow) == "12"
    assert policy.prompts == golden()
    assert policy.functions[0] == ALL  # it hands over to nobody


# --- what does not fit ---


class Number(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"catalog": Catalog([Specialist(name="a", capabilities=("search",))])}, "endpoint"),
        ({"catalog": Catalog()}, "`answer` among its capabilities"),
        ({"tools": [find]}, "'find' cannot be called"),
        ({"select": SelectTools(search=two_texts)}, "single text"),
        ({"rendering": "chat"}, "goes with"),
        ({"rendering": "selekt"}, "rendering is 'selekt'"),
        ({"system_prompt": "Be kind."}, "`system_prompt` does not go"),
        ({"output_cls": Number}, "`output_cls` does not go"),
        ({"can_handoff_to": ["other"]}, "`can_handoff_to` does not go"),
        ({"early_stopping_method": "generate"}, "`early_stopping_method` does not go"),
        ({"tool_retriever": ObjectIndex}, "`tool_retriever` does not go"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    specialists: ScriptedPolicy, options: dict[str, Any], message: str
) -> None:
    with Policy() as policy, pytest.raises(CatalogError, match=message):
        orchestrator(policy, specialists, **options)


async def test_the_answer_fits_into_llamaindexs_limit_of_steps(specialists: ScriptedPolicy) -> None:
    with Policy(*FULL) as policy:
        agent = orchestrator(policy, specialists, name="lead", description="Leads.")
        assert await ask(AgentWorkflow(agents=[agent]), max_iterations=5) == "12"
    assert policy.functions == [["enhance_reasoning", "answer", "search"]] * 2 + [["answer"]]


async def test_what_comes_later_is_refused_too(specialists: ScriptedPolicy) -> None:
    with Policy(choose("search", "search-1")) as policy:
        agent = orchestrator(policy, specialists)
        with pytest.raises(CatalogError, match="`answer` among its capabilities"):
            await ask(agent, context={"catalog": {"allow": ["search-1", "find"]}})
        with pytest.raises(CatalogError, match="early_stopping_method"):
            await ask(agent, max_iterations=2, early_stopping_method="generate")
        agent.system_prompt = "Be kind."
        with pytest.raises(CatalogError, match="system_prompt"):
            await ask(agent)


async def test_history_reaches_the_specialists_only(specialists: ScriptedPolicy) -> None:
    before = [ChatMessage(role="user", content="Do you sell tents?"), ChatMessage(role="assistant", content="Yes.")]
    with Policy(*FULL) as policy:
        agent = orchestrator(policy, specialists, budget=Budget(turns=9))
        assert await ask(agent, chat_history=before) == "12"
    assert policy.prompts == golden()
    asked = specialists.requests[0]["messages"]
    assert [(m["role"], m["content"]) for m in asked[:2]] == [("user", "Do you sell tents?"), ("assistant", "Yes.")]
