"""The LlamaIndex orchestrator, alone and in an `AgentWorkflow`, against a scripted policy over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.tools import tool as langchain_tool
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ToolCall,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import MockLLM
from llama_index.core.objects import ObjectIndex, ObjectRetriever
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context, WorkflowRuntimeError
from pydantic import BaseModel
from workflows.errors import WorkflowCancelledByUser, WorkflowTimeoutError

from toolorch_integrations import (
    Budget,
    Catalog,
    CatalogError,
    CatalogFilter,
    Endpoint,
    EndpointError,
    Preferences,
    Price,
    Specialist,
    Tool,
)
from toolorch_integrations.ledger import CallStatus
from toolorch_integrations.llamaindex import (
    OrchestratorAgent,
    OrchestratorProgress,
    PolicyLLM,
    SpecialistTool,
    as_specialist,
    from_langchain,
    ledger_of,
    set_options,
    to_langchain,
)
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy


def search(query: str) -> str:
    """Search the shop's documents."""
    return f"documents on {query}"


def llm(policy: ScriptedPolicy, **fields: Any) -> PolicyLLM:
    return PolicyLLM("scripted", policy.url, max_retries=0, **fields)


def wants(name: str, **arguments: Any) -> Reply:
    return Reply(calls=[(name, arguments)])


def roles(request: Request) -> list[str]:
    return [message["role"] for message in request["messages"]]


@contextmanager
def helper(text: str = "Done by the helper.") -> Iterator[ScriptedPolicy]:
    with ScriptedPolicy([text], model="helper") as server:
        yield server


def coder(server: ScriptedPolicy, **fields: Any) -> Specialist:
    return Specialist(name="coder", endpoint=Endpoint(url=server.url, model="helper"), **fields)


# --- alone ---


async def test_a_run_answers_and_shows_its_events() -> None:
    with ScriptedPolicy([wants("search", query="tents"), "Two tents."]) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy, price=Price(input=1.0)))
        handler = agent.run(user_msg="Tents?")
        events = [event async for event in handler.stream_events()]
        output = await handler
    assert isinstance(output, AgentOutput)
    assert str(output) == "Two tents."
    assert [call.tool_name for call in output.tool_calls] == ["search"]
    assert "".join(event.delta for event in events if isinstance(event, AgentStream)) == "Two tents."
    (made,) = [event for event in events if isinstance(event, ToolCall) and not isinstance(event, ToolCallResult)]
    assert (made.tool_name, made.tool_kwargs) == ("search", {"query": "tents"})
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert result.tool_output.content == "documents on tents"
    assert result.tool_output.raw_output == "documents on tents"
    progress = [event for event in events if isinstance(event, OrchestratorProgress)]
    assert [event.type for event in progress] == ["turn", "call_started", "call_ended", "turn"]
    ended = progress[2].progress
    assert (ended["name"], ended["status"], ended["call_id"]) == ("search", "ok", made.tool_id)
    assert ended["seconds"] >= 0
    assert ended["total"]["turns"] == 1
    assert ended["total"]["dollars"] > 0
    ledger = await ledger_of(handler.ctx)
    assert [call.name for call in ledger] == ["scripted", "search", "scripted"]


async def test_memory_and_context_carry_a_conversation_over_runs() -> None:
    with ScriptedPolicy([wants("search", query="a"), "Yes."]) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy))
        ctx = Context(agent)
        await agent.run(user_msg="One?", ctx=ctx)
        await agent.run(user_msg="Two?", ctx=ctx)
        first = ["user", "assistant", "tool", "assistant"]
        assert roles(policy.requests[-1]) == ["system", *first, "user", "assistant", "tool"]
        assert len(await ledger_of(ctx)) == 3
        assert len(await ledger_of(ctx, all_runs=True)) == 6
        kept = json.dumps(ctx.to_dict())
        other = OrchestratorAgent(tools=[search], llm=llm(policy))
        restored = Context.from_dict(other, json.loads(kept))
        await other.run(user_msg="Three?", ctx=restored)
        first, last = policy.requests[3]["messages"], policy.requests[4]["messages"]
    assert last[: len(first)] == first
    assert last[-1] == {"role": "user", "content": "Three?"}
    assert "token_ids" not in kept


