"""Capture of LlamaIndex apps: of orchestrators, of agents that are not ours, of bare LLMs and query engines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai_like import OpenAILike
from llama_index_instrumentation import get_dispatcher
from workflows.errors import WorkflowTimeoutError

from toolorch_integrations import Budget, CaptureWarning, Endpoint, Price, Specialist
from toolorch_integrations.capture import capture
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import CallKind, CallStatus
from toolorch_integrations.llamaindex import (
    CaptureHandler,
    OrchestratorAgent,
    PolicyLLM,
    SpecialistTool,
    as_specialist,
    exact_data,
    ledger_of,
)
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy
from toolorch_integrations.trace import Trace


def search(query: str) -> str:
    """Search."""
    return f"about {query}"


ONE_CALL: list[Reply | str] = [Reply(calls=[("search", {"query": "tents"})]), "Two."]


def llm_of(policy: ScriptedPolicy, **fields: Any) -> PolicyLLM:
    return PolicyLLM("scripted", policy.url, max_retries=0, **fields)


def handlers() -> tuple[int, int]:
    root = get_dispatcher()
    return len(root.event_handlers), len(root.span_handlers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


@contextmanager
def traces_in(path: Path) -> Iterator[list[Trace]]:
    with TraceStore.open(path) as store:
        yield sorted(store.full_traces(), key=lambda trace: trace.started)


def only(path: Path) -> Trace:
    with traces_in(path) as traces:
        (trace,) = traces
        return trace


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_that_is_not_ours(path: Path, streaming: bool) -> None:
    before = handlers()
    with ScriptedPolicy(ONE_CALL) as policy:
        agent = FunctionAgent(name="shop", tools=[search], llm=llm_of(policy, temperature=0.5), streaming=streaming)
        with capture(path):
            output = await agent.run(user_msg="Tents?")
    assert str(output) == "Two."
    assert handlers() == before
    trace = only(path)
    assert (trace.framework, trace.app, trace.request, trace.answer) == ("llamaindex", "shop", "Tents?", "Two.")
    assert trace.status is TraceStatus.ANSWERED
    assert trace.exact
    assert [node.role for node in trace.graph.nodes] == ["user", "assistant", "tool", "assistant"]
    (entry,) = trace.calls
    assert (entry.call.name, entry.call.kind, entry.call.status) == ("search", CallKind.TOOL, CallStatus.OK)
    assert (entry.arguments, entry.result, entry.node) == ({"query": "tents"}, "about tents", 1)
    turn = trace.graph.nodes[1].turn
    assert turn is not None
    assert turn.sampling == {"temperature": 0.5}
    assert turn.agent == ""
    assert trace.tools(trace.graph.nodes[1])[0]["function"]["name"] == "search"


async def test_the_apps_result_is_the_same_with_capture(path: Path) -> None:
    with ScriptedPolicy(ONE_CALL) as policy:
        agent = FunctionAgent(tools=[search], llm=llm_of(policy), streaming=False)
        plain = await agent.run(user_msg="Tents?")
        with capture(path):
            captured = await agent.run(user_msg="Tents?")
    assert captured.response == plain.response
    assert [call.tool_kwargs for call in captured.tool_calls] == [call.tool_kwargs for call in plain.tool_calls]


async def test_an_orchestrator_adds_what_instrumentation_cannot_see(path: Path) -> None:
    script = [Reply(calls=[("coder", {"task": "Write."}), ("fly", {})]), "Done."]
    with ScriptedPolicy(["Written."], model="helper") as helper, ScriptedPolicy(script) as policy:
        coder = Specialist(name="coder", endpoint=Endpoint(url=helper.url, model="helper"), price=Price(call=0.01))
        agent = OrchestratorAgent(tools=[search], llm=llm_of(policy), specialists=[coder], budget=Budget(turns=7))
        with capture(path, app="mine"):
            await agent.run(user_msg="Program.")
    trace = only(path)
    assert trace.app == "mine"
    assert trace.budget is not None
    assert trace.budget["turns"] == 7
    assert [entry["alias"] for entry in trace.catalog["entries"]] == ["search", "coder"]
    found = {entry.call.name: entry.call for entry in trace.calls}
    assert found["coder"].dollars == pytest.approx(0.01)
    assert found["coder"].kind is CallKind.SPECIALIST
    assert found["fly"].status is CallStatus.UNKNOWN
    assert trace.metadata["run_id"]


async def test_models_of_specialists_are_not_the_policys(path: Path) -> None:
    with ScriptedPolicy(["Written."]) as helper, ScriptedPolicy([Reply(calls=[("coder", {})]), "Done."]) as policy:
        agent = OrchestratorAgent(llm=llm_of(policy), specialists=[as_specialist(llm_of(helper), "coder")])
        with capture(path):
            await agent.run(user_msg="Program.")
            await FunctionAgent(
                tools=[SpecialistTool(agent.runs.tools[0].specialist, llm_of(helper))], llm=llm_of(policy)
            ).run(user_msg="Again.")
    with traces_in(path) as traces:
        assert len(traces) == 2
        for trace in traces:
            assert trace.totals.turns == 2
            assert [entry.call.kind for entry in trace.calls] == [CallKind.SPECIALIST]


async def test_a_model_that_no_orchestrator_asks_is_not_the_policy(path: Path) -> None:
    async def summarise() -> str:
        """Sum up."""
        return (await llm_of(helper).acomplete("Sum up.")).text

    script = [Reply(calls=[("summarise", {})]), "Done."]
    with ScriptedPolicy(["Short."], model="helper") as helper, ScriptedPolicy(script) as policy, capture(path):
        price = Price(input=1, output=2, call=0.5)
        handler = OrchestratorAgent(tools=[summarise], llm=llm_of(policy), price=price).run(user_msg="Go.")
        await handler
        ledger = await ledger_of(handler.ctx)
    trace = only(path)
    turns = [node.turn for node in trace.graph.nodes if node.turn is not None]
    assert {(turn.model, turn.is_policy, turn.dollars > 0) for turn in turns} == {
        ("scripted", True, True),
        ("helper", False, False),
    }
    assert trace.totals.turns == 2
    assert trace.totals.dollars == pytest.approx(ledger.dollars)


async def test_concurrent_runs_stay_apart(path: Path) -> None:
    def script(request: Request) -> Reply | str:
        asked = next(m["content"] for m in request["messages"] if m["role"] == "user")
        last = request["messages"][-1]
        if last["role"] == "tool":
            return f"{asked}: {last['content']}"
        return Reply(calls=[("search", {"query": asked})], delay=0.02)

    with ScriptedPolicy(script) as policy:
        ours = OrchestratorAgent(tools=[search], llm=llm_of(policy))
        theirs = FunctionAgent(tools=[search], llm=llm_of(policy))
        with capture(path):
            await asyncio.gather(*(agent.run(user_msg=f"{n}") for n in range(12) for agent in (ours, theirs)))
    with traces_in(path) as traces:
        assert len(traces) == 24
        for trace in traces:
            assert trace.answer == f"{trace.request}: about {trace.request}"
            assert [entry.arguments for entry in trace.calls] == [{"query": trace.request}]
            assert trace.exact


async def test_scopes_capture_their_own_tasks(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with ScriptedPolicy(["Yes."]) as policy:
        agent = FunctionAgent(llm=llm_of(policy))

        async def captured(where: Path, words: str) -> None:
            with capture(where):
                await asyncio.gather(agent.run(user_msg=words), asyncio.sleep(0.02))

        await asyncio.gather(captured(path, "one"), captured(other, "other"), agent.run(user_msg="nobody"))
        with capture(path), capture(other):
            await agent.run(user_msg="inner")
    with traces_in(path) as traces:
        assert [trace.request for trace in traces] == ["one"]
    with traces_in(other) as traces:
        assert [trace.request for trace in traces] == ["other", "inner"]


async def test_capture_everywhere_sees_other_threads(path: Path) -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        agent = FunctionAgent(llm=llm_of(policy))
        with capture(path, everywhere=True):
            thread = threading.Thread(target=lambda: asyncio.run(agent_run(agent)))
            thread.start()
            await asyncio.to_thread(thread.join)
    assert only(path).answer == "Yes."


async def agent_run(agent: FunctionAgent) -> None:
    await agent.run(user_msg="Hello?")


def test_a_bare_llm_whole_and_streamed(path: Path) -> None:
    with ScriptedPolicy([Reply("Hello there.", reasoning="hmm")]) as policy:
        llm = llm_of(policy)
        with capture(path):
            whole = llm.chat([ChatMessage("Hi")])
            *_, streamed = llm.stream_chat([ChatMessage("Hi")])
            completed = llm.complete("Hi")
    exact = exact_data(whole)
    assert exact is not None
    assert exact == exact_data(streamed)
    with traces_in(path) as traces:
        assert [trace.answer for trace in traces] == ["Hello there."] * 3
        for trace in traces:
            assert trace.status is TraceStatus.ANSWERED
            prompt, ids = trace.graph.call_ids(1)
            assert (prompt.tolist(), ids.tolist()) == (exact.prompt_token_ids, exact.token_ids)
    assert completed.text == "Hello there."


def test_a_stream_that_nobody_reads_to_the_end(path: Path) -> None:
    with ScriptedPolicy(["One two three four five six seven."]) as policy, capture(path):
        stream = llm_of(policy).stream_chat([ChatMessage("Hi")])
        next(stream)
        stream.close()
    trace = only(path)
    assert (trace.status, trace.error) == (TraceStatus.INTERRUPTED, "")


def test_an_llm_that_is_not_ours_keeps_ids_too(path: Path) -> None:
    with ScriptedPolicy(["Hello there."]) as policy:
        llm = OpenAILike(
            "scripted",
            api_base=policy.url,
            api_key="none",
            is_chat_model=True,
            additional_kwargs={"logprobs": True, "extra_body": {"return_token_ids": True}},
        )
        with capture(path):
            llm.chat([ChatMessage("Hi")])
            list(llm.stream_chat([ChatMessage("Hi")]))
    with traces_in(path) as traces:
        whole, streamed = traces
    assert whole.exact
    assert streamed.exact
    assert whole.graph.nodes[1].ids == streamed.graph.nodes[1].ids
    assert whole.graph.nodes[1].logprob_bytes == streamed.graph.nodes[1].logprob_bytes is not None


async def test_a_query_engine_and_a_workflow_of_the_apps_own(path: Path) -> None:
    with ScriptedPolicy(["From the engine."]) as policy:
        llm = llm_of(policy)

        class Engine(CustomQueryEngine):
            def custom_query(self, query_str: str) -> str:
                return llm.complete(query_str).text

        class Own(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                reply = await llm.achat([ChatMessage(ev.input)])
                await llm.achat([ChatMessage(ev.input), reply.message, ChatMessage("And?")])
                return StopEvent(result="own")

        with capture(path):
            Engine().query("What?")
            await Own().run(input="Why?")
    with traces_in(path) as traces:
        engine, own = traces
    assert (engine.app, engine.request, engine.answer) == ("Engine", "What?", "From the engine.")
    assert (own.app, own.request, own.answer) == ("Own", "Why?", "own")
    assert own.totals.turns == 2
    assert len(own.graph.leaves()) == 1


def test_what_calls_no_model_leaves_no_trace(path: Path) -> None:
    with capture(path) as session:
        FunctionTool.from_defaults(lambda: "x", name="plain").call()
        session.flush()
        tools = session.trace_ids
    with traces_in(path) as traces:
        assert [trace.totals.turns for trace in traces] == [0] * len(tools)


@pytest.mark.parametrize("make", [FunctionAgent, OrchestratorAgent])
async def test_failures_are_traced(path: Path, make: Callable[..., Any]) -> None:
    with ScriptedPolicy([Reply("no", status=500)]) as policy:
        agent = make(tools=[search], llm=llm_of(policy))
        with capture(path), pytest.raises(Exception, match="500"):
            await agent.run(user_msg="Tents?")
    trace = only(path)
    assert trace.status is TraceStatus.ERROR
    assert "500" in trace.error
    assert [entry.call.status for entry in trace.calls] == [CallStatus.ERROR]


async def test_a_tool_that_raises_in_an_ordinary_agent(path: Path) -> None:
    def search(query: str) -> str:
        """Search."""
        raise RuntimeError("no index")

    with ScriptedPolicy(ONE_CALL) as policy, capture(path):
        await FunctionAgent(tools=[search], llm=llm_of(policy)).run(user_msg="Tents?")
    (entry,) = only(path).calls
    assert entry.call.status is CallStatus.ERROR
    assert "no index" in entry.call.error


async def test_a_run_that_is_cancelled_or_timed_out(path: Path) -> None:
    async def hang() -> str:
        """Hang."""
        hangs.set()
        await asyncio.sleep(60)
        return "late"

    hangs = asyncio.Event()
    with ScriptedPolicy([Reply(calls=[("hang", {})]), "Done."]) as policy, capture(path):
        handler = OrchestratorAgent(tools=[hang], llm=llm_of(policy)).run(user_msg="one")
        await hangs.wait()
        await handler.cancel_run()
        with pytest.raises(Exception):  # noqa: B017, PT011
            await handler
        with pytest.raises(WorkflowTimeoutError):
            await OrchestratorAgent(tools=[hang], llm=llm_of(policy), timeout=0.5).run(user_msg="two")
    with traces_in(path) as traces:
        cancelled, late = traces
    assert cancelled.status is TraceStatus.INTERRUPTED
    assert late.status is TraceStatus.ERROR
    assert "timed out" in late.error


async def test_a_budget_that_ends_the_run(path: Path) -> None:
    with ScriptedPolicy(lambda _: Reply(calls=[("search", {"query": "x"})])) as policy, capture(path):
        await OrchestratorAgent(tools=[search], llm=llm_of(policy), budget=Budget(turns=2)).run(user_msg="Go.")
    assert only(path).status is TraceStatus.BUDGET


async def test_agents_of_a_team_are_one_trace(path: Path) -> None:
    def script(request: Request) -> Reply | str:
        if request["messages"][0]["content"].startswith("Lead"):
            return Reply(calls=[("handoff", {"to_agent": "clerk", "reason": "sums"})])
        return "Four."

    with ScriptedPolicy(script) as policy:
        lead = OrchestratorAgent(name="lead", description="L.", system_prompt="Lead.", llm=llm_of(policy))
        clerk = FunctionAgent(name="clerk", description="C.", system_prompt="Clerk.", llm=llm_of(policy))
        with capture(path):
            await AgentWorkflow(agents=[lead, clerk], root_agent="lead").run(user_msg="Two and two?")
    trace = only(path)
    assert trace.answer == "Four."
    assert [node.turn.agent for node in trace.graph.nodes if node.turn] == ["", "clerk"]
    assert [entry.call.name for entry in trace.calls] == ["handoff"]


async def test_an_agent_in_a_tool_belongs_to_the_run_that_called_it(path: Path) -> None:
    def inner_script(request: Request) -> Reply | str:
        return "inner" if request["messages"][-1]["role"] == "tool" else Reply(calls=[("search", {"query": "in"})])

    with ScriptedPolicy(inner_script) as helper, ScriptedPolicy([Reply(calls=[("ask", {})]), "Outer."]) as policy:
        llm_of(helper).chat([ChatMessage("The ids of two scripted servers would be the same.")])
        inner = FunctionAgent(name="inner", tools=[search], llm=llm_of(helper))

        async def ask() -> str:
            """Ask the inner agent."""
            return str(await inner.run(user_msg="Inside?"))

        with capture(path):
            await OrchestratorAgent(tools=[ask], llm=llm_of(policy)).run(user_msg="Outside?")
    trace = only(path)
    assert trace.request == "Outside?"
    assert [node.turn.agent for node in trace.graph.nodes if node.turn] == ["", "inner", "inner", ""]
    assert sorted(entry.call.name for entry in trace.calls) == ["ask", "search"]


def test_a_handler_of_ones_own(path: Path) -> None:
    recorder = Recorder(path)
    handler = CaptureHandler(recorder)
    before = handlers()
    handler.attach()
    with ScriptedPolicy(["Yes."]) as policy:
        llm_of(policy).chat([ChatMessage("Hi")])
        handler.detach()
        llm_of(policy).chat([ChatMessage("Unseen")])
    recorder.close()
    assert handlers() == before
    assert only(path).answer == "Yes."


async def test_a_store_that_fails_does_not_reach_the_app(tmp_path: Path) -> None:
    folder = tmp_path / "no database"
    folder.mkdir()
    with (
        ScriptedPolicy(ONE_CALL) as policy,
        pytest.warns(UserWarning, match="capture loses events"),
        capture(folder, timeout=1.0),
    ):
        assert str(await FunctionAgent(tools=[search], llm=llm_of(policy)).run(user_msg="Tents?")) == "Two."


async def test_two_agents_write_one_store(path: Path) -> None:
    with ScriptedPolicy(ONE_CALL) as policy:
        one = OrchestratorAgent(name="one", tools=[search], llm=llm_of(policy))
        two = OrchestratorAgent(name="two", tools=[search], llm=llm_of(policy))
        with TraceStore(path) as store:
            async with capture(store), capture(store):
                await asyncio.gather(one.run(user_msg="1"), two.run(user_msg="2"))
    with traces_in(path) as traces:
        assert sorted((trace.app, trace.request) for trace in traces) == [("one", "1"), ("two", "2")]


async def test_what_capture_loses_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a release of LlamaIndex has moved something")

    monkeypatch.setattr(CaptureHandler, "event", broken)
    with ScriptedPolicy(["Yes."]) as policy, capture(path):
        assert str(await FunctionAgent(llm=llm_of(policy)).run(user_msg="Hi")) == "Yes."
    assert "capture has lost something" in caplog.text


@pytest.mark.parametrize("lost", ["policy_called", "policy_failed", "tool_called", "TraceAnnotated"])
async def test_what_cannot_be_decoded_is_counted_in_its_trace(
    path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Trainers go by this: a run of which something is lost is not learnt from."""
    module = "reporting" if lost == "TraceAnnotated" else "llamaindex.capture"
    monkeypatch.setattr(f"toolorch_integrations.{module}.{lost}", lambda *_, **__: 1 / 0)
    make: Any = OrchestratorAgent if lost == "TraceAnnotated" else FunctionAgent
    script = [*ONE_CALL[:1], Reply("broken", status=400)] if lost == "policy_failed" else ONE_CALL
    with (
        ScriptedPolicy(script) as policy,
        pytest.warns(CaptureWarning),
        capture(path) as session,
        contextlib.suppress(openai.BadRequestError),
    ):
        await make(tools=[search], llm=llm_of(policy)).run(user_msg="Tents?")
    assert only(path).metadata["dropped"] == session.dropped == {"decode": 2 if lost == "policy_called" else 1}
