"""Capture of LangGraph apps: what stands in the store is what the policy server sent, whatever the app does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from tests.doubles import chat_policy, specialist, texts, unused_port
from tests.resume_worker import build
from toolorch_integrations import (
    Budget,
    CaptureWarning,
    Catalog,
    EndpointError,
    Preferences,
    Price,
    Tool,
)
from toolorch_integrations.capture import CaptureSession, capture
from toolorch_integrations.events import Deferred, TraceStatus
from toolorch_integrations.langgraph import CaptureHandler, ChatPolicy, as_specialist, create_orchestrator, ledger_of
from toolorch_integrations.policy_step import NO_ANSWER
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.trace import Trace

ASK: dict[str, Any] = {"messages": [("user", "What is 2 + 2?")]}
CONFIG: Any = {"configurable": {"thread_id": "1"}}
ADD = Reply("On it.", calls=[("add", {"a": 2, "b": 2})], reasoning="Add them.")
APPROVE: Command[Any] = Command(resume={"decisions": [{"type": "approve"}]})


class RecordedPolicy(ScriptedPolicy):
    """Keeps what it has sent, by response id."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent: dict[str, dict[str, Any]] = {}

    def completion(self, request: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        data = super().completion(request, reply)
        self.sent[data["id"]] = data
        return data


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def delete_project(name: str) -> str:
    """Delete a project."""
    return f"{name} is gone"


def traces(store: TraceStore) -> list[Trace]:
    """Return all traces, oldest first."""
    return list(store.full_traces())[::-1]


def assert_exact(store: TraceStore, *servers: RecordedPolicy) -> int:
    """Check that each sampled node holds exactly what a server sent, and that nothing it sent is missing."""
    sent = {(server.model, key): data for server in servers for key, data in server.sent.items()}
    seen = set()
    for trace in traces(store):
        for node in trace.graph.nodes:
            if node.turn is None:
                continue
            key = (node.turn.model, node.turn.response_id)
            data = sent[key]
            prompt, sampled = trace.graph.call_ids(node.index)
            assert prompt.tolist() == data["prompt_token_ids"]
            assert sampled.tolist() == data["choices"][0]["token_ids"]
            expected = [token["logprob"] for token in data["choices"][0]["logprobs"]["content"]]
            assert node.logprobs is not None
            assert node.logprobs.tolist() == pytest.approx(expected, abs=1e-6)
            seen.add(key)
        assert trace.exact
        assert all(path.exact for path in trace.paths())
    assert seen == set(sent)
    return len(seen)


# --- what is captured ---


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_a_run_of_an_orchestrator(store: TraceStore, way: str):
    async def consume(agent: Any) -> None:
        if way == "ainvoke":
            await agent.ainvoke(ASK)
        else:
            async for _ in agent.astream(ASK, stream_mode="messages"):
                pass

    script = [ADD, Reply(calls=[("add", {"a": 1, "b": 1}), ("expert", {"task": "Go."})]), "It is 4."]
    with RecordedPolicy(script) as server, ScriptedPolicy(["Four."]) as expert, capture(store) as session:
        agent = create_orchestrator(
            chat_policy(server, price=Price(input=1, output=2), temperature=0.7),
            [add],
            specialists=[specialist(expert)],
            catalog=Catalog([Tool(name="add", price=Price(call=0.25))]),
            preferences=Preferences(cost=0.5),
            budget=Budget(dollars=9),
            name="shop",
        )
        if way == "invoke":
            agent.invoke(ASK)
        elif way == "stream":
            list(agent.stream(ASK, stream_mode="messages"))
        else:
            asyncio.run(consume(agent))
    assert session.dropped == {}
    (trace,) = traces(store)
    assert assert_exact(store, server) == 3
    assert (trace.status, trace.app, trace.framework) == (TraceStatus.ANSWERED, "shop", "langgraph")
    assert (trace.request, trace.answer) == ("What is 2 + 2?", "It is 4.")
    assert trace.preferences == Preferences(cost=0.5).model_dump(mode="json")
    assert trace.budget == Budget(dollars=9).model_dump(mode="json")
    assert [entry["alias"] for entry in trace.catalog["entries"]] == ["add", "expert"]
    assert [node.role for node in trace.graph.nodes] == [
        *("system", "user", "assistant", "tool"),
        *("assistant", "tool", "tool", "assistant"),
    ]
    assert len(list(trace.paths())) == 1
    made = sorted((call.call.name, call.call.status.value, call.result, call.node) for call in trace.calls)
    assert made == [("add", "ok", "2", 4), ("add", "ok", "4", 2), ("expert", "ok", "Four.", 4)]
    assert {str(call.arguments) for call in trace.calls} == {
        "{'a': 2, 'b': 2}",
        "{'a': 1, 'b': 1}",
        "{'task': 'Go.'}",
    }
    sampled = trace.graph.nodes[2]
    assert sampled.turn is not None
    assert sampled.turn.sampling["temperature"] == 0.7
    assert sampled.turn.logprobs_mode == "processed_logprobs"
    assert sampled.turn.finish_reason == "tool_calls"
    assert sampled.message["reasoning"] == "Add them."
    assert trace.tools(sampled) == server.requests[0]["tools"]
    assert trace.policy_versions == ["scripted"]


@pytest.mark.parametrize("where", ["policy", "orchestrator"])
def test_the_trace_costs_what_the_ledger_says(store: TraceStore, where: str):
    price = Price(input=1, output=2)
    on_policy = {"price": price} if where == "policy" else {}
    on_orchestrator: Any = {"price": price} if where == "orchestrator" else {}
    script = [ADD, Reply(calls=[("expert", {})]), "It is 4."]
    with RecordedPolicy(script) as server, ScriptedPolicy(["Four."]) as expert, capture(store):
        agent = create_orchestrator(
            chat_policy(server, **on_policy),
            [add],
            specialists=[specialist(expert)],
            catalog=Catalog([Tool(name="add", price=Price(call=0.25))]),
            **on_orchestrator,
        )
        result = agent.invoke(ASK, context={"catalog": {"prices": {"add": {"call": 0.5}}}})
    (trace,) = traces(store)
    ledger = ledger_of(result)
    assert trace.totals.dollars == pytest.approx(ledger.dollars)
    assert trace.ledger().dollars == pytest.approx(ledger.dollars)
    assert (trace.totals.input_tokens, trace.totals.output_tokens) == ledger.tokens
    assert (trace.totals.turns, trace.totals.calls) == (3, 2)
    assert trace.metadata["run_id"] == ledger.calls[0].run_id


def test_an_agent_that_is_none_of_ours(store: TraceStore):
    with RecordedPolicy([ADD, "It is 4."]) as server, capture(store):
        create_agent(chat_policy(server), [add], system_prompt="Be brief.").invoke(ASK)
    (trace,) = traces(store)
    assert assert_exact(store, server) == 2
    assert [(call.call.name, call.result, call.node) for call in trace.calls] == [("add", "4", 2)]
    assert trace.calls[0].call.call_id == trace.graph.nodes[2].tool_call_ids[0]
    assert trace.preferences is None


def test_a_plain_endpoint_makes_an_inexact_trace(store: TraceStore):
    with RecordedPolicy([ADD, "It is 4."], exact=False) as server, capture(store):
        model = ChatOpenAI(model="gpt", base_url=server.url, api_key="none", max_retries=0)  # type: ignore[arg-type]
        create_agent(model, [add]).invoke(ASK)
    (trace,) = traces(store)
    assert not trace.exact
    assert trace.status is TraceStatus.ANSWERED
    assert [node.role for node in trace.graph.nodes] == ["user", "assistant", "tool", "assistant"]
    assert all(len(node.token_ids) == 0 for node in trace.graph.nodes)
    assert trace.totals.input_tokens > 0


def test_a_lone_model_makes_a_trace_of_its_own(store: TraceStore):
    class Answer(BaseModel):
        """An answer."""

        value: int

    with RecordedPolicy(['{"value": 4}']) as server, capture(store):
        model = chat_policy(server)
        model.invoke("One?")
        list(model.stream("Two?"))
        asyncio.run(chat_policy(server).ainvoke("Three?"))
        model.with_structured_output(Answer).invoke("Four?")
        model.batch(["Five?", "Six?"])
    assert assert_exact(store, server) == 6
    assert sorted(trace.request for trace in traces(store)) == sorted(
        ["One?", "Two?", "Three?", "Four?", "Five?", "Six?"]
    )
    assert {trace.status for trace in traces(store)} == {TraceStatus.ANSWERED}


def test_a_reply_that_does_not_fit_its_schema_is_captured_all_the_same(store: TraceStore):
    class Answer(BaseModel):
        """An answer."""

        value: int

    with RecordedPolicy(["four!"]) as server, capture(store):
        model = chat_policy(server).with_structured_output(Answer)
        with pytest.raises(ValueError, match="four!"):
            model.invoke("2 + 2?")
    assert assert_exact(store, server) == 1
    (trace,) = traces(store)
    assert trace.status is TraceStatus.ERROR


def test_a_handler_among_the_callbacks(store: TraceStore):
    recorder = Recorder(store)
    with RecordedPolicy([ADD, "It is 4."]) as server:
        agent = create_orchestrator(chat_policy(server), [add])
        agent.invoke(ASK, {"callbacks": [CaptureHandler(recorder)]})
        agent.invoke(ASK)  # nobody asked for this one
    recorder.close()
    assert len(traces(store)) == 1
    (trace,) = traces(store)
    assert trace.preferences is not None
    assert len(trace.calls) == 1


def test_a_conversation_of_several_runs(store: TraceStore):
    with RecordedPolicy([ADD, "It is 4."]) as server, capture(store):
        agent = create_orchestrator(chat_policy(server), [add], checkpointer=InMemorySaver())
        for _ in range(3):
            agent.invoke(ASK, CONFIG)
    assert assert_exact(store, server) == 6
    assert [trace.thread_id for trace in traces(store)] == ["1"] * 3
    assert len({trace.metadata["run_id"] for trace in traces(store)}) == 3


def test_long_runs_grow_with_their_length(store: TraceStore):
    with RecordedPolicy([*[ADD] * 20, "It is 4."]) as server, capture(store):
        create_orchestrator(chat_policy(server), [add]).invoke(ASK)
    (trace,) = traces(store)
    assert assert_exact(store, server) == 21
    last = max(server.sent.values(), key=lambda data: len(data["prompt_token_ids"]))
    held = sum(len(node.token_ids) for node in trace.graph.nodes)
    assert held == len(last["prompt_token_ids"]) + len(last["choices"][0]["token_ids"])


# --- branches ---


def test_malformed_calls_keep_their_ids(store: TraceStore):
    broken = Reply(calls=[("add", '{"a": 2, "b": }')])
    mixed = Reply(calls=[("add", '{"a": 2, "b": }'), ("add", {"a": 1, "b": 2})])
    in_text = Reply('<tool_call>\n{"name": "add", "arguments": {"a": }}\n</tool_call>')
    with RecordedPolicy([broken, mixed, in_text, "It is 4."]) as server, capture(store):
        result = create_orchestrator(chat_policy(server), [add]).invoke(ASK)
    assert result["messages"][-1].text == "It is 4."
    assert assert_exact(store, server) == 4
    (trace,) = traces(store)
    first = trace.graph.nodes[2]
    assert first.turn is not None
    assert first.turn.invalid_tool_calls[0]["args"] == '{"a": 2, "b": }'


def test_edited_histories_are_other_paths(store: TraceStore):
    with RecordedPolicy(["Four.", "Five.", "Six."]) as server, capture(store):
        model = chat_policy(server)

        def app(state: Any, config: RunnableConfig) -> Any:
            first = model.invoke([HumanMessage("2 + 2?")], config)
            model.invoke([HumanMessage("2 + 2?"), first, HumanMessage("Sure?")], config)
            model.invoke([HumanMessage("2 + 2?"), AIMessage("Other words."), HumanMessage("Sure?")], config)
            return {}

        graph = StateGraph(MessagesState)
        graph.add_node("app", app)
        graph.add_edge(START, "app")
        graph.compile().invoke(ASK)
    assert assert_exact(store, server) == 3
    (trace,) = traces(store)
    assert len(list(trace.paths())) == 2


def test_subagents_belong_to_the_trace_of_their_caller(store: TraceStore):
    inner_script = [Reply(calls=[("add", {"a": 1, "b": 1})]), "It is 2."]
    outer_script = [Reply(calls=[("solve", {"task": "1 + 1"})]), "Two."]
    with RecordedPolicy(inner_script, model="inner") as inner, RecordedPolicy(outer_script, model="outer") as outer:
        solver = create_orchestrator(chat_policy(inner), [add], name="solver")

        @tool
        def solve(task: str) -> str:
            """Solve a task."""
            return str(solver.invoke({"messages": [("user", task)]})["messages"][-1].text)

        with capture(store):
            create_orchestrator(chat_policy(outer), [solve], name="boss").invoke(ASK)
    assert assert_exact(store, inner, outer) == 4
    (trace,) = traces(store)
    assert trace.app == "boss"
    assert len(list(trace.paths())) == 2
    assert {node.turn.agent for node in trace.graph.nodes if node.turn is not None} == {"boss", "solver"}
    assert sorted(call.call.name for call in trace.calls) == ["add", "solve"]


def test_a_handoff_between_agents_is_no_interrupt(store: TraceStore):
    """`Command(graph=PARENT)` leaves a subgraph as an exception: the run goes on."""

    def leave(state: Any) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="second")

    with RecordedPolicy(["It is 4."]) as server, capture(store):
        inner = StateGraph(MessagesState)
        inner.add_node("leave", leave)
        inner.add_edge(START, "leave")
        graph = StateGraph(MessagesState)
        graph.add_node("first", inner.compile(), destinations=("second",))
        graph.add_node("second", create_orchestrator(chat_policy(server), [add]))
        graph.add_edge(START, "first")
        graph.add_edge("second", END)
        graph.compile().invoke(ASK)
    (trace,) = traces(store)
    assert trace.status is TraceStatus.ANSWERED