@pytest.mark.parametrize("streaming", [True, False])
async def test_initial_state_leaves_the_users_message_as_it_is(streaming: bool) -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        plain = OrchestratorAgent(llm=llm(policy), initial_state={"basket": []}, streaming=streaming)
        await plain.run(user_msg="One?")
        shown = OrchestratorAgent(
            llm=llm(policy), initial_state={"basket": 1}, state_prompt="{state} {msg}", streaming=streaming
        )
        await shown.run(user_msg="One?")
    assert policy.requests[0]["messages"][-1]["content"] == "One?"
    assert policy.requests[1]["messages"][-1]["content"] == "{'basket': 1} One?"


async def test_a_run_has_its_own_preferences_budget_and_view() -> None:
    with ScriptedPolicy([wants("find", query="a"), "Yes."]) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy), preferences=Preferences(latency=1.0))
        context = {
            "preferences": Preferences(cost=1.0),
            "budget": {"turns": 2},
            "catalog": CatalogFilter(aliases={"search": "find"}),
        }
        ctx = Context(agent)
        handler = agent.run(user_msg="One?", ctx=ctx, context=context)
        await handler
        assert [call.name for call in await ledger_of(ctx)][1] == "search"
        await agent.run(user_msg="Two?", ctx=ctx)
        await set_options(ctx, preferences=Preferences(instruction="Be quick."))
        await agent.run(user_msg="Three?", ctx=ctx)
    first, second, third = policy.requests[0], policy.requests[2], policy.requests[4]
    assert "low cost matters most" in first["messages"][0]["content"]
    assert "2 turns" in first["messages"][0]["content"]
    assert first["tools"][0]["function"]["name"] == "find"
    assert policy.requests[1]["tool_choice"] == "none"
    assert "low latency matters most" in second["messages"][0]["content"]
    assert second["tools"][0]["function"]["name"] == "search"
    assert "Be quick." in third["messages"][0]["content"]


async def test_a_wrong_option_names_the_field() -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        agent = OrchestratorAgent(llm=llm(policy))
        with pytest.raises(ValueError, match=r"preferences\.cost"):
            await agent.run(user_msg="One?", context={"preferences": {"cost": 7}})
    assert not policy.requests


async def test_return_direct_is_the_answer() -> None:
    tool = FunctionTool.from_defaults(search, return_direct=True)
    with ScriptedPolicy([wants("search", query="tents"), "never said"]) as policy:
        agent = OrchestratorAgent(tools=[tool], llm=llm(policy))
        handler = agent.run(user_msg="Tents?")
        assert str(await handler) == "documents on tents"
        assert len(policy.requests) == 1


async def test_structured_output() -> None:
    class Answer(BaseModel):
        tents: int

    with ScriptedPolicy(lambda request: '{"tents": 2}' if "response_format" in request else "Two.") as policy:
        agent = OrchestratorAgent(llm=llm(policy), output_cls=Answer)
        output = await agent.run(user_msg="Tents?")
    assert output.get_pydantic_model(Answer) == Answer(tents=2)


