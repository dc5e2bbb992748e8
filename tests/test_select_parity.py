"""The `select` rendering means the same in both faces: the same requests reach the policy, the traces are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent

from tests.compared import plain_calls, plain_trace, prompt_ids, without_ids
from tests.doubles import chat_policy
from tests.select_world import FULL, QUESTION, TOOLS, Policy, catalog_of, choose, find, python, specialist_says
from toolorch_integrations import Budget, CatalogFilter, Preferences, Price, Tool
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import create_orchestrator
from toolorch_integrations.llamaindex import OrchestratorAgent, OrchestratorProgress, PolicyLLM, ledger_of
from toolorch_integrations.select import Tokens
from toolorch_integrations.select_functions import SelectTools
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.trace import Trace

PRICE = Price(input=1, output=2)
LETTERS = Tokens(lambda text: [ord(letter) for letter in text], lambda ids: "".join(map(chr, ids)))


def broken(code: str) -> str:
    """Run Python, badly."""
    raise RuntimeError("no sandbox")


def counted(query: str) -> dict[str, Any]:
    """Search, and return JSON."""
    return {"results": [{"title": "Tents", "text": text} for text in find(query)], "count": 2}


@dataclass(frozen=True)
class Scenario:
    """One request.

    Attributes:
        script: What the policy says, step by step.
        orchestrator: Options of the orchestrator.
        tools: Entries of the app's tools.
        context: Options of the request.
        before: Earlier exchange of the conversation.
        decisions: What a person says.
    """

    script: Sequence[Reply | str]
    orchestrator: dict[str, Any] = field(default_factory=dict)
    tools: Sequence[Tool] = ()
    context: dict[str, Any] = field(default_factory=dict)
    before: Sequence[tuple[str, str]] = ()
    decisions: Sequence[dict[str, Any]] = ()


BOTH = Reply(calls=[("enhance_reasoning", {"model": "reasoner-1"}), ("search", {"model": "search-1"})])
DESTRUCTIVE = (Tool(name="python", destructive=True),)
SCENARIOS = {
    "whole": Scenario(FULL),
    "thoughts": Scenario([Reply("So.", FULL[0].calls, "Think."), *FULL[1:]]),
    "parallel": Scenario([BOTH, FULL[2]]),
    "twice in a row": Scenario([FULL[0], choose("search", "search-2"), *FULL[1:]]),
    "preferences, aliases and prices": Scenario(
        [choose("search", "search-x"), *FULL[1:]],
        {"preferences": Preferences(cost=1, latency=0.4, tools={"search-3": 1})},
        [Tool(name="find", price=Price(call=0.25))],
        {"catalog": CatalogFilter(aliases={"search-3": "search-x"}, prices={"answer-1": Price(call=3)})},
    ),
    "history": Scenario(FULL, before=[("user", "Do you sell tents?"), ("assistant", "Yes.")]),
    "the policy's own tokens": Scenario(FULL, {"select": SelectTools(find, python, LETTERS)}),
    "JSON": Scenario(FULL, {"select": SelectTools(counted, python)}),
    "nothing to search with": Scenario(FULL[1:], {"select": SelectTools(interpreter=python)}),
    "unknown names": Scenario(
        [choose("search", "search-9"), choose("search", "answer-1"), Reply(calls=[("find", {"query": "x"})]), *FULL[2:]]
    ),
    "malformed arguments": Scenario([Reply(calls=[("answer", {"name": "answer-1"})]), *FULL[2:]]),
    "broken JSON beside a call": Scenario([Reply(calls=[*FULL[0].calls, ("answer", '{"model": ')]), *FULL[1:]]),
    "broken JSON alone": Scenario([Reply(calls=[("answer", '{"model": ')]), *FULL[2:]]),
    "text in place of a choice": Scenario([FULL[0], "It is 12."], {"fallback": "answer-3"}),
    "an empty answer": Scenario([choose("answer", "answer-2"), *FULL[2:]]),
    "a broken tool": Scenario(FULL[1:], {"select": SelectTools(find, broken)}, [Tool(name="broken", retries=1)]),
    "the last turn": Scenario([FULL[0], FULL[2]], {"budget": Budget(turns=2)}),
    "turns used up": Scenario([FULL[0]], {"budget": Budget(turns=2)}),
    "dollars used up": Scenario(FULL, {"budget": Budget(dollars=0.2)}, [Tool(name="find", price=Price(call=0.25))]),
    "a yes": Scenario(FULL, {}, DESTRUCTIVE, decisions=[{"type": "approve"}]),
    "a no": Scenario(FULL, {}, DESTRUCTIVE, decisions=[{"type": "reject", "message": "Not now."}]),
    "a change": Scenario(
        FULL,
        {},
        DESTRUCTIVE,
        decisions=[{"type": "edit", "edited_action": {"name": "search", "args": {"model": "search-1"}}}],
    ),
    "a change that answers": Scenario(
        FULL[1:],
        {},
        DESTRUCTIVE,
        decisions=[{"type": "edit", "edited_action": {"name": "answer", "args": {"model": "answer-1"}}}],
    ),
    "a word": Scenario(FULL, {}, DESTRUCTIVE, decisions=[{"type": "respond", "message": "It prints 12."}]),
}


@dataclass
class Played:
    """What a scenario brought in one face."""

    answer: str
    ledger: list[dict[str, Any]]
    progress: list[dict[str, Any]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    trace: Trace | None = None


async def in_langgraph(scenario: Scenario, policy: Policy, options: dict[str, Any]) -> Played:
    agent: Any = create_orchestrator(chat_policy(policy.server, price=PRICE), checkpointer=InMemorySaver(), **options)
    config = {"configurable": {"thread_id": "only"}}
    progress: list[dict[str, Any]] = []

    async def go(given: Any) -> None:
        events = agent.astream(given, config, context=scenario.context, stream_mode="custom")
        progress.extend([event async for event in events])

    await go({"messages": [*scenario.before, ("user", QUESTION)]})
    if scenario.decisions:
        await go(Command(resume={"decisions": list(scenario.decisions)}))
    state = (await agent.aget_state(config)).values
    return Played(state["messages"][-1].text, state["ledger"], progress)


async def in_llamaindex(scenario: Scenario, policy: Policy, options: dict[str, Any]) -> Played:
    llm = PolicyLLM("scripted", policy.server.url, max_retries=0, price=PRICE)
    agent = OrchestratorAgent(llm=llm, streaming=False, **options)
    history = [ChatMessage(role=role, content=text) for role, text in scenario.before]
    handler = agent.run(user_msg=QUESTION, chat_history=history or None, context=scenario.context)
    progress: list[dict[str, Any]] = []
    async for event in handler.stream_events():
        if isinstance(event, OrchestratorProgress):
            progress.append(event.progress)
        elif isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(decisions=list(scenario.decisions)))
    output = str(await handler)
    return Played(output, [call.to_dict() for call in await ledger_of(handler.ctx)], progress)


async def play(scenario: Scenario, face: Callable[..., Any], folder: Path) -> Played:
    with (
        ScriptedPolicy(specialist_says) as server,
        Policy(*scenario.script) as policy,
        TraceStore(folder / f"{face.__name__}.db") as store,
    ):
        options: dict[str, Any] = {
            "catalog": catalog_of(server, *scenario.tools),
            "rendering": "select",
            "select": TOOLS,
            **scenario.orchestrator,
        }
        with capture(store) as session:
            played: Played = await face(scenario, policy, options)
        (trace_id,) = set(session.trace_ids)
        played.trace = store.trace(trace_id)
        played.ledger = plain_calls(played.ledger)
        played.requests = without_ids(policy.server.requests)
        played.asked = sorted(
            ([request["model"], request["messages"]] for request in server.requests), key=str
        )  # calls of one turn are made side by side
    return played


def told(progress: list[dict[str, Any]]) -> list[Any]:
    """Return progress without times and ids; calls that ran side by side in a fixed order."""
    said = [(e["type"], e.get("name"), e.get("status"), e.get("calls"), e.get("text")) for e in progress]
    return sorted(said, key=str)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_same_requests_and_the_same_traces(name: str, tmp_path: Path) -> None:
    langgraph = await play(SCENARIOS[name], in_langgraph, tmp_path)
    llamaindex = await play(SCENARIOS[name], in_llamaindex, tmp_path)
    assert llamaindex.requests == langgraph.requests
    assert [list(r["tools"]) for r in llamaindex.requests] == [list(r["tools"]) for r in langgraph.requests]
    assert all(len(request["messages"]) == 2 for request in llamaindex.requests)
    assert llamaindex.asked == langgraph.asked
    assert llamaindex.answer == langgraph.answer
    assert "A person has changed" not in llamaindex.answer
    assert llamaindex.ledger == langgraph.ledger
    assert told(llamaindex.progress) == told(langgraph.progress)
    assert plain_trace(llamaindex.trace) == plain_trace(langgraph.trace)
    assert prompt_ids(llamaindex.trace) == prompt_ids(langgraph.trace)
    assert llamaindex.trace is not None
    assert len(list(llamaindex.trace.paths())) == len(llamaindex.requests)  # each step is a prompt of its own
