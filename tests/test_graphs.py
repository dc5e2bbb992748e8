"""Orchestrators as parts of larger graphs: nodes, subgraphs, streams, checkpoints."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from tests.doubles import chat_policy, specialist, texts
from toolorch_integrations import Budget, EmptyMessagesError, Ledger, Preferences, Price
from toolorch_integrations.langgraph import OrchestratorContext, as_node, create_orchestrator, ledger_of
from toolorch_integrations.testing import Reply, ScriptedPolicy

CONFIG: Any = {"configurable": {"thread_id": "1"}}
ASK: dict[str, Any] = {"messages": [("user", "What is 2 + 2?")]}
ADD = Reply("On it.", calls=[("add", {"a": 2, "b": 2})])
Go = Callable[..., dict[str, Any]]


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


def delete_project(name: str) -> str:
    """Delete a project."""
    return f"{name} is gone"


class Work(TypedDict, total=False):
    question: Any
    answer: str
    spent: Annotated[list[dict[str, Any]], operator.add]


def graph_of(node: Any, **compile_options: Any) -> Any:
    graph = StateGraph(Work, context_schema=OrchestratorContext)
    graph.add_node("work", node)
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return graph.compile(**compile_options)


# --- a node of a graph with another state ---


@pytest.mark.parametrize(
    "question",
    [
        "What is 2 + 2?",
        HumanMessage("What is 2 + 2?"),
        [HumanMessage("What is 2 + 2?")],
        [("user", "What is 2 + 2?")],
        [{"role": "user", "content": "What is 2 + 2?"}],
    ],
)
def test_a_node_takes_a_request_and_gives_the_answer(go: Go, question: Any):
    with ScriptedPolicy([ADD, "It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add])
        node = as_node(agent, input_key="question", output_key="answer", ledger_key="spent")
        result = go(graph_of(node), {"question": question})
    assert result["answer"] == "It is 4."
    assert Ledger.from_dicts(result["spent"]).counts() == {"add": 1}
    assert server.requests[0]["messages"][1]["content"] == "What is 2 + 2?"


def test_a_node_takes_the_requests_context(go: Go):
    with ScriptedPolicy(["It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add])
        graph = graph_of(as_node(agent, input_key="question", output_key="answer"))
        go(graph, {"question": "2 + 2?"}, context={"preferences": Preferences(cost=1.0), "budget": {"turns": 3}})
    assert server.requests[0]["messages"][0]["content"].endswith(
        "Preferences: low cost matters most of all.\n\nBudget: 3 turns."
    )


@pytest.mark.parametrize("state", [{}, {"question": ""}, {"question": "  "}, {"question": []}, {"question": None}])
def test_a_node_without_a_request_says_so(go: Go, state: Work):
    with ScriptedPolicy(["It is 4."]) as server:
        node = as_node(create_orchestrator(chat_policy(server)), input_key="question", output_key="answer")
        with pytest.raises(EmptyMessagesError, match="'question' holds no request"):
            go(graph_of(node), state)
    assert server.requests == []


def test_the_silent_trap_is_an_error(go: Go):
    """An agent on `messages` in a graph without them would be asked nothing, for money."""
    with ScriptedPolicy(["It is 4."]) as server:
        graph = graph_of(create_orchestrator(chat_policy(server)))
        with pytest.raises(EmptyMessagesError, match="as_node"):
            go(graph, {"question": "2 + 2?"})
    assert server.requests == []


def test_an_interrupt_of_a_node_reaches_the_graph_and_goes_back(go: Go):
    with ScriptedPolicy([Reply(calls=[("delete_project", {"name": "old"})]), "Done."]) as server:
        agent = create_orchestrator(chat_policy(server), [delete_project])
        node = as_node(agent, input_key="question", output_key="answer", ledger_key="spent")
        graph = graph_of(node, checkpointer=InMemorySaver())
        waiting = go(graph, {"question": "Clean up."}, CONFIG)
        assert waiting["__interrupt__"][0].value["action_requests"][0]["name"] == "delete_project"
        result = go(graph, Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert result["answer"] == "Done."
    assert Ledger.from_dicts(result["spent"]).counts() == {"delete_project": 1}
    assert len(server.requests) == 2


# --- a subgraph ---


def parent_of(agent: Any, **compile_options: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("before", lambda state: {})
    graph.add_node("agent", agent)
    graph.add_edge(START, "before")
    graph.add_edge("before", "agent")
    graph.add_edge("agent", END)
    return graph.compile(**compile_options)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_subgraph_shares_the_messages(go: Go, checkpointed: bool):
    with ScriptedPolicy([ADD, "It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add], name="solver")
        parent = parent_of(agent, checkpointer=InMemorySaver() if checkpointed else None)
        result = go(parent, ASK, CONFIG)
        assert texts(result["messages"])[-1] == ("ai", "It is 4.")
        assert [name for name, _ in parent.get_subgraphs()] == ["agent"]
        again = go(parent, ASK, CONFIG)
    assert len(again["messages"]) == (8 if checkpointed else 4)


def test_a_subgraph_waits_and_goes_on(go: Go):
    with ScriptedPolicy([Reply(calls=[("delete_project", {"name": "old"})]), "Done."]) as server:
        parent = parent_of(create_orchestrator(chat_policy(server), [delete_project]), checkpointer=InMemorySaver())
        assert "__interrupt__" in go(parent, ASK, CONFIG)
        result = go(parent, Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert result["messages"][-1].text == "Done."
    assert len(server.requests) == 2


def test_a_subgraph_with_a_memory_of_its_own(go: Go):
    """`checkpointer=True`: the subgraph remembers, also where its parent's state knows nothing of it."""

    class Other(TypedDict):
        messages: list[Any]

    with ScriptedPolicy([ADD, "It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add], checkpointer=True)
        graph = StateGraph(Other)
        graph.add_node("agent", agent)
        graph.add_edge(START, "agent")
        parent = graph.compile(checkpointer=InMemorySaver())
        go(parent, ASK, CONFIG)
        go(parent, ASK, CONFIG)
    assert len(server.requests[2]["messages"]) > len(server.requests[1]["messages"])


def test_an_orchestrator_is_a_tool_of_another(go: Go):
    with (
        ScriptedPolicy([ADD, "It is 4."]) as inner,
        ScriptedPolicy([Reply(calls=[("solve", {"task": "2 + 2"})]), "4."]) as outer,
    ):
        solver = create_orchestrator(chat_policy(inner), [add])

        def solve(task: str) -> str:
            """Solve a task."""
            return str(solver.invoke({"messages": [("user", task)]})["messages"][-1].text)

        result = go(create_orchestrator(chat_policy(outer), [solve]), ASK)
    assert texts(result["messages"])[2:] == [("tool", "It is 4."), ("ai", "4.")]
    assert ledger_of(result).counts() == {"solve": 1}


# --- streams ---


@pytest.fixture
def agent() -> Iterator[Any]:
    script = [ADD, Reply(calls=[("expert", {"task": "Go."})]), "It is 4, which is four."]
    with ScriptedPolicy(script) as server, ScriptedPolicy(["Four."]) as expert:
        yield create_orchestrator(
            chat_policy(server, price=Price(input=1)), [add], specialists=[specialist(expert)], budget=Budget(turns=9)
        )


def test_values_and_updates(agent: Any):
    values = list(agent.stream(ASK, stream_mode="values"))
    assert values[-1]["messages"][-1].text == "It is 4, which is four."
    assert len(ledger_of(values[-1])) == 5
    updates = list(agent.stream(ASK, stream_mode="updates"))
    nodes = [name for update in updates for name in update]
    assert [name for name in nodes if name in ("model", "tools")] == ["model", "tools", "model", "tools", "model"]


def test_messages_come_token_by_token_and_specialists_stay_silent(agent: Any):
    chunks = [message for message, _ in agent.stream(ASK, stream_mode="messages")]
    written = [chunk.text for chunk in chunks if isinstance(chunk, AIMessageChunk)]
    assert "".join(written).endswith("It is 4, which is four.")
    assert len([text for text in written if text]) >= 4
    assert "Four." not in written


def test_progress_comes_for_each_call_with_what_it_cost(agent: Any):
    events = list(agent.stream(ASK, stream_mode="custom"))
    assert [event["type"] for event in events] == [
        "turn",
        "call_started",
        "call_ended",
        "turn",
        "call_started",
        "call_ended",
        "turn",
    ]
    assert events[0]["calls"] == ["add"]
    assert events[0]["text"] == "On it."
    assert (events[1]["name"], events[1]["arguments"]) == ("add", {"a": 2, "b": 2})
    assert (events[2]["result"], events[2]["status"]) == ("4", "ok")
    assert (events[5]["name"], events[5]["kind"], events[5]["result"]) == ("expert", "specialist", "Four.")
    spent = [event["total"]["dollars"] for event in events if "total" in event]
    assert spent == sorted(spent)
    assert spent[-1] > spent[0] > 0


@pytest.mark.parametrize(
    ("options", "kind"), [({"budget": Budget(turns=1)}, "budget_ended"), ({"broken": True}, "fallback")]
)
def test_progress_tells_how_a_run_ends(options: dict[str, Any], kind: str):
    reply = Reply("") if options.pop("broken", False) else ADD
    with ScriptedPolicy([reply]) as server, ScriptedPolicy(["Four."]) as expert:
        agent = create_orchestrator(chat_policy(server), [add], specialists=[specialist(expert)], **options)
        events = list(agent.stream(ASK, stream_mode="custom"))
    assert kind in [event["type"] for event in events]


async def test_several_modes_at_once_in_both_versions(agent: Any):
    modes = ["values", "updates", "messages", "custom"]
    seen = {mode async for mode, _ in agent.astream(ASK, stream_mode=modes)}
    assert seen == set(modes)
    parts = [part async for part in agent.astream(ASK, stream_mode=modes, version="v2")]
    assert {part["type"] for part in parts} == set(modes)
    assert all(set(part) >= {"type", "ns", "data"} for part in parts)
    assert parts[-1]["data"]["messages"][-1].text == "It is 4, which is four."


def test_a_stream_through_a_parent_graph(agent: Any):
    parts = list(parent_of(agent).stream(ASK, stream_mode=["custom", "messages"], subgraphs=True))
    assert {mode for _, mode, _ in parts} == {"custom", "messages"}
    assert all(namespace for namespace, _, _ in parts)


async def test_the_event_stream_names_models_and_tools(agent: Any):
    events = [event async for event in agent.astream_events(ASK, version="v2")]
    assert {"on_chat_model_stream", "on_tool_start", "on_tool_end", "on_chain_end"} <= {e["event"] for e in events}
    assert [event["name"] for event in events if event["event"] == "on_tool_start"] == ["add", "expert"]
    assert events[-1]["data"]["output"]["messages"][-1].text == "It is 4, which is four."


def test_a_stream_and_a_call_end_in_the_same_state(agent: Any):
    streamed = list(agent.stream(ASK, stream_mode="values"))[-1]
    called = agent.invoke(ASK)
    assert texts(streamed["messages"]) == texts(called["messages"])
    assert ledger_of(streamed).tokens == ledger_of(called).tokens


# --- checkpoints ---


def test_the_state_passes_the_strict_serializer(agent: Any):
    result = agent.invoke(ASK, context={"preferences": Preferences(cost=0.5, tools={"expert": 1.0})})
    strict = JsonPlusSerializer(allowed_msgpack_modules=None, pickle_fallback=False)
    assert texts(strict.loads_typed(strict.dumps_typed(result))["messages"]) == texts(result["messages"])
    plain = {key: value for key, value in result.items() if key != "messages"}
    bare = JsonPlusSerializer(allowed_msgpack_modules=(), pickle_fallback=False)
    assert bare.loads_typed(bare.dumps_typed(plain)) == plain


def test_checkpoints_grow_with_the_conversation_and_hold_no_token_ids():
    turns = 12
    with (
        ScriptedPolicy([*[ADD] * turns, "It is 4."]) as server,
        SqliteSaver.from_conn_string(":memory:") as saver,
    ):
        agent = create_orchestrator(chat_policy(server), [add], checkpointer=saver, budget=Budget(turns=turns + 1))
        result = agent.invoke(ASK, CONFIG)
        states = list(agent.get_state_history(CONFIG))
        latest = saver.get_tuple(CONFIG)
    assert len(result["messages"]) == 2 * turns + 2
    for message in result["messages"]:
        if isinstance(message, AIMessage):
            assert {"token_ids", "prompt_token_ids", "logprobs"}.isdisjoint(message.response_metadata)
    sizes = [len(saver.serde.dumps_typed(state.values)[1]) for state in reversed(states) if state.values]
    assert latest is not None
    grown = [after - before for before, after in itertools.pairwise(sizes) if after > before]
    assert max(grown[-6:]) < 1.2 * max(grown[:6])  # with ids in it, each step would add more than the one before
    assert b"run" in saver.serde.dumps_typed(latest.checkpoint["channel_values"])[1]


def test_the_runs_bookkeeping_is_no_input_and_no_output(agent: Any):
    result = agent.invoke({**ASK, "ledger": [{"kind": "policy", "name": "forged"}], "run": {"id": "forged"}})
    assert "run" not in result
    assert "forged" not in str(result["ledger"])