async def test_tools_of_every_kind() -> None:
    class Engine(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            return f"engine on {query_str}"

    @langchain_tool
    def weigh(item: str, times: int = 1) -> str:
        """Weigh an item."""
        return f"{item} weighs {times * 2}"

    async def remember(ctx: Context, word: str) -> str:
        """Remember a word."""
        await ctx.store.set("word", word)
        return f"will remember {word}"

    remember.__annotations__ |= {"ctx": Context, "word": str}  # LlamaIndex does not read annotations in quotes
    engine = QueryEngineTool.from_defaults(Engine(), name="engine", description="Asks the engine.")
    script = [
        Reply(
            calls=[
                ("engine", {"input": "tents"}),
                ("weigh", {"item": "tent", "times": 3}),
                ("remember", {"word": "tent"}),
            ]
        ),
        "Done.",
    ]
    with ScriptedPolicy(script) as policy:
        agent = OrchestratorAgent(tools=[engine, weigh, remember], llm=llm(policy))
        handler = agent.run(user_msg="Go.")
        await handler
        assert await handler.ctx.store.get("word") == "tent"
    results = [message["content"] for message in policy.requests[1]["messages"] if message["role"] == "tool"]
    assert results == ["engine on tents", "tent weighs 6", "will remember tent"]
    schemas = {schema["function"]["name"]: schema["function"] for schema in policy.requests[0]["tools"]}
    assert schemas["weigh"]["description"] == "Weigh an item."
    assert schemas["weigh"]["parameters"]["properties"]["times"] == {"type": "integer", "default": 1}
    assert "ctx" not in schemas["remember"]["parameters"]["properties"]


async def test_tools_of_llamaindex_work_in_langchain() -> None:
    tool = to_langchain(FunctionTool.from_defaults(search))
    assert tool.name == "search"
    assert tool.description == "Search the shop's documents."
    assert await tool.ainvoke({"query": "tents"}) == "documents on tents"
    assert tool.invoke({"query": "maps"}) == "documents on maps"
    with helper() as server:
        handed = to_langchain(SpecialistTool(coder(server)))
        assert await handed.ainvoke({"task": "Write."}) == "Done by the helper."
    with pytest.raises(CatalogError, match="args_schema"):
        from_langchain(type("Odd", (), {"name": "odd", "args_schema": {}, "description": "", "invoke": 0})())


async def test_parallel_calls_overlap_and_come_back_in_order() -> None:
    together = asyncio.Barrier(3)

    async def wait(number: int) -> str:
        """Wait for the others."""
        await together.wait()
        await asyncio.sleep(0.05 * (3 - number))
        return f"number {number}"

    with ScriptedPolicy([Reply(calls=[("wait", {"number": n}) for n in range(3)]), "Done."]) as policy:
        await OrchestratorAgent(tools=[wait], llm=llm(policy)).run(user_msg="Go.")
    results = [message["content"] for message in policy.requests[1]["messages"] if message["role"] == "tool"]
    assert results == ["number 0", "number 1", "number 2"]


async def test_what_a_retriever_finds_can_be_called() -> None:
    def find(query: str) -> str:
        """Find something."""
        return f"found {query}"

    class Retriever(ObjectRetriever[Any]):
        def __init__(self) -> None:
            self.asked: list[str] = []

        async def aretrieve(self, str_or_query_bundle: Any) -> list[Any]:
            self.asked.append(str_or_query_bundle)
            return [FunctionTool.from_defaults(find)] if str_or_query_bundle == "Find it." else []

    assert ObjectIndex  # what makes retrievers in apps
    retriever = Retriever()
    with ScriptedPolicy([wants("find", query="it"), "Done."]) as policy:
        agent = OrchestratorAgent(tools=[search], tool_retriever=retriever, llm=llm(policy))
        await agent.run(user_msg="Find it.")
    assert [schema["function"]["name"] for schema in policy.requests[0]["tools"]] == ["search", "find"]
    assert policy.requests[1]["messages"][-1]["content"] == "found it"
    assert "Find it." in retriever.asked


# --- what can go wrong ---


def test_a_tool_named_handoff_is_refused_with_the_reason() -> None:
    def handoff(to: str) -> str:
        """Hand something over."""
        return to

    with pytest.raises(CatalogError, match="passes a conversation to another agent: rename yours"):
        OrchestratorAgent(tools=[handoff], llm=PolicyLLM("m", "http://127.0.0.1:9/v1"))
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(CatalogError, match="specialist is named 'handoff'"):
        OrchestratorAgent(
            llm=PolicyLLM("m", "http://127.0.0.1:9/v1"), specialists=[Specialist(name="handoff", endpoint=endpoint)]
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [search, search]}, "Two tools are named 'search'"),
        ({"catalog": Catalog([Tool(name="fly")])}, "describes the tool 'fly'"),
        ({"fallback": "nobody"}, "fallback names 'nobody'"),
        ({"specialists": [Specialist(name="search", endpoint=Endpoint(url="http://x/v1", model="m"))]}, "rename one"),
    ],
)
def test_what_does_not_fit_together_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        OrchestratorAgent(**{"tools": [search], "llm": PolicyLLM("m", "http://127.0.0.1:9/v1"), **options})


