"""Capture is exact: against a real vLLM, every path of every trace gives back the ids that were on the wire.

The app is the shop assistant with its trained policy, so runs have real tool calls, parallel ones among them. What the
server sent is read from the HTTP bodies, apart from the code under test.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from examples.shop.catalog import APP_PROMPT, catalog
from examples.shop.enquiries import enquiry
from examples.shop.tools import TOOLS
from tests.wire import Wire
from toolorch_integrations import Budget, Catalog
from toolorch_integrations.capture import capture
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.store import TraceStore
from toolorch_serving.process import PolicyServerError
from toolorch_serving.simulated.service import SimulatedSpecialists
from toolorch_serving.vllm import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

POLICY = Path(__file__).parent.parent / "examples" / "shop" / "policy"
RUNS_OF_A_KIND = 110
AT_ONCE = 24

Captured = tuple[TraceStore, Wire, dict[str, list[str]]]


@pytest.fixture(scope="module")
def server() -> Iterator[VllmServer]:
    try:
        vllm = VllmServer(POLICY, dtype="float32", max_model_len=2048, progress=False)
    except PolicyServerError as error:
        if os.environ.get("TOOLORCH_REQUIRE_VLLM") == "1":
            raise
        pytest.skip(f"vLLM is missing: {error}")
    with vllm:
        yield vllm


@pytest.fixture(scope="module")
def specialists() -> Iterator[SimulatedSpecialists]:
    with SimulatedSpecialists() as running:
        yield running


class Verdict(BaseModel):
    """What structured output asks for."""

    kind: Literal["question", "order", "greeting"]
    urgent: bool


class Kinds:
    """One run of each kind of use. Each leaves at least one trace."""

    def __init__(self, policy: ChatPolicy, url: str) -> None:
        self.policy = policy
        options: dict[str, Any] = {"system_prompt": APP_PROMPT, "budget": Budget(turns=6)}
        self.agent = create_orchestrator(policy, TOOLS, catalog=catalog(url), **options)
        gated = Catalog(
            entry.model_copy(update={"destructive": True}) if entry.name == "search_docs" else entry
            for entry in catalog(url)
        )
        memory = InMemorySaver()
        self.gated = create_orchestrator(policy, TOOLS, catalog=gated, checkpointer=memory, **options)
        self.threaded = create_orchestrator(policy, TOOLS, catalog=catalog(url), checkpointer=memory, **options)

    async def plain(self, number: int) -> None:
        await self.agent.ainvoke(_asked(number))

    async def streamed(self, number: int) -> None:
        async for _ in self.agent.astream(_asked(number), stream_mode="messages"):
            pass

    async def structured(self, number: int) -> None:
        model = self.policy.with_structured_output(Verdict, include_raw=True)
        await model.ainvoke([("user", f"Classify: {_text(number)}")])

    async def branched(self, number: int) -> None:
        """Ask, go on, then go back and take another way from the first answer."""
        config: Any = {"configurable": {"thread_id": f"branch-{number}"}}
        await self.threaded.ainvoke(_asked(number), config)
        first = (await self.threaded.aget_state(config)).config
        await self.threaded.ainvoke(_asked(number + 1), config)
        await self.threaded.ainvoke(_asked(number + 2), first)

    async def interrupted(self, number: int) -> None:
        config: Any = {"configurable": {"thread_id": f"gate-{number}"}}
        state = await self.gated.ainvoke(_asked(number), config)
        for _ in range(6):
            if "__interrupt__" not in state:
                break
            count = len(state["__interrupt__"][0].value["action_requests"])
            decisions = [{"type": "approve"}] * count
            state = await self.gated.ainvoke(Command(resume={"decisions": decisions}), config)

    @property
    def all(self) -> dict[str, Callable[[int], Coroutine[Any, Any, None]]]:
        return {
            "plain": self.plain,
            "streamed": self.streamed,
            "structured": self.structured,
            "branched": self.branched,
            "interrupted": self.interrupted,
        }


@pytest.fixture(scope="module")
def captured(
    server: VllmServer, specialists: SimulatedSpecialists, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captured]:
    """Run every kind, many at once, under one capture a kind; yield the store, the wire and each kind's trace ids."""
    wire = Wire()
    path = tmp_path_factory.mktemp("traces") / "exact.db"
    traces = asyncio.run(_run_all(server, specialists.url, wire, path))
    with TraceStore.open(path) as store:
        yield store, wire, traces


async def _run_all(server: VllmServer, specialists: str, wire: Wire, path: Path) -> dict[str, list[str]]:
    policy = ChatPolicy(
        model=server.name, base_url=server.url, temperature=1.0, max_tokens=200, http_async_client=wire.async_client()
    )
    kinds = Kinds(policy, specialists)
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
    assert {kind: len(ids) for kind, ids in traces.items() if kind != "branched"} == dict.fromkeys(
        ("plain", "streamed", "structured", "interrupted"), RUNS_OF_A_KIND
    )
    assert len(traces["branched"]) == 3 * RUNS_OF_A_KIND
    assert all(store.trace(trace_id).exact for trace_id in traces["plain"])


def test_the_kinds_are_what_they_claim(captured: Captured) -> None:
    """The runs would prove little without parallel calls, several turns and waits for a person."""
    store, _, traces = captured
    plain = [store.trace(trace_id) for trace_id in traces["plain"]]
    assert sum(trace.totals.turns >= 2 for trace in plain) > RUNS_OF_A_KIND // 4
    parallel = [node for trace in plain for node in trace.graph.nodes if len(node.tool_call_ids) > 1]
    assert len(parallel) > 5
    gated = [store.trace(trace_id) for trace_id in traces["interrupted"]]
    assert all(trace.status in (TraceStatus.ANSWERED, TraceStatus.BUDGET) for trace in gated)
    assert sum(call.call.name == "search_docs" for trace in gated for call in trace.calls) > RUNS_OF_A_KIND // 4


def _asked(number: int) -> dict[str, Any]:
    return {"messages": [("user", _text(number))]}


def _text(number: int) -> str:
    return enquiry(3_000_000 + number).text
