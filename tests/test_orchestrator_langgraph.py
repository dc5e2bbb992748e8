from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, TodoListMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel, Field, field_validator, model_validator

from tests.doubles import chat_policy, specialist, texts, unused_port
from toolorch_integrations import (
    Budget,
    Catalog,
    CatalogError,
    CatalogFilter,
    EmptyMessagesError,
    EndpointError,
    Preferences,
    Price,
    Tool,
    UnknownEntryError,
)
from toolorch_integrations.langgraph import (
    ChatPolicy,
    OrchestratorContext,
    OrchestratorMiddleware,
    SpecialistTool,
    as_specialist,
    create_orchestrator,
    ledger_of,
)
from toolorch_integrations.observation import MAX_CHARACTERS
from toolorch_integrations.policy_step import NO_ANSWER
from toolorch_integrations.prompt import ORCHESTRATOR_PROMPT
from toolorch_integrations.testing import Reply, ScriptedPolicy

Go = Callable[..., dict[str, Any]]
ASK: dict[str, Any] = {"messages": [("user", "What is 2 + 2?")]}


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(params=["sync", "async"])
def go(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Go:
    if request.param == "sync":
        return lambda agent, *args, **kwargs: agent.invoke(*args, **kwargs)
    return lambda agent, *args, **kwargs: runner.run(agent.ainvoke(*args, **kwargs))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calls(*names: str, **arguments: Any) -> Reply:
    return Reply(calls=[(name, arguments) for name in names])


ADD = Reply(calls=[("add", {"a": 2, "b": 2})])


def statuses(result: Mapping[str, Any]) -> list[str]:
    return [f"{call.kind} {call.name} {call.status}" for call in ledger_of(result)]


# --- a drop-in for create_agent ---


def test_tools_that_are_plain_functions(go: Go):
    with ScriptedPolicy([ADD, "It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server, price=Price(input=1)), [add], system_prompt="Be brief.")
        result = go(agent, ASK)
    assert texts(result["messages"]) == [("human", "What is 2 + 2?"), ("ai", ""), ("tool", "4"), ("ai", "It is 4.")]
    assert statuses(result) == ["policy scripted ok", "tool add ok", "policy scripted ok"]
    assert server.requests[0]["messages"][0]["content"] == f"Be brief.\n\n{ORCHESTRATOR_PROMPT}"
    ledger = ledger_of(result)
    assert ledger.turns == 2
    assert ledger.dollars == pytest.approx(ledger.tokens[0] / 1e6)
    assert all(call.seconds > 0 for call in ledger)
    assert [call.turn for call in ledger] == [1, 1, 2]


def test_each_prompt_extends_the_one_before():
    with ScriptedPolicy([ADD, ADD, "It is 4."]) as server:
        create_orchestrator(chat_policy(server), [add]).invoke(ASK)
    first, second, third = (request["messages"] for request in server.requests)
    assert second[: len(first)] == first
    assert third[: len(second)] == second
    assert len({str(request["tools"]) for request in server.requests}) == 1


def test_no_tools_at_all(go: Go):
    with ScriptedPolicy(["It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server)), ASK)
    assert result["messages"][-1].text == "It is 4."
    assert "tools" not in server.requests[0]


class Sum(BaseModel):
    """A sum."""

    total: int


@pytest.mark.parametrize("strategy", [ToolStrategy(Sum), ProviderStrategy(Sum)])
def test_a_response_format(go: Go, strategy: Any):
    final = Reply(calls=[("Sum", {"total": 4})]) if isinstance(strategy, ToolStrategy) else Reply('{"total": 4}')
    with ScriptedPolicy([ADD, final]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], response_format=strategy), ASK)
    assert result["structured_response"] == Sum(total=4)
    assert ledger_of(result).counts() == {"add": 1}


def test_a_response_that_does_not_fit_is_asked_for_again(go: Go):
    wrong, right = Reply(calls=[("Sum", {"total": "many"})]), Reply(calls=[("Sum", {"total": 4})])
    with ScriptedPolicy([wrong, right]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], response_format=ToolStrategy(Sum)), ASK)
    assert result["structured_response"] == Sum(total=4)
    assert ledger_of(result).turns == 2


class Counting(AgentState[Any]):
    seen: NotRequired[int]


@dataclass
class AppContext:
    user: str
    preferences: Preferences = field(default_factory=lambda: Preferences(cost=1.0))


def test_the_apps_own_state_and_context(go: Go):
    @tool
    def whoami(runtime: ToolRuntime[AppContext, Counting]) -> Command[Any]:
        """Say who asks."""
        message = ToolMessage(runtime.context.user, tool_call_id=runtime.tool_call_id or "")
        return Command(update={"seen": runtime.state.get("seen", 0) + 1, "messages": [message]})

    with ScriptedPolicy([calls("whoami"), "Ada."]) as server:
        agent = create_orchestrator(
            chat_policy(server), [whoami], state_schema=Counting, context_schema=AppContext, system_prompt="Hi."
        )
        result = go(agent, {**ASK, "seen": 41}, context=AppContext("Ada"))
    assert result["seen"] == 42
    assert texts(result["messages"])[2] == ("tool", "Ada")
    assert "low cost matters most of all" in server.requests[0]["messages"][0]["content"]
    assert statuses(result) == ["policy scripted ok", "tool whoami ok", "policy scripted ok"]


class Shouting(AgentMiddleware[Any, Any, Any]):
    """Middleware of the app: it sees the request that the orchestrator makes, and each tool by its real name."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []
        self.called: list[str] = []

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        self.prompts.append(request.system_prompt or "")
        return handler(request)

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        self.prompts.append(request.system_prompt or "")
        return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        self.called.append(request.tool_call["name"])
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        self.called.append(request.tool_call["name"])
        return await handler(request)


def test_the_apps_own_middleware_runs_inside(go: Go):
    own = Shouting()
    changes = CatalogFilter(aliases={"add": "tool-1"})
    with ScriptedPolicy([calls("tool-1", a=2, b=2), "It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], middleware=[own], changes=changes), ASK)
    assert own.prompts == [ORCHESTRATOR_PROMPT] * 2
    assert own.called == ["add"]
    assert result["messages"][-1].text == "It is 4."


def test_the_middleware_alone_in_an_agent_of_the_apps_own(go: Go):
    with ScriptedPolicy([calls("expert"), "It is 4."]) as server, ScriptedPolicy(["Four."]) as expert:
        middleware = OrchestratorMiddleware([specialist(expert)], budget=Budget(turns=5))
        result = go(create_agent(chat_policy(server), [add], middleware=[middleware]), ASK)
    assert texts(result["messages"])[2] == ("tool", "Four.")
    assert [schema["function"]["name"] for schema in server.requests[0]["tools"]] == ["add", "expert"]
    assert "Budget: 5 turns." in server.requests[0]["messages"][0]["content"]


def test_without_messages_nothing_is_spent(go: Go):
    with ScriptedPolicy(["It is 4."]) as server:
        for state in ({"messages": []}, {}):
            with pytest.raises(EmptyMessagesError, match="as_node"):
                go(create_orchestrator(chat_policy(server), [add]), state)
    assert server.requests == []


def test_a_catalogue_must_describe_tools_that_exist():
    policy = ChatPolicy(model="m", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(CatalogError, match="'ad', which is not among `tools`"):
        create_orchestrator(policy, [add], catalog=Catalog([Tool(name="ad")]))
    with pytest.raises(CatalogError, match="fallback names 'nobody'"):
        create_orchestrator(policy, [add], fallback="nobody")
    with pytest.raises(CatalogError, match="Two specialists are named 'expert'"):
        create_orchestrator(
            policy, specialists=[specialist("http://127.0.0.1:1/v1"), specialist("http://127.0.0.1:2/v1")]
        )


def test_tools_of_the_apps_middleware_are_tools_like_others(go: Go):
    todo = Reply(calls=[("write_todos", {"todos": [{"content": "Add.", "status": "pending"}]})])
    with ScriptedPolicy([todo, "Done."]) as server:
        agent = create_orchestrator(
            chat_policy(server),
            [add],
            catalog=Catalog([Tool(name="write_todos", price=Price(call=0.5))]),
            middleware=[TodoListMiddleware()],
        )
        result = go(agent, ASK)
    assert {schema["function"]["name"] for schema in server.requests[0]["tools"]} == {"add", "write_todos"}
    assert statuses(result)[1] == "tool write_todos ok"
    assert ledger_of(result).dollars >= 0.5


def test_tools_that_a_provider_runs_are_refused(go: Go):
    search: Any = {"type": "web_search"}
    with ScriptedPolicy(["It is 4."]) as server:
        with pytest.raises(CatalogError, match=r"`tools` holds \{'type': 'web_search'\}"):
            create_orchestrator(chat_policy(server), [add, search])
        agent = create_agent(chat_policy(server), [add, search], middleware=[OrchestratorMiddleware()])
        with pytest.raises(CatalogError, match=r"`tools` holds \{'type': 'web_search'\}"):
            go(agent, ASK)
    assert server.requests == []


# --- specialists ---


def test_a_specialist_sees_request_results_and_task(go: Go):
    script = [ADD, Reply(calls=[("expert", {"task": "Say it in words."})]), "Four."]
    with ScriptedPolicy(script) as server, ScriptedPolicy(["It is four."]) as expert:
        agent = create_orchestrator(chat_policy(server), [add], specialists=[specialist(expert)])
        result = go(agent, ASK)
    content = expert.requests[0]["messages"][-1]["content"]
    assert content == "What is 2 + 2?\n\nResults so far:\n[add] 4\n\nYour task: Say it in words."
    call = ledger_of(result).calls[3]
    assert (call.name, call.model, call.status) == ("expert", "scripted", "ok")
    assert call.dollars == pytest.approx((call.input_tokens + 2 * call.output_tokens) / 1e6)
    assert call.input_tokens > 0


def test_a_final_answer_of_a_specialist_ends_the_run_without_another_policy_call(go: Go):
    with ScriptedPolicy([Reply(calls=[("expert", {"final": True})])]) as server, ScriptedPolicy(["Four."]) as expert:
        result = go(create_orchestrator(chat_policy(server), specialists=[specialist(expert)]), ASK)
    assert texts(result["messages"])[-1] == ("ai", "Four.")
    assert result["messages"][-1].response_metadata["toolorch_status"] == "answer"
    assert len(server.requests) == 1


def test_a_final_call_that_failed_does_not_end_the_run(go: Go):
    down = f"http://127.0.0.1:{unused_port()}/v1"
    with ScriptedPolicy([Reply(calls=[("expert", {"final": True})]), "I say 4."]) as server:
        result = go(create_orchestrator(chat_policy(server), specialists=[specialist(down)]), ASK)
    assert result["messages"][-1].text == "I say 4."
    assert statuses(result) == ["policy scripted ok", "specialist expert error", "policy scripted ok"]
    assert ledger_of(result).calls[1].dollars == 0


def test_a_specialist_is_tried_again_and_then_its_fallback(go: Go):
    script = [calls("expert"), "Done."]
    with (
        ScriptedPolicy(script) as server,
        ScriptedPolicy([Reply("busy", status=503)]) as bad,
        ScriptedPolicy(["4."]) as good,
    ):
        first = specialist(bad, retries=1, fallback="second")
        agent = create_orchestrator(chat_policy(server), specialists=[first, specialist(good, "second")])
        result = go(agent, ASK)
    assert len(bad.requests) == 2
    assert texts(result["messages"])[2] == ("tool", "4.")
    assert statuses(result)[1:3] == ["specialist expert error", "specialist second ok"]
    assert ledger_of(result).calls[1].attempts == 2


def test_a_fallback_that_the_request_hides_is_not_asked(go: Go):
    down = f"http://127.0.0.1:{unused_port()}/v1"
    with ScriptedPolicy([calls("expert"), "Done."]) as server, ScriptedPolicy(["Four."]) as dear:
        agent = create_orchestrator(
            chat_policy(server),
            specialists=[specialist(down, fallback="dear"), specialist(dear, "dear")],
            changes=CatalogFilter(deny=frozenset({"dear"})),
        )
        result = go(agent, ASK)
    assert dear.requests == []
    assert texts(result["messages"])[2][1].startswith("Error: expert failed:")


def test_any_chat_model_is_a_specialist(go: Go):
    with ScriptedPolicy([calls("expert"), "Done."]) as server, ScriptedPolicy(["Four."]) as expert:
        model = as_specialist(chat_policy(expert), "expert", "Knows.", price=Price(input=1))
        result = go(create_orchestrator(chat_policy(server), specialists=[model]), ASK)
    call = ledger_of(result).calls[1]
    assert (call.model, call.status) == ("scripted", "ok")
    assert call.dollars == pytest.approx(call.input_tokens / 1e6)


def test_a_specialist_in_anybodys_agent(go: Go):
    with (
        ScriptedPolicy([Reply(calls=[("expert", {"task": "Go."})]), "Done."]) as server,
        ScriptedPolicy(["4."]) as expert,
    ):
        result = go(create_agent(chat_policy(server), [SpecialistTool(specialist(expert))]), ASK)
    message = result["messages"][2]
    assert message.text == "4."
    assert message.artifact["calls"][0]["dollars"] > 0
    assert expert.requests[0]["messages"][-1]["content"] == "What is 2 + 2?\n\nYour task: Go."


# --- preferences, budget and catalogue of a request ---


@pytest.mark.parametrize(
    "context",
    [
        OrchestratorContext(
            preferences=Preferences(cost=1.0),
            budget=Budget(turns=7),
            catalog=CatalogFilter(aliases={"add": "tool-1"}),
        ),
        {"preferences": {"cost": 1.0}, "budget": {"turns": 7}, "catalog": {"aliases": {"add": "tool-1"}}},
    ],
)
def test_a_requests_context_as_classes_and_as_plain_dictionaries(go: Go, context: Any):
    with ScriptedPolicy(["It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add], preferences=Preferences(latency=1.0))
        go(agent, ASK, context=context)
        go(agent, ASK)
    prompts = [request["messages"][0]["content"] for request in server.requests]
    assert prompts[0].endswith("Preferences: low cost matters most of all.\n\nBudget: 7 turns.")
    assert prompts[1].endswith("Preferences: low latency matters most of all.")
    assert [request["tools"][0]["function"]["name"] for request in server.requests] == ["tool-1", "add"]


def test_what_a_request_hides_renames_prices_and_shortlists(go: Go):
    def search(query: str) -> str:
        """Search documents."""
        return query

    with ScriptedPolicy(["It is 4."]) as server:
        url = server.url
        agent = create_orchestrator(
            chat_policy(server),
            [add, search],
            specialists=[
                specialist(url, "coder", description="Writes Python code."),
                specialist(url, "prover", description="Proves theorems about sums."),
            ],
            catalog=Catalog([Tool(name="search", price=Price(call=0.5), latency=2)]),
        )

        def shown(**changes: Any) -> list[tuple[str, str]]:
            go(agent, {"messages": [("user", "Write code, please")]}, context={"catalog": changes})
            functions = [schema["function"] for schema in server.requests[-1].get("tools", [])]
            return [(function["name"], function["description"]) for function in functions]

        assert [name for name, _ in shown()] == ["add", "search", "coder", "prover"]
        assert [name for name, _ in shown(allow=["add", "prover"])] == ["add", "prover"]
        assert [name for name, _ in shown(deny=["search"])] == ["add", "coder", "prover"]
        assert [name for name, _ in shown(aliases={"coder": "x"}, shortlist=1)] == ["add", "search", "x"]
        assert shown(prices={"search": {"call": 3}}, allow=["search"]) == [
            ("search", "Search documents. ($3 a call; about 2 s)")
        ]
        assert shown(allow=[]) == []


def test_calls_are_charged_at_the_requests_prices(go: Go):
    context = {"catalog": {"prices": {"add": {"call": 0.25}}}}
    with ScriptedPolicy([ADD, "It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add]), ASK, context=context)
    assert ledger_of(result).dollars == 0.25


def test_a_context_that_fits_nothing_is_refused_before_anything_is_spent(go: Go):
    with ScriptedPolicy(["It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add])
        with pytest.raises(UnknownEntryError, match="deny names 'nobody'"):
            go(agent, ASK, context={"catalog": {"deny": ["nobody"]}})
        with pytest.raises(ValueError, match=r"budget\.dollars"):
            go(agent, ASK, context={"budget": {"dollars": -1}})
    assert server.requests == []


# --- parallel calls ---


def test_parallel_calls_really_overlap(go: Go):
    together = threading.Barrier(3, timeout=60)

    def wait(n: int) -> int:
        """Wait for the others."""
        together.wait()
        return n

    async def await_others(n: int) -> int:
        return await asyncio.to_thread(wait, n)

    both = StructuredTool.from_function(wait, await_others, name="wait")
    script = [Reply(calls=[("wait", {"n": n}) for n in range(3)]), "Done."]
    with ScriptedPolicy(script) as server:
        result = go(create_orchestrator(chat_policy(server), [both]), ASK)
    assert sorted(texts(result["messages"])[2:5]) == [("tool", "0"), ("tool", "1"), ("tool", "2")]


def test_specialists_overlap_too(go: Go):
    together = threading.Barrier(3, timeout=60)

    def reply(_: object) -> Reply:
        together.wait()
        return Reply("Four.")

    with ScriptedPolicy([calls("a", "b", "c"), "Done."]) as server, ScriptedPolicy(reply) as expert:
        experts = [specialist(expert, name) for name in "abc"]
        result = go(create_orchestrator(chat_policy(server), specialists=experts), ASK)
    assert ledger_of(result).counts() == {"a": 1, "b": 1, "c": 1}


# --- the end of a budget ---


@pytest.mark.parametrize("budget", [Budget(turns=0), Budget(dollars=0), Budget(seconds=0)])
def test_a_budget_of_zero_spends_nothing(go: Go, budget: Budget):
    with ScriptedPolicy(["It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], budget=budget), ASK)
    assert server.requests == []
    assert result["messages"][-1].text.endswith("There is no result yet.")
    assert result["messages"][-1].response_metadata["toolorch_status"] == "budget"
    assert len(ledger_of(result)) == 0


def test_on_the_last_turn_the_policy_must_answer(go: Go):
    with ScriptedPolicy([ADD, "It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], budget=Budget(turns=2)), ASK)
    assert [request.get("tool_choice") for request in server.requests] == [None, "none"]
    assert server.requests[0]["tools"] == server.requests[1]["tools"]
    assert result["messages"][-1].text == "It is 4."


def test_a_policy_that_calls_on_its_last_turn_ends_with_what_there_is(go: Go):
    with ScriptedPolicy([ADD]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], budget=Budget(turns=3)), ASK)
    assert len(server.requests) == 3
    assert result["messages"][-1].text.endswith("So far:\nadd: 4\nadd: 4")
    assert not result["messages"][-1].tool_calls
    assert ledger_of(result).counts() == {"add": 2}


def test_dollars_end_a_run_in_front_of_the_next_call(go: Go):
    catalog = Catalog([Tool(name="add", price=Price(call=1.0))])
    with ScriptedPolicy([ADD]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], catalog=catalog, budget=Budget(dollars=2.5)), ASK)
    assert ledger_of(result).counts() == {"add": 3}
    assert ledger_of(result).dollars == 3.0
    assert "budget of dollars" in result["messages"][-1].text


def test_parallel_calls_do_not_pass_the_limit_together(go: Go):
    catalog = Catalog([Tool(name="add", price=Price(call=1.0))])
    many = Reply(calls=[("add", {"a": n, "b": 0}) for n in range(8)])
    with ScriptedPolicy([many]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], catalog=catalog, budget=Budget(dollars=2.5)), ASK)
    assert ledger_of(result).dollars == 3.0
    made = [call for call in ledger_of(result) if call.name == "add"]
    assert sorted(call.status for call in made) == ["budget"] * 5 + ["ok"] * 3
    assert sum("was not called: the budget of dollars" in text for _, text in texts(result["messages"])) == 5
    assert len(server.requests) == 1


def test_parallel_specialists_at_a_dear_price_do_not_pass_the_limit_together(go: Go):
    """The request's price counts, not the catalogue's, and the whole conversation, not a guess of its tokens."""
    with ScriptedPolicy([calls("a", "b", "c")]) as server, ScriptedPolicy(["Four." * 99]) as expert:
        agent = create_orchestrator(chat_policy(server), specialists=[specialist(expert, name) for name in "abc"])
        prices = {name: {"input": 3000, "output": 9000} for name in "abc"}
        result = go(agent, ASK, context={"catalog": {"prices": prices}, "budget": {"dollars": 1.0}})
    ledger = ledger_of(result)
    assert sorted(call.status for call in ledger.calls[1:]) == ["budget", "budget", "ok"]
    assert ledger.dollars > 1.0
    assert len(expert.requests) == 1


def test_the_policys_own_tokens_count(go: Go):
    with ScriptedPolicy([ADD]) as server:
        policy = chat_policy(server, price=Price(input=1000))
        result = go(create_orchestrator(policy, [add], budget=Budget(dollars=0.5)), ASK)
    ledger = ledger_of(result)
    dearest = max(call.dollars for call in ledger)
    assert 0.5 <= ledger.dollars <= 0.5 + dearest
    assert "budget of dollars" in result["messages"][-1].text


def test_a_deadline_ends_a_tool_and_the_run(go: Go):
    release = threading.Event()

    async def hang() -> str:
        """Hang."""
        await asyncio.to_thread(release.wait, 10)
        return "late"

    slow = StructuredTool.from_function(lambda: str(release.wait(10)), hang, name="hang", description="Hang.")
    with ScriptedPolicy([calls("hang")]) as server:
        result = go(create_orchestrator(chat_policy(server), [slow], budget=Budget(seconds=0.4)), ASK)
        release.set()
    assert statuses(result) == ["policy scripted ok", "tool hang timeout"]
    assert "budget of seconds ended" in result["messages"][-1].text
    assert len(server.requests) == 1


def test_a_deadline_ends_a_policy_call(go: Go):
    release = threading.Event()

    def script(request: Mapping[str, Any]) -> Reply:
        if request["messages"][-1]["role"] == "tool":
            release.wait(10)
        return ADD

    with ScriptedPolicy(script) as server, ScriptedPolicy(["Four."]) as expert:
        agent = create_orchestrator(
            chat_policy(server), [add], specialists=[specialist(expert)], budget=Budget(seconds=0.5)
        )
        result = go(agent, ASK)
        release.set()
    assert result["messages"][-1].text.endswith("So far:\nadd: 4")
    assert statuses(result)[-1] == "policy policy timeout"
    assert expert.requests == []


# --- what goes wrong with calls ---


def test_an_unknown_name_becomes_an_observation(go: Go):
    with ScriptedPolicy([calls("ad", a=1, b=1), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add]), ASK)
    message = result["messages"][2]
    assert message.text == "Error: there is no tool 'ad'. Choose one of: add."
    assert (message.status, message.name) == ("error", "ad")
    assert statuses(result)[1] == "tool ad unknown"


def test_a_real_name_behind_an_alias_is_unknown(go: Go):
    with ScriptedPolicy([ADD, "Sorry."]) as server:
        agent = create_orchestrator(chat_policy(server), [add], changes=CatalogFilter(aliases={"add": "tool-1"}))
        result = go(agent, ASK)
    assert result["messages"][2].text == "Error: there is no tool 'add'. Choose one of: tool-1."


def test_arguments_that_do_not_fit_name_the_field(go: Go):
    with ScriptedPolicy([Reply(calls=[("add", {"a": "two", "b": 2})]), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add]), ASK)
    assert result["messages"][2].text == (
        "Error: the call of add is not valid: a: 'two' is not of type 'integer'. Correct the arguments."
    )
    assert statuses(result)[1] == "tool add malformed"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"n": 0}, "n: 0 is less than or equal to the minimum of 0"),
        ({"n": 3}, "n: Value error, it is odd"),
        ({"n": 4, "m": 2}, "Value error, m is before n"),
    ],
)
def test_limits_and_validators_of_a_tool_are_told(go: Go, arguments: dict[str, int], reason: str):
    class Even(BaseModel):
        n: int = Field(gt=0)
        m: int = 10

        @field_validator("n")
        @classmethod
        def _check(cls, n: int) -> int:
            if n % 2:
                raise ValueError("it is odd")
            return n

        @model_validator(mode="after")
        def _order(self) -> Even:
            if self.m < self.n:
                raise ValueError("m is before n")
            return self

    @tool(args_schema=Even)
    def halve(n: int, m: int = 10) -> int:
        """Halve a number."""
        return n // 2

    with ScriptedPolicy([Reply(calls=[("halve", arguments)]), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), [halve]), ASK)
    assert result["messages"][2].text == f"Error: the call of halve is not valid: {reason}. Correct the arguments."
    assert statuses(result)[1] == "tool halve malformed"


def test_arguments_of_a_specialist_that_do_not_fit(go: Go):
    with ScriptedPolicy([Reply(calls=[("expert", {"task": [1]})]), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), specialists=[specialist(server.url)]), ASK)
    assert result["messages"][2].text.startswith("Error: the call of expert is not valid: ")
    assert statuses(result)[1] == "specialist expert malformed"


def test_a_tool_that_raises_is_an_observation(go: Go):
    def fail() -> str:
        """Fail."""
        raise RuntimeError("the disk is full")

    with ScriptedPolicy([calls("fail"), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), [fail]), ASK)
    assert result["messages"][2].text == (
        "Error: fail failed: RuntimeError: the disk is full. Try other arguments or another tool."
    )
    assert result["messages"][2].status == "error"
    assert "the disk is full" in ledger_of(result).calls[1].error


def test_a_tools_own_timeout_is_its_own(go: Go):
    def fail() -> str:
        """Fail."""
        raise TimeoutError("the database said nothing")

    with ScriptedPolicy([calls("fail"), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), [fail]), ASK)
    assert "the database said nothing" in result["messages"][2].text
    assert statuses(result)[1] == "tool fail error"


def test_a_tool_is_tried_again_as_often_as_its_entry_says(go: Go):
    tries: list[int] = []

    def flaky() -> str:
        """Work the third time."""
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("lost")
        return "ok"

    with ScriptedPolicy([calls("flaky"), "Done."]) as server:
        catalog = Catalog([Tool(name="flaky", retries=2)])
        result = go(create_orchestrator(chat_policy(server), [flaky], catalog=catalog), ASK)
    assert texts(result["messages"])[2] == ("tool", "ok")
    assert ledger_of(result).calls[1].attempts == 3


def test_a_tool_that_hangs_is_given_up(go: Go):
    release = threading.Event()

    def hang() -> str:
        """Hang."""
        release.wait(10)
        return "late"

    with ScriptedPolicy([calls("hang"), "Sorry."]) as server:
        result = go(create_orchestrator(chat_policy(server), [hang], tool_timeout=0.1), ASK)
        release.set()
    assert result["messages"][2].text == "Error: hang did not answer within 0.1 s. Try another tool."
    assert statuses(result)[1] == "tool hang timeout"


@pytest.mark.slow
def test_a_tool_that_hangs_does_not_keep_the_process_alive():
    program = """
import threading
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.testing import Reply, ScriptedPolicy

def hang() -> str:
    "Hang."
    threading.Event().wait()
    return ""

with ScriptedPolicy([Reply(calls=[("hang", {})]), "Sorry."]) as server:
    policy = ChatPolicy(model="m", base_url=server.url)
    agent = create_orchestrator(policy, [hang], tool_timeout=0.1)
    print(agent.invoke({"messages": [("user", "Go.")]})["messages"][-1].text)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "Sorry."


def test_ten_megabytes_are_cut(go: Go):
    def dump() -> str:
        """Dump everything."""
        return "a" * 5_000_000 + "b" * 5_000_000

    def blocks() -> list[dict[str, str]]:
        """Dump blocks."""
        return [{"type": "text", "text": "c" * 5_000_000}, {"type": "text", "text": "short"}]

    with ScriptedPolicy([calls("dump", "blocks"), "Done."]) as server:
        result = go(create_orchestrator(chat_policy(server), [dump, blocks]), ASK)
    cut, in_blocks = sorted(result["messages"][2:4], key=lambda message: str(message.name), reverse=True)
    assert len(cut.text) < MAX_CHARACTERS + 100
    assert cut.text.startswith("aaa")
    assert cut.text.endswith("bbb")
    assert "[9980000 characters left out]" in cut.text
    assert len(in_blocks.text) < MAX_CHARACTERS + 100
    assert in_blocks.text.endswith("short")


def test_a_tool_may_return_a_command(go: Go):
    @tool
    def note(text: str, runtime: ToolRuntime) -> Command[Any]:
        """Take a note."""
        return Command(
            update={"seen": 7, "messages": [ToolMessage(f"noted {text}", tool_call_id=runtime.tool_call_id)]}
        )

    @tool
    def notes(text: str, runtime: ToolRuntime) -> list[Any]:
        """Take notes."""
        return [Command(update={"seen": 8}), ToolMessage(f"noted {text} twice", tool_call_id=runtime.tool_call_id)]

    for name, expected in (("note", ("noted x", 7)), ("notes", ("noted x twice", 8))):
        with ScriptedPolicy([calls(name, text="x"), "Done."]) as server:
            result = go(create_orchestrator(chat_policy(server), [note, notes], state_schema=Counting), ASK)
        assert (texts(result["messages"])[2][1], result["seen"]) == expected
        assert statuses(result) == ["policy scripted ok", f"tool {name} ok", "policy scripted ok"]


def test_a_command_without_a_message_for_its_call_is_an_observation(go: Go):
    def silent() -> Command[Any]:
        """Say nothing."""
        return Command(update={"seen": 7})

    with ScriptedPolicy([calls("silent"), "Done."]) as server:
        result = go(create_orchestrator(chat_policy(server), [silent], state_schema=Counting), ASK)
    assert result["messages"][-1].text == "Done."
    assert result["messages"][2].status == "error"


def test_a_tool_that_ends_the_agent(go: Go):
    direct = StructuredTool.from_function(add, return_direct=True)
    with ScriptedPolicy([ADD, "Never asked."]) as server:
        result = go(create_orchestrator(chat_policy(server), [direct]), ASK)
    assert texts(result["messages"])[-1] == ("tool", "4")
    assert len(server.requests) == 1
    assert ledger_of(result).counts() == {"add": 1}


# --- what goes wrong with the policy ---

IN_TEXT = Reply(
    '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": }}\n</tool_call>'
)  # as vLLM leaves it unstreamed
IN_CALL = Reply(calls=[("add", '{"a": 2, "b": }')])  # as vLLM streams it


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("broken", [IN_TEXT, IN_CALL, Reply("")], ids=["in text", "in call", "empty"])
def test_a_reply_that_is_no_step_is_told_so(go: Go, broken: Reply, streaming: bool):
    with ScriptedPolicy([broken, ADD, "It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server, streaming=streaming), [add]), ASK)
    assert texts(result["messages"])[-2:] == [("tool", "4"), ("ai", "It is 4.")]
    assert result["messages"][2].text.startswith("Error: the ")
    assert ledger_of(result).turns == 3
    assert server.requests[1]["messages"][-1]["content"] == result["messages"][2].text


@pytest.mark.parametrize("broken", [IN_TEXT, IN_CALL, Reply(""), calls("nobody"), Reply(calls=[("add", {"a": "x"})])])
def test_after_three_failed_turns_a_specialist_answers(go: Go, broken: Reply):
    with ScriptedPolicy([broken]) as server, ScriptedPolicy(["Four."]) as expert:
        agent = create_orchestrator(chat_policy(server), [add], specialists=[specialist(expert)])
        result = go(agent, ASK)
    assert len(server.requests) == 3
    assert result["messages"][-1].text == "Four."
    assert statuses(result)[-1] == "specialist expert ok"


def test_without_a_specialist_failed_turns_end_with_the_budget(go: Go):
    with ScriptedPolicy([IN_CALL]) as server:
        result = go(create_orchestrator(chat_policy(server), [add], budget=Budget(turns=4)), ASK)
    assert len(server.requests) == 4
    assert "budget of turns ended" in result["messages"][-1].text


def test_a_broken_call_beside_a_good_one_is_told_so(go: Go):
    mixed = Reply(calls=[("add", '{"a": 2, "b": }'), ("add", {"a": 2, "b": 2})])
    with ScriptedPolicy([mixed, "It is 4."]) as server:
        result = go(create_orchestrator(chat_policy(server), [add]), ASK)
    answered = {
        message["tool_call_id"]: message["content"]
        for message in server.requests[1]["messages"]
        if "tool_call_id" in message
    }
    asked = [call["id"] for call in server.requests[1]["messages"][2]["tool_calls"]]
    assert sorted(answered) == sorted(asked)
    assert sorted(answered.values()) == [
        "4",
        "Error: the call could not be read. Call a tool with valid JSON arguments, or answer.",
    ]
    assert ledger_of(result).counts() == {"add": 1}


def test_a_good_turn_in_between_begins_the_count_anew(go: Go):
    script = [IN_CALL, IN_CALL, ADD, IN_CALL, IN_CALL, "It is 4."]
    with ScriptedPolicy(script) as server, ScriptedPolicy(["Four."]) as expert:
        agent = create_orchestrator(chat_policy(server), [add], specialists=[specialist(expert)])
        assert go(agent, ASK)["messages"][-1].text == "It is 4."
    assert expert.requests == []


FAILING = {
    "overloaded": Reply("overloaded", status=503),
    "nonsense": Reply(body="<html>busy</html>"),
    "no completion": Reply(body='{"choices": null}'),
}


@pytest.mark.parametrize("failing", list(FAILING))
def test_a_policy_that_fails_is_replaced_by_a_specialist(go: Go, failing: str):
    with ScriptedPolicy([FAILING[failing]]) as server, ScriptedPolicy(["Four."]) as expert:
        agent = create_orchestrator(
            chat_policy(server), [add], specialists=[specialist(server, "first"), specialist(expert)], fallback="expert"
        )
        result = go(agent, ASK)
    assert result["messages"][-1].text == "Four."
    assert statuses(result) == ["policy policy error", "specialist expert ok"]


@pytest.mark.parametrize("failing", list(FAILING))
def test_without_a_specialist_the_error_says_what_is_wrong(go: Go, failing: str):
    with ScriptedPolicy([FAILING[failing]]) as server, pytest.raises(EndpointError) as raised:
        go(create_orchestrator(chat_policy(server), [add]), ASK)
    assert raised.value.retryable


def test_a_policy_that_is_down_is_replaced_or_named_with_the_fix(go: Go):
    policy = ChatPolicy(model="m", base_url=f"http://127.0.0.1:{unused_port()}/v1", max_retries=0)
    with pytest.raises(EndpointError, match="`toolorch serve policy MODEL` starts one"):
        go(create_orchestrator(policy, [add]), ASK)
    with ScriptedPolicy(["Four."]) as expert:
        result = go(create_orchestrator(policy, [add], specialists=[specialist(expert)]), ASK)
    assert result["messages"][-1].text == "Four."


def test_a_slow_policy_is_replaced(go: Go):
    with ScriptedPolicy([Reply("late", delay=0.5)]) as server, ScriptedPolicy(["Four."]) as expert:
        policy = chat_policy(server, request_timeout=0.1)
        result = go(create_orchestrator(policy, [add], specialists=[specialist(expert)]), ASK)
    assert result["messages"][-1].text == "Four."


def test_a_server_without_tool_calling_is_named_with_the_fix(go: Go):
    refusal = Reply(
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', status=400
    )
    with ScriptedPolicy([refusal]) as server, ScriptedPolicy(["Four."]) as expert:
        agent = create_orchestrator(chat_policy(server), [add], specialists=[specialist(expert)])
        with pytest.raises(EndpointError, match=r"toolorch serve policy MODEL.*--tool-call-parser hermes"):
            go(agent, ASK)
    assert expert.requests == []  # a configuration fault is not paid for with specialists


def test_when_the_fallback_fails_too_the_run_ends_and_says_so(go: Go):
    with ScriptedPolicy([Reply("overloaded", status=503)]) as server:
        agent = create_orchestrator(chat_policy(server), specialists=[specialist(server)])
        result = go(agent, ASK)
    assert result["messages"][-1].text == NO_ANSWER
    assert result["messages"][-1].response_metadata["toolorch_status"] == "error"


# --- sync and async, threads and runs ---

LONG = [
    ADD,
    calls("nobody"),
    IN_CALL,
    Reply("Hm.", calls=[("add", {"a": 1, "b": 1}), ("expert", {"task": "Go."})], reasoning="Both."),
    "It is 4.",
]


def test_sync_and_async_give_the_same_messages_and_ledger(runner: asyncio.Runner):
    results = []
    for way in ("sync", "async"):
        with ScriptedPolicy(LONG) as server, ScriptedPolicy(["Four."]) as expert:
            agent = create_orchestrator(
                chat_policy(server, price=Price(input=1, output=1)), [add], specialists=[specialist(expert)]
            )
            results.append(agent.invoke(ASK) if way == "sync" else runner.run(agent.ainvoke(ASK)))
    one, other = results
    assert len(one["messages"]) == 11
    assert texts(one["messages"]) == texts(other["messages"])
    assert statuses(one)[:4] == statuses(other)[:4]
    assert sorted(statuses(one)) == sorted(statuses(other))
    assert ledger_of(one).dollars == pytest.approx(ledger_of(other).dollars)
    assert ledger_of(one).tokens == ledger_of(other).tokens
    for message in one["messages"]:
        if isinstance(message, AIMessage):
            assert "token_ids" not in message.response_metadata


def test_a_conversation_has_a_ledger_of_each_run(go: Go):
    config: Any = {"configurable": {"thread_id": "1"}}
    with ScriptedPolicy([ADD, "It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add], checkpointer=InMemorySaver(), budget=Budget(turns=2))
        for number in (1, 2, 3):
            result = go(agent, ASK, config)
            assert result["messages"][-1].text == "It is 4."  # the budget is each run's own
            assert ledger_of(result).turns == 2
            assert ledger_of(result, all_runs=True).turns == 2 * number
        ended = go(agent, ASK, config, context={"budget": {"turns": 0}})
    assert len(ledger_of(ended)) == 0
    assert ledger_of(ended, all_runs=True).turns == 6


def test_a_run_that_has_answered_is_let_go(go: Go):
    middleware = OrchestratorMiddleware()
    with ScriptedPolicy([calls("add", a=2, b=2), "It is 4."]) as server:
        go(create_agent(chat_policy(server), [add], middleware=[middleware]), ASK)
    assert len(middleware._runs) == 0


def test_a_changed_schema_under_the_same_name_is_another_catalogue():
    def texts(query: str) -> str:
        """Find."""
        return query

    def numbers(query: int) -> str:
        """Find."""
        return str(query)

    middleware = OrchestratorMiddleware()
    found = [StructuredTool.from_function(function, name="find", description="Find.") for function in (texts, numbers)]
    shown = [middleware.full_catalog([one])["find"].function_schema("find")["function"] for one in found]
    assert [schema["parameters"]["properties"]["query"]["type"] for schema in shown] == ["string", "integer"]
    assert middleware.full_catalog([found[0]]) is middleware.full_catalog([found[0]])


def test_many_requests_at_once_do_not_mix(runner: asyncio.Runner):
    def script(request: Mapping[str, Any]) -> Reply:
        number = next(m["content"] for m in request["messages"] if m["role"] == "user").split()[-1]
        if any(m["role"] == "tool" for m in request["messages"]):
            return Reply(f"answer {number}: {request['messages'][-1]['content']}")
        return Reply(calls=[("add", {"a": int(number), "b": 1})])

    async def all_at_once(agent: Any) -> list[Any]:
        return await asyncio.gather(*(agent.ainvoke({"messages": [("user", f"number {n}")]}) for n in range(16)))

    with ScriptedPolicy(script) as server:
        agent = create_orchestrator(chat_policy(server), [add])
        results = runner.run(all_at_once(agent))
        results += agent.batch([{"messages": [("user", f"number {n}")]} for n in range(16, 24)])
    for number, result in enumerate(results):
        assert result["messages"][-1].text == f"answer {number}: {number + 1}"
        assert ledger_of(result).turns == 2


async def test_a_cancelled_run_frees_what_it_had_reserved():
    started = asyncio.Event()

    async def hang() -> str:
        """Hang."""
        started.set()
        await asyncio.sleep(60)
        return ""

    middleware = OrchestratorMiddleware(catalog=Catalog([Tool(name="hang", price=Price(call=1))]))
    with ScriptedPolicy([calls("hang")]) as server:
        tools = [StructuredTool.from_function(coroutine=hang)]
        agent = create_agent(chat_policy(server), tools, middleware=[middleware])
        task = asyncio.create_task(agent.ainvoke(ASK))
        await started.wait()
        (run,) = middleware._runs._kept.values()
        assert list(run.account._reserved.values()) == [1.0]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert run.account._reserved == {}