async def test_an_llm_without_functions_is_refused() -> None:
    with pytest.raises(Exception, match="calls no functions"):
        await OrchestratorAgent(tools=[search], llm=MockLLM()).run(user_msg="Go.")


async def test_a_policy_that_is_down_says_how_to_start_it() -> None:
    agent = OrchestratorAgent(tools=[search], llm=PolicyLLM("m", "http://127.0.0.1:9/v1", max_retries=0))
    with pytest.raises(EndpointError, match="toolorch serve policy"):
        await agent.run(user_msg="Go.")


async def test_a_deadline_bounds_the_policy_call() -> None:
    with ScriptedPolicy([Reply("late", delay=3.0)]) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy), budget=Budget(seconds=0.3))
        handler = agent.run(user_msg="Go.")
        assert str(await handler).startswith("The budget of seconds ended")
        assert [call.status for call in await ledger_of(handler.ctx)] == [CallStatus.TIMEOUT]


async def test_a_tool_that_hangs_is_given_up() -> None:
    released = threading.Event()

    def hang() -> str:
        """Hang."""
        released.wait(20)
        return "late"

    with ScriptedPolicy([wants("hang"), "So be it."]) as policy:
        agent = OrchestratorAgent(tools=[hang], llm=llm(policy), tool_timeout=0.2)
        assert str(await agent.run(user_msg="Go.")) == "So be it."
    released.set()
    assert policy.requests[1]["messages"][-1]["content"] == "Error: hang did not answer within 0.2 s. Try another tool."


async def hanging(policy: ScriptedPolicy, started: asyncio.Event, **options: Any) -> tuple[OrchestratorAgent, Any]:
    async def hang() -> str:
        """Hang."""
        started.set()
        await asyncio.sleep(60)
        return "late"

    catalog = Catalog([Tool(name="hang", price=Price(call=0.5))])
    agent = OrchestratorAgent(tools=[hang], llm=llm(policy), catalog=catalog, budget=Budget(dollars=0.6), **options)
    return agent, agent.run(user_msg="Go.")


async def test_a_run_that_is_cancelled_in_mid_call_releases_its_reservations() -> None:
    with ScriptedPolicy([wants("hang"), "So be it."]) as policy:
        started = asyncio.Event()
        agent, handler = await hanging(policy, started)
        await started.wait()
        (run,) = agent.runs._runs._kept.values()
        assert run.account._reserved == {policy_call_id(policy): 0.5}
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        assert run.account._reserved == {}
        assert len(run.account.ledger) == 1


async def test_a_run_that_times_out_in_mid_call_releases_its_reservations() -> None:
    with ScriptedPolicy([wants("hang"), "So be it."]) as policy:
        started = asyncio.Event()
        agent, handler = await hanging(policy, started, timeout=2.0)
        with pytest.raises(WorkflowTimeoutError):
            await handler
        assert started.is_set()
        (run,) = agent.runs._runs._kept.values()
        assert run.account._reserved == {}


def policy_call_id(policy: ScriptedPolicy) -> str:
    return f"chatcmpl-tool-{len(policy.requests):08x}{0:08x}"


