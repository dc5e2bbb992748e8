"""Capture of LlamaIndex apps is exact: against a real vLLM, every path gives back the ids that were on the wire.

The tiny policy knows some exchanges by heart, calls and broken calls among them, and says anything elsewhere. What the
server sent is read from the HTTP bodies, apart from the code under test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.workflow import Context
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel

from tests.tiny_policy import LESSONS, TOOLS
from tests.wire import Wire
from toolorch_integrations import Budget
from toolorch_integrations.capture import capture
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.store import TraceStore
from toolorch_serving.vllm import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

RUNS_OF_A_KIND = 60
AT_ONCE = 24

Captured = tuple[TraceStore, Wire, dict[str, list[str]]]
dispatcher = get_dispatcher(__name__)


def search(query: str) -> str:
    """Do search."""
    return f"results for {query}"


def add(a: int, b: int) -> int:
    """Do add."""
    return a + b


class Answer(BaseModel):
    """What structured output asks for."""

    yes: bool


class Kinds:
    """One run of each kind of use. Each leaves at least one trace."""

    def __init__(self, sampled: PolicyLLM, greedy: PolicyLLM) -> None:
        self.sampled = sampled
        self.greedy = greedy
        options: dict[str, Any] = {"tools": [search, add], "llm": sampled, "budget": Budget(turns=3)}
        self.whole = OrchestratorAgent(streaming=False, **options)
        self.streaming = OrchestratorAgent(**options)
        self.ordinary = FunctionAgent(tools=[search, add], llm=sampled)

    async def plain(self, number: int) -> None:
        await self.whole.run(user_msg=_text(number))

    async def streamed(self, number: int) -> None:
        handler = self.streaming.run(user_msg=_text(number))
        async for _ in handler.stream_events():
            pass
        await handler

    async def conversation(self, number: int) -> None:
        """Ask, keep the context, and go on from it in two ways."""
        ctx = Context(self.whole)
        await self.whole.run(user_msg=_text(number), ctx=ctx)
        kept = ctx.to_dict()
        for further in (1, 2):
            await self.whole.run(user_msg=_text(number + further), ctx=Context.from_dict(self.whole, kept))

    async def agents_of_others(self, number: int) -> None:
        await self.ordinary.run(user_msg=_text(number))

    async def known_by_heart(self, number: int) -> None:
        """Say what was taught, whole and streamed: calls, parallel calls, broken calls, reasoning."""
        lesson = LESSONS[number % len(LESSONS)]
        messages = [ChatMessage(**message) for message in lesson.messages]
        tools = {"tools": lesson.tools} if lesson.tools else {}
        if number // len(LESSONS) % 2:
            await self.greedy.achat(messages, **tools)
        else:
            async for _ in await self.greedy.astream_chat(messages, **tools):
                pass

    async def branched(self, number: int) -> None:
        """Take two ways from one answer, one of them streamed, within one run."""

        @dispatcher.span
        async def run() -> None:
            messages = [ChatMessage(_text(number))]
            first = (await self.sampled.achat(messages, tools=TOOLS)).message
            await self.sampled.achat([*messages, first, ChatMessage("And then?")], tools=TOOLS)
            async for _ in await self.sampled.astream_chat([*messages, first, ChatMessage("Or?")], tools=TOOLS):
                pass

        await run()

    async def structured(self, number: int) -> None:
        try:
            await self.sampled.astructured_predict(Answer, PromptTemplate("{text}"), text=_text(number))
        except ValueError:
            return  # cut off before it was whole

    @property
    def all(self) -> dict[str, Callable[[int], Coroutine[Any, Any, None]]]:
        return {
            "plain": self.plain,
            "streamed": self.streamed,
            "conversation": self.conversation,
            "agents of others": self.agents_of_others,
            "known by heart": self.known_by_heart,
            "branched": self.branched,
            "structured": self.structured,
        }


@pytest.fixture(scope="module")
def captured(vllm_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """Run every kind, many at once, under one capture a kind; yield the store, the wire and each kind's trace ids."""
    wire = Wire()
    path = tmp_path_factory.mktemp("traces") / "exact.db"
    traces = asyncio.run(_run_all(vllm_server, wire, path))
    with TraceStore.open(path) as store:
        yield store, wire, traces


async def _run_all(server: VllmServer, wire: Wire, path: Path) -> dict[str, list[str]]:
    client = wire.async_client()
    sampled = PolicyLLM(server.name, server.url, temperature=1.0, max_tokens=24, async_http_client=client)
    greedy = PolicyLLM(server.name, server.url, temperature=0.0, max_tokens=80, async_http_client=client)
    kinds = Kinds(sampled, greedy)
    traces: dict[str, list[str]] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(run: Callable[[int], Coroutine[Any, Any, None]], number: int) -> None:
        async with gate:
            await run(number)

    for kind, run in kinds.all.items():
        async with capture(path) as session:
            await asyncio.gather(*(one(run, number) for number in range(RUNS_OF_A_KIND)))
        assert not session.dropped
        traces[kind] = session.trace_ids
    await client.aclose()
    return traces


def test_every_path_gives_back_what_was_on_the_wire(captured: Captured) -> None:
    store, wire, traces = captured
    seen: set[str] = set()
    mismatches = []
    for trace_id in (trace_id for ids in traces.values() for trace_id in ids):
        graph = store.trace(trace_id).graph
        for node in graph.nodes:
            if node.turn is None:
                continue
            prompt, sampled = wire.completions[node.turn.response_id]
            seen.add(node.turn.response_id)
            path = np.concatenate([step.token_ids for step in graph.path_to(node.index)])
            logprobs = node.logprobs
            if path.tolist() != prompt + sampled or logprobs is None or len(logprobs) != len(sampled):
                mismatches.append((trace_id, node.index))
    assert not mismatches
    assert seen == set(wire.completions), "calls on the wire that no trace holds"


def test_there_are_enough_runs_of_every_kind(captured: Captured) -> None:
    store, _, traces = captured
    many = dict.fromkeys(traces, RUNS_OF_A_KIND) | {"conversation": 3 * RUNS_OF_A_KIND}
    assert {kind: len(ids) for kind, ids in traces.items()} == many
    assert sum(many.values()) >= 500
    assert all(store.trace(trace_id).exact for ids in traces.values() for trace_id in ids)


def test_the_kinds_are_what_they_claim(captured: Captured) -> None:
    """The runs would prove little without calls, broken calls, several turns and branches."""
    store, _, traces = captured
    heart = [
        node for trace_id in traces["known by heart"] for node in store.trace(trace_id).graph.nodes if node.sampled
    ]
    assert sum(len(node.tool_call_ids) == 1 for node in heart) > 10
    assert sum(len(node.tool_call_ids) == 2 for node in heart) > 3
    assert sum(bool(node.turn and node.turn.invalid_tool_calls) for node in heart) >= 3
    assert all(len(store.trace(trace_id).graph.leaves()) >= 2 for trace_id in traces["branched"])
    assert any(store.trace(trace_id).totals.turns > 1 for trace_id in traces["plain"])


def _text(number: int) -> str:
    return LESSONS[number % len(LESSONS)].messages[0]["content"] + " please" * (number % 3)