# --- interrupts ---


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupted_run_goes_on_in_the_same_trace(store: TraceStore, asynchronous: bool):
    delete = Reply(calls=[("delete_project", {"name": "old"}), ("add", {"a": 1, "b": 1})])
    with (
        RecordedPolicy([delete, delete, "Done."]) as server,
        capture(store) as session,
        asyncio.Runner() as runner,  # it keeps the context that it was made in
    ):
        agent = create_orchestrator(chat_policy(server), [add, delete_project], checkpointer=InMemorySaver())

        def step(state: Any) -> Any:
            return runner.run(agent.ainvoke(state, CONFIG)) if asynchronous else agent.invoke(state, CONFIG)

        step(ASK)
        session.flush()
        (waiting,) = traces(store)
        assert waiting.status is TraceStatus.INTERRUPTED
        assert waiting.calls == []
        step(APPROVE)
        session.flush()
        assert traces(store)[0].status is TraceStatus.INTERRUPTED
        step(Command(resume={"decisions": [{"type": "reject", "message": "enough"}]}))
    (trace,) = traces(store)
    assert trace.id == waiting.id
    assert trace.status is TraceStatus.ANSWERED
    assert (trace.request, trace.answer) == ("What is 2 + 2?", "Done.")
    assert assert_exact(store, server) == 3
    assert len(list(trace.paths())) == 1
    made = sorted((call.call.name, call.call.status.value) for call in trace.calls)
    assert made == [("add", "ok"), ("add", "ok"), ("delete_project", "ok"), ("delete_project", "refused")]
    refused = next(call for call in trace.calls if call.call.status.value == "refused")
    assert "enough" in refused.result
    assert refused.node is not None


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_another_process(store: TraceStore, tmp_path: Path):
    log, checkpoints = tmp_path / "deleted.txt", str(tmp_path / "checkpoints.db")
    with RecordedPolicy([Reply(calls=[("delete_project", {"name": "old"})]), "Done."]) as server:
        with SqliteSaver.from_conn_string(checkpoints) as saver, capture(store):
            build(server.url, str(log), saver).invoke(ASK, CONFIG)
        setup = {
            "url": checkpoints,
            "server": server.url,
            "thread": "1",
            "log": str(log),
            "decisions": [{"type": "approve"}],
            "store": str(store.url),
        }
        command = [sys.executable, "-m", "tests.resume_worker", json.dumps(setup)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
    (trace,) = traces(store)
    assert (trace.status, trace.answer) == (TraceStatus.ANSWERED, "Done.")
    assert assert_exact(store, server) == 2
    assert [(call.call.name, call.call.dollars) for call in trace.calls] == [("delete_project", 0.5)]
    assert trace.totals.dollars == pytest.approx(sum(call["dollars"] for call in json.loads(done.stdout)["ledger"]))


# --- how runs end ---


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("scope", [False, True])
def test_a_breakpoint_is_waited_at_in_the_same_trace(store: TraceStore, asynchronous: bool, scope: bool):
    recorder = Recorder(store)
    config: Any = CONFIG if scope else {**CONFIG, "callbacks": [CaptureHandler(recorder)]}
    with (
        RecordedPolicy([ADD, "It is 4."]) as server,
        capture(store) if scope else contextlib.nullcontext() as session,
        asyncio.Runner() as runner,
    ):
        agent = create_agent(chat_policy(server), [add], checkpointer=InMemorySaver(), interrupt_before=["tools"])

        def go(inputs: Any) -> None:
            if asynchronous:
                runner.run(agent.ainvoke(inputs, config))
            else:
                agent.invoke(inputs, config)

        go(ASK)
        (session or recorder).flush()
        assert [trace.status for trace in traces(store)] == [TraceStatus.INTERRUPTED]
        go(None)
    assert recorder.close()
    (trace,) = traces(store)
    assert (trace.status, trace.request, trace.answer) == (TraceStatus.ANSWERED, "What is 2 + 2?", "It is 4.")
    assert assert_exact(store, server) == 2
    assert len(list(trace.paths())) == 1


def test_a_budget_that_ends_a_run_is_its_status(store: TraceStore):
    with RecordedPolicy([ADD]) as server, capture(store):
        create_orchestrator(chat_policy(server), [add], budget=Budget(turns=2)).invoke(ASK)
        create_orchestrator(chat_policy(server), [add], budget=Budget(turns=0)).invoke(ASK)
    assert [trace.status for trace in traces(store)] == [TraceStatus.BUDGET] * 2
    assert traces(store)[0].answer.endswith("So far:\nadd: 4")


def test_calls_that_were_not_made_are_there_with_the_reason(store: TraceStore):
    many = Reply(calls=[("nobody", {}), ("add", {"a": "x"}), ("add", {"a": 1, "b": 1}), ("add", {"a": 2, "b": 2})])
    catalog = Catalog([Tool(name="add", price=Price(call=1))])
    with RecordedPolicy([many]) as server, capture(store):
        create_orchestrator(chat_policy(server), [add], catalog=catalog, budget=Budget(dollars=0.5)).invoke(ASK)
    (trace,) = traces(store)
    found = {call.call.status.value for call in trace.calls}
    assert {"unknown", "budget"} <= found
    assert len(trace.calls) == 4
    assert all(call.node == 2 for call in trace.calls)


def test_an_error_is_the_status_and_the_failed_call_is_kept(store: TraceStore):
    policy = ChatPolicy(model="m", base_url=f"http://127.0.0.1:{unused_port()}/v1", max_retries=0)
    with capture(store), pytest.raises(EndpointError):
        create_orchestrator(policy, [add]).invoke(ASK)
    (trace,) = traces(store)
    assert trace.status is TraceStatus.ERROR
    assert trace.error.startswith("EndpointError: The policy endpoint cannot be reached")
    assert [(call.call.kind.value, call.call.status.value) for call in trace.calls] == [("policy", "error")]
    assert trace.totals.turns == 1


def test_a_specialist_in_the_policys_place_is_charged_to_the_trace(store: TraceStore):
    overloaded = Reply("overloaded", status=503)
    with RecordedPolicy([overloaded]) as server, ScriptedPolicy(["Four."]) as expert, capture(store):
        result = create_orchestrator(chat_policy(server), specialists=[specialist(expert)]).invoke(ASK)
    (trace,) = traces(store)
    assert (trace.status, trace.answer) == (TraceStatus.ANSWERED, "Four.")
    assert [(call.call.name, call.call.status.value, call.result) for call in trace.calls][1:] == [
        ("expert", "ok", "Four.")
    ]
    assert trace.totals.dollars == pytest.approx(ledger_of(result).dollars)


def test_a_run_that_nobody_could_answer_is_an_error(store: TraceStore):
    overloaded = Reply("overloaded", status=503)
    with RecordedPolicy([overloaded]) as server, ScriptedPolicy([overloaded]) as expert, capture(store):
        create_orchestrator(chat_policy(server), specialists=[specialist(expert)]).invoke(ASK)
    (trace,) = traces(store)
    assert (trace.status, trace.answer) == (TraceStatus.ERROR, NO_ANSWER)
    assert trace.error == "neither the policy nor expert in its place gave an answer"


def test_a_model_that_no_orchestrator_asks_is_not_the_policy(store: TraceStore):
    class Summariser(AgentMiddleware):
        def before_model(self, state: Any, runtime: Any) -> None:
            chat_policy(helper).invoke("Sum up.")

    with (
        RecordedPolicy([ADD, "It is 4."]) as server,
        ScriptedPolicy(["Short."], model="helper") as helper,
        capture(store),
    ):
        price = Price(input=1, output=2, call=0.5)
        agent = create_orchestrator(chat_policy(server), [add], price=price, middleware=[Summariser()])
        result = agent.invoke(ASK)
    (trace,) = traces(store)
    turns = [node.turn for node in trace.graph.nodes if node.turn is not None]
    assert {(turn.model, turn.is_policy, turn.dollars > 0) for turn in turns} == {
        ("scripted", True, True),
        ("helper", False, False),
    }
    assert trace.totals.turns == 2
    assert trace.totals.dollars == pytest.approx(ledger_of(result).dollars)


def test_specialists_are_calls_and_never_sampled_turns(store: TraceStore):
    script = [Reply(calls=[("expert", {"task": "Go."})]), "Done."]
    with (
        RecordedPolicy(script) as server,
        RecordedPolicy(["Four."], model="specialist") as expert,
        capture(store),
    ):
        models = [as_specialist(chat_policy(expert), "expert", "Knows.")]
        create_orchestrator(chat_policy(server), specialists=models).invoke(ASK)
    (trace,) = traces(store)
    assert {node.turn.model for node in trace.graph.nodes if node.turn is not None} == {"scripted"}
    assert [(call.call.kind.value, call.call.model) for call in trace.calls] == [("specialist", "specialist")]


async def test_a_cancelled_run_is_interrupted_and_leaves_nothing_behind(store: TraceStore):
    asked, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def script(_: object) -> Reply:
        loop.call_soon_threadsafe(asked.set)
        release.wait(10)
        return Reply("late")

    with RecordedPolicy(script) as server:
        async with capture(store) as session:
            handler = CaptureHandler(session.recorder)
            agent = create_orchestrator(chat_policy(server), [add])
            task = asyncio.create_task(agent.ainvoke(ASK, {"callbacks": [handler]}))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert handler._traces == {}
            assert handler._pending == {}
        release.set()
    assert {(trace.status, trace.error) for trace in traces(store)} == {(TraceStatus.INTERRUPTED, "")}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_nobody_reads_on_is_interrupted(store: TraceStore, asynchronous: bool):
    async def look(agent: Any) -> None:
        stream = agent.astream(ASK)
        await anext(stream)
        await stream.aclose()

    with ScriptedPolicy([ADD, "It is 4."]) as server, capture(store):
        agent = create_agent(chat_policy(server), [add])
        if asynchronous:
            asyncio.run(look(agent))
        else:
            stream = agent.stream(ASK)
            next(stream)
            stream.close()
    (trace,) = traces(store)
    assert (trace.status, trace.error) == (TraceStatus.INTERRUPTED, "")


# --- side by side ---


def numbered(request: Mapping[str, Any]) -> Reply:
    number = next(m["content"] for m in request["messages"] if m["role"] == "user").split()[-1]
    if any(m["role"] == "tool" for m in request["messages"]):
        return Reply(f"answer {number}")
    return Reply(calls=[("add", {"a": int(number), "b": 1})])


def check_numbered(store: TraceStore, server: RecordedPolicy, count: int) -> None:
    assert assert_exact(store, server) == 2 * count
    found = traces(store)
    assert len(found) == count
    for trace in found:
        number = trace.request.split()[-1]
        assert trace.answer == f"answer {number}"
        assert [call.result for call in trace.calls] == [str(int(number) + 1)]


async def test_runs_of_concurrent_tasks_are_kept_apart(store: TraceStore):
    with RecordedPolicy(numbered) as server:
        async with capture(store):
            agent = create_orchestrator(chat_policy(server), [add])
            await asyncio.gather(*(agent.ainvoke({"messages": [("user", f"number {n}")]}) for n in range(16)))
    check_numbered(store, server, 16)


def test_runs_of_concurrent_threads_are_kept_apart(store: TraceStore):
    with RecordedPolicy(numbered) as server, capture(store):
        agent = create_orchestrator(chat_policy(server), [add])
        agent.batch([{"messages": [("user", f"number {n}")]} for n in range(8)])
    check_numbered(store, server, 8)


def test_two_scopes_in_two_threads_do_not_see_each_other(tmp_path: Path):
    stores = [tmp_path / "one.db", tmp_path / "two.db"]
    start = threading.Barrier(2)
    with RecordedPolicy(numbered) as server:
        agent = create_orchestrator(chat_policy(server), [add])

        def work(number: int) -> None:
            with capture(stores[number]):
                start.wait()
                for _ in range(3):
                    agent.invoke({"messages": [("user", f"number {number}")]})

        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, path in enumerate(stores):
        with TraceStore.open(path) as store:
            assert [trace.request for trace in traces(store)] == [f"number {number}"] * 3


# --- capture and the app ---


def facts(result: Mapping[str, Any]) -> Any:
    def clean(data: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in data.items() if key not in ("id", "run_id", "seconds", "tool_call_id")}

    messages = [
        clean(
            message.model_dump(
                exclude={"response_metadata": {"id"}, "tool_calls": {"__all__": {"id"}}, "artifact": True}
            )
        )
        for message in result["messages"]
    ]
    ledger = [{k: v for k, v in clean(call).items() if k != "call_id"} for call in result["ledger"]]
    return messages, ledger, set(result)


def test_the_result_is_the_same_with_capture_on_and_off(store: TraceStore):
    script = [ADD, Reply(calls=[("expert", {"task": "Go."}), ("nobody", {})]), Reply(""), "It is 4."]

    def go(captured: bool) -> Any:
        with RecordedPolicy(script) as server, ScriptedPolicy(["Four."]) as expert:
            agent = create_orchestrator(chat_policy(server), [add], specialists=[specialist(expert)])
            if not captured:
                return agent.invoke(ASK)
            with capture(store):
                return agent.invoke(ASK)

    assert facts(go(captured=False)) == facts(go(captured=True))


def test_the_prompts_are_the_same_with_capture_on_and_off(store: TraceStore):
    def prompts(scope: Callable[[], Any]) -> list[Any]:
        with RecordedPolicy([ADD, "It is 4."]) as server, scope():
            create_orchestrator(chat_policy(server), [add]).invoke(ASK)
        return [
            [{k: v for k, v in m.items() if k not in ("tool_calls", "tool_call_id")} for m in request["messages"]]
            for request in server.requests
        ]

    assert prompts(lambda: capture(store)) == prompts(contextlib.nullcontext)


@pytest.mark.filterwarnings("ignore::toolorch_integrations.errors.CaptureWarning")
@pytest.mark.parametrize("fault", ["locked", "gone", "not a database"])
def test_a_store_that_cannot_be_written_does_not_stop_the_app(tmp_path: Path, fault: str):
    path = tmp_path / "traces.db"
    blocker: sqlite3.Connection | None = None
    if fault == "locked":
        TraceStore.open(path).close()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        target: Any = TraceStore(path, busy_seconds=0.05)
    elif fault == "gone":
        (tmp_path / "file").write_text("no folder")
        target = tmp_path / "file" / "traces.db"
    else:
        path.write_bytes(b"This is no database. " * 500)
        target = path
    with RecordedPolicy([ADD, "It is 4."]) as server:
        session: CaptureSession = capture(target, timeout=0.5)
        with session:
            result = create_orchestrator(chat_policy(server), [add]).invoke(ASK)
    if blocker is not None:
        blocker.close()
    assert texts(result["messages"])[-1] == ("ai", "It is 4.")
    assert sum(session.dropped.values()) > 0


def test_what_is_lost_is_warned_about_once(tmp_path: Path):
    path = tmp_path / "traces.db"
    path.write_bytes(b"This is no database. " * 500)
    warned = pytest.warns(CaptureWarning, match="capture loses events")
    with RecordedPolicy(["It is 4."]) as server, warned, capture(path, timeout=0.5):
        create_orchestrator(chat_policy(server)).invoke(ASK)


LOST = ["langgraph.capture.policy_called", "langgraph.capture.request_in", "reporting.TraceAnnotated"]


@pytest.mark.parametrize("lost", [*LOST, "langgraph.capture.tool_called", "langgraph.capture.policy_failed"])
def test_what_cannot_be_decoded_is_counted_in_its_trace(store: TraceStore, monkeypatch: pytest.MonkeyPatch, lost: str):
    """Trainers go by this: a run of which something is lost is not learnt from."""
    make: Callable[..., Any] = create_orchestrator if lost in LOST else create_agent
    script = [ADD, Reply("overloaded", status=400) if lost.endswith("failed") else "It is 4."]
    monkeypatch.setattr(f"toolorch_integrations.{lost}", lambda *_, **__: 1 / 0)
    with (
        ScriptedPolicy(script) as server,
        pytest.warns(CaptureWarning),
        capture(store) as session,
        contextlib.suppress(openai.BadRequestError),
    ):
        make(chat_policy(server), [add]).invoke(ASK)
    (trace,) = traces(store)
    assert trace.metadata["dropped"] == session.dropped == {"decode": 2 if lost.endswith("policy_called") else 1}


def test_what_a_full_queue_does_not_take_is_counted_in_its_trace(store: TraceStore):
    recorder, go = Recorder(store, max_events=2), threading.Event()
    recorder.put(Deferred("f" * 32, lambda: [] if go.wait(20) else None))
    with ScriptedPolicy([ADD, "It is 4."]) as server, pytest.warns(CaptureWarning, match="overflow"):
        create_agent(chat_policy(server), [add]).invoke(ASK, {"callbacks": [CaptureHandler(recorder)]})
    go.set()
    assert recorder.close()
    (trace,) = traces(store)
    assert trace.status is TraceStatus.ANSWERED
    assert trace.metadata["dropped"] == recorder.dropped