async def test_a_context_is_good_for_a_new_run_after_a_cancelled_one() -> None:
    with ScriptedPolicy(lambda r: wants("hang") if r["messages"][-1]["content"] == "Go." else "Yes.") as policy:
        started = asyncio.Event()
        agent, handler = await hanging(policy, started)
        await started.wait()
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        assert str(await agent.run(user_msg="Still there?", ctx=handler.ctx)) == "Yes."
        assert roles(policy.requests[-1]) == ["system", "user", "user"]
        assert len(await ledger_of(handler.ctx)) == 1


def until_withheld(request: Request) -> Reply | str:
    """Search for as long as the policy may."""
    return "What I have." if request.get("tool_choice") == "none" else wants("search", query="x")


@pytest.mark.parametrize("limit", [2, 5])
@pytest.mark.parametrize("options", [{}, {"early_stopping_method": "generate"}])
async def test_on_the_last_step_that_llamaindex_allows_the_policy_answers(limit: int, options: dict[str, Any]) -> None:
    with ScriptedPolicy(until_withheld) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy), **options)
        assert str(await agent.run(user_msg="Go.", max_iterations=limit)) == "What I have."
    assert len(policy.requests) == limit - 1  # LlamaIndex gives up at the limit itself, whatever that step brings


async def test_a_policy_that_calls_on_the_last_step_ends_with_what_there_is() -> None:
    with ScriptedPolicy(lambda _: wants("search", query="tents")) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy))
        handler = agent.run(user_msg="Go.", max_iterations=3)
        assert "documents on tents" in str(await handler)
        assert len(await ledger_of(handler.ctx)) == 3


async def test_where_no_step_fits_nothing_is_spent() -> None:
    with ScriptedPolicy(until_withheld) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy))
        with pytest.raises(WorkflowRuntimeError, match="Max iterations of 1"):
            await agent.run(user_msg="Go.", max_iterations=1)
    assert not policy.requests


async def test_the_budget_of_turns_is_the_limit_where_the_caller_sets_no_other() -> None:
    with ScriptedPolicy(lambda r: "Enough." if r.get("tool_choice") else wants("search", query="x")) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy), budget=Budget(turns=24), streaming=False)
        assert str(await agent.run(user_msg="Go.")) == "Enough."
        assert len(policy.requests) == 24


# --- what is kept ---


async def test_a_run_that_has_answered_is_let_go() -> None:
    direct = FunctionTool.from_defaults(search, return_direct=True)
    for tool in (search, direct):
        with ScriptedPolicy([wants("search", query="tents"), "Two."]) as policy:
            agent = OrchestratorAgent(tools=[tool], llm=llm(policy))
            await agent.run(user_msg="Tents?")
            assert len(agent.runs._runs) == 0


def test_catalogues_are_kept_by_names_and_schemas_and_not_without_end() -> None:
    def texts(query: str) -> str:
        """Find."""
        return query

    def numbers(query: int) -> str:
        """Find."""
        return str(query)

    with ScriptedPolicy(["Yes."]) as policy:
        runs = OrchestratorAgent(llm=llm(policy)).runs
    found = [FunctionTool.from_defaults(function, name="find", description="Find.") for function in (texts, numbers)]
    shown = [runs.full_catalog([tool])["find"].function_schema("find")["function"] for tool in found]
    assert [schema["parameters"]["properties"]["query"]["type"] for schema in shown] == ["string", "integer"]
    assert runs.full_catalog([found[0]]) is runs.full_catalog([found[0]])
    for number in range(100):
        runs.full_catalog([FunctionTool.from_defaults(texts, name=f"find{number}")])
    assert len(runs._catalogs) == 64


async def test_a_specialist_that_is_asked_again_in_another_process_hears_the_conversation() -> None:
    arrived, answer = threading.Event(), threading.Event()

    def work(request: Request) -> str:
        arrived.set()
        answer.wait(30)
        return "Done."

    script = [wants("coder", final=True)]
    with ScriptedPolicy(script) as policy, ScriptedPolicy(work, model="helper") as server:

        def agent() -> OrchestratorAgent:
            return OrchestratorAgent(llm=llm(policy), specialists=[coder(server)], changes=CatalogFilter(shortlist=1))

        handler = agent().run(user_msg="Write a loop.")
        assert await asyncio.to_thread(arrived.wait, 30)
        stored = json.loads(json.dumps(handler.ctx.to_dict()))
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        answer.set()
        other = agent()
        assert str(await other.run(ctx=Context.from_dict(other, stored))) == "Done."
    assert [request["messages"][-1]["content"] for request in server.requests] == ["Write a loop."] * 2


# --- specialists ---


async def test_specialists_work_in_any_agent() -> None:
    script = [Reply(calls=[("coder", {"task": "Write it."}), ("search", {"query": "x"})]), wants("coder"), "Done."]
    with helper("I wrote it.") as server, ScriptedPolicy(script) as policy:
        tool = SpecialistTool(coder(server, price=Price(call=0.1)))
        agent = FunctionAgent(tools=[tool, search], llm=llm(policy))
        handler = agent.run(user_msg="Program.")
        outputs = [e.tool_output async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
        assert str(await handler) == "Done."
        assert tool.call(task="Alone.").content == "I wrote it."
    handed = [output for output in outputs if output.tool_name == "coder"]
    assert [output.content for output in handed] == ["I wrote it.", "I wrote it."]
    assert handed[0].raw_output["calls"][0]["dollars"] == pytest.approx(0.1)
    assert server.requests[0]["messages"][-1]["content"].endswith("Your task: Write it.")
    assert "[search] documents on x" in server.requests[1]["messages"][-1]["content"]


async def test_llms_and_query_engines_are_specialists() -> None:
    class Engine(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            return f"engine on {query_str}"

    script = [
        Reply(calls=[("mock", {"task": "Say it."}), ("engine", {"task": "Tents."})]),
        wants("policy", final=True),
    ]
    with helper("As a policy.") as server, ScriptedPolicy(script) as policy:
        other = PolicyLLM("helper", server.url)
        agent = OrchestratorAgent(
            llm=llm(policy),
            specialists=[
                as_specialist(MockLLM(), "mock", context="task"),
                as_specialist(Engine(), "engine", context="task"),
                as_specialist(other, "policy", price=Price(input=1e6)),
            ],
        )
        handler = agent.run(user_msg="Go.")
        assert str(await handler) == "As a policy."
    results = [message["content"] for message in policy.requests[1]["messages"] if message["role"] == "tool"]
    assert results == ["user: Say it.\nassistant: ", "engine on Tents."]
    spent = {call.name: call.dollars for call in await ledger_of(handler.ctx)}
    assert spent["policy"] > 1


async def test_a_specialist_that_raises_is_an_observation() -> None:
    class Engine(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            raise RuntimeError("no index")

    with ScriptedPolicy([wants("engine", task="x"), "So be it."]) as policy:
        agent = OrchestratorAgent(llm=llm(policy), specialists=[as_specialist(Engine(), "engine")])
        assert str(await agent.run(user_msg="Go.")) == "So be it."
    assert "engine failed: RuntimeError: no index" in policy.requests[1]["messages"][-1]["content"]


# --- in an AgentWorkflow ---


def team(policy: ScriptedPolicy, *agents: Any, **options: Any) -> AgentWorkflow:
    return AgentWorkflow(agents=list(agents), root_agent=agents[0].name, **options)


def by_system(**replies: Callable[[Request], Reply | str]) -> Callable[[Request], Reply | str]:
    """Return a script that answers for the agent whose system prompt begins with a word."""

    def script(request: Request) -> Reply | str:
        first = request["messages"][0]["content"].split(".")[0]
        return replies[first](request)

    return script


def last_is_tool(request: Request) -> bool:
    return bool(request["messages"][-1]["role"] == "tool")


async def test_an_orchestrator_hands_off_to_an_ordinary_agent_and_gets_back() -> None:
    def lead(request: Request) -> Reply | str:
        if any("sums: 4" in str(message["content"]) for message in request["messages"]):
            return "Four, says the clerk."
        return (
            wants("handoff", to_agent="clerk", reason="sums") if last_is_tool(request) else wants("search", query="x")
        )

    def clerk(request: Request) -> Reply | str:
        if any("sums: 4" in str(message["content"]) for message in request["messages"]):
            return wants("handoff", to_agent="lead", reason="done")
        return wants("add")

    def add() -> str:
        """Add."""
        return "sums: 4"

    with ScriptedPolicy(by_system(Lead=lead, Clerk=clerk)) as policy:
        workflow = team(
            policy,
            OrchestratorAgent(
                name="lead", description="Leads.", system_prompt="Lead.", tools=[search], llm=llm(policy)
            ),
            FunctionAgent(name="clerk", description="Adds.", system_prompt="Clerk.", tools=[add], llm=llm(policy)),
        )
        handler = workflow.run(user_msg="Two and two?")
        assert str(await handler) == "Four, says the clerk."
        ledger = await ledger_of(handler.ctx)
    assert [schema["function"]["name"] for schema in policy.requests[0]["tools"]] == ["search", "handoff"]
    assert [call.name for call in ledger] == ["scripted", "search", "scripted", "handoff", "scripted"]
    assert len({call.run_id for call in ledger}) == 1
    json.dumps(handler.ctx.to_dict())


async def test_the_default_budget_ends_with_an_answer_in_a_workflow() -> None:
    with ScriptedPolicy(until_withheld) as policy:
        workflow = team(policy, OrchestratorAgent(name="lead", description="L.", tools=[search], llm=llm(policy)))
        assert str(await workflow.run(user_msg="Go.")) == "What I have."
        assert len(policy.requests) == 19
        assert str(await workflow.run(user_msg="Go.", max_iterations=4)) == "What I have."
        assert len(policy.requests) == 19 + 3


async def test_steps_of_other_agents_count() -> None:
    def clerk(request: Request) -> Reply | str:
        return wants("handoff", to_agent="lead", reason="done") if last_is_tool(request) else wants("add")

    def lead(request: Request) -> Reply | str:
        if request.get("tool_choice") == "none":
            return "What I have."
        return wants("search", query="x")

    def add() -> str:
        """Add."""
        return "4"

    with ScriptedPolicy(by_system(Lead=lead, Clerk=clerk)) as policy:
        workflow = team(
            policy,
            FunctionAgent(name="clerk", description="Adds.", system_prompt="Clerk.", tools=[add], llm=llm(policy)),
            OrchestratorAgent(name="lead", description="L.", system_prompt="Lead.", tools=[search], llm=llm(policy)),
        )
        assert str(await workflow.run(user_msg="Go.", max_iterations=6)) == "What I have."
    asked = [request["messages"][0]["content"].split(".")[0] for request in policy.requests]
    assert asked == ["Clerk"] * 2 + ["Lead"] * 3


async def test_two_orchestrators_share_a_context_and_keep_their_ledgers_apart() -> None:
    def one(request: Request) -> Reply | str:
        return wants("handoff", to_agent="two", reason="yours")

    def two(request: Request) -> Reply | str:
        return "Two's answer." if last_is_tool(request) and request["messages"][-1]["content"] != "moved" else "?"

    with ScriptedPolicy(by_system(One=one, Two=two)) as policy:
        workflow = team(
            policy,
            OrchestratorAgent(
                name="one", description="First.", system_prompt="One.", llm=llm(policy), budget=Budget(turns=3)
            ),
            OrchestratorAgent(name="two", description="Second.", system_prompt="Two.", tools=[search], llm=llm(policy)),
        )
        handler = workflow.run(user_msg="Who?")
        assert str(await handler) == "Two's answer."
        assert [call.name for call in await ledger_of(handler.ctx, "one")] == ["scripted", "handoff"]
        assert [call.name for call in await ledger_of(handler.ctx, "two")] == ["scripted"]
    assert "3 turns" in policy.requests[0]["messages"][0]["content"]
    assert "3 turns" not in policy.requests[1]["messages"][0]["content"]


async def test_a_handoff_that_is_not_offered_is_an_unknown_tool() -> None:
    script = [wants("handoff", to_agent="clerk", reason="x"), "So be it."]
    with ScriptedPolicy(script) as policy:
        alone = OrchestratorAgent(tools=[search], llm=llm(policy))
        handler = alone.run(user_msg="Go.")
        assert str(await handler) == "So be it."
        assert (await ledger_of(handler.ctx)).calls[1].status is CallStatus.UNKNOWN
        workflow = team(
            policy,
            OrchestratorAgent(name="lead", description="L.", tools=[search], llm=llm(policy), can_handoff_to=[]),
            FunctionAgent(name="clerk", description="C.", llm=llm(policy)),
        )
        assert str(await workflow.run(user_msg="Go.")) == "So be it."
    for request in (policy.requests[1], policy.requests[3]):
        assert request["messages"][-1]["content"] == "Error: there is no tool 'handoff'. Choose one of: search."


async def test_options_of_a_context_reach_members_of_a_workflow() -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        workflow = team(policy, OrchestratorAgent(name="lead", description="L.", llm=llm(policy)))
        ctx = Context(workflow)
        await set_options(ctx, budget=Budget(turns=2))
        await workflow.run(user_msg="Go.", ctx=ctx)
    assert "2 turns" in policy.requests[0]["messages"][0]["content"]


async def test_options_of_a_context_and_of_a_run_add_up() -> None:
    own = Budget(dollars=5, turns=12, seconds=60)
    with ScriptedPolicy(["Yes."]) as policy:
        agent = OrchestratorAgent(tools=[search], llm=llm(policy), budget=own)
        ctx = Context(agent)
        await set_options(ctx, budget=Budget(dollars=1), catalog=CatalogFilter(aliases={"search": "find"}))
        context = {"budget": {"turns": 7}, "catalog": {"prices": {"search": {"call": 1}}}}
        await agent.run(user_msg="One?", ctx=ctx, context=context)
        await agent.run(user_msg="Two?", ctx=ctx)
    first, second = policy.requests
    assert "Budget: 7 turns, $1, 60 seconds." in first["messages"][0]["content"]
    assert "Budget: 12 turns, $1, 60 seconds." in second["messages"][0]["content"]
    assert [request["tools"][0]["function"]["name"] for request in policy.requests] == ["find", "find"]


async def test_initial_state_of_a_workflow_goes_through_its_own_prompt() -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        workflow = team(
            policy,
            OrchestratorAgent(name="lead", description="L.", llm=llm(policy)),
            initial_state={"basket": 1},
            state_prompt="{state} {msg}",
        )
        await workflow.run(user_msg="Go.")
    assert policy.requests[0]["messages"][-1]["content"] == "{'basket': 1} Go."


# --- packaging ---


@pytest.mark.parametrize(
    ("module", "absent"),
    [("toolorch_integrations.llamaindex", "langchain"), ("toolorch_integrations.langgraph", "llama_index")],
)
def test_neither_framework_comes_with_the_other(module: str, absent: str) -> None:
    program = f"import sys, {module}; print([m for m in sys.modules if m.startswith(('{absent}', 'torch'))])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_missing_framework_is_named() -> None:
    program = "import sys; sys.modules['llama_index.llms.openai_like'] = None; import toolorch_integrations.llamaindex"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'toolorch-integrations[llamaindex]'" in found.stderr


async def test_history_given_by_the_caller_is_kept() -> None:
    history = [ChatMessage(role="system", content="Rules."), ChatMessage(role="user", content="Hello")]
    history.append(ChatMessage(role="assistant", content="Hello."))
    with ScriptedPolicy(["Yes."]) as policy:
        await OrchestratorAgent(llm=llm(policy)).run(user_msg="Go.", chat_history=history)
    assert roles(policy.requests[0]) == ["system", "system", "user", "assistant", "user"]
