"""Both faces mean the same: the same requests reach the policy turn by turn, and the same traces come of them.

Each recorded request goes through both faces against one scripted server, whose tokens are the bytes of the prompt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.langgraph_driver import run_langgraph
from tests.llamaindex_driver import run_llamaindex
from tests.scenarios import DELETED, KINDS, Scenario, helper, scenarios, specialists
from toolorch_integrations.capture import CaptureSession, capture
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy
from toolorch_integrations.trace import Trace

pytestmark = pytest.mark.asyncio(loop_scope="module")  # HTTP connections outlive a run, but not their event loop

Driver = Callable[..., Awaitable[tuple[str, list[dict[str, Any]]]]]


@dataclass
class Stage:
    """Servers for many runs: the policy says what the scenario of the moment has it say."""

    policy: ScriptedPolicy
    helper_url: str
    scenario: Scenario | None = None

    def play(self, request: Request) -> Reply | str:
        assert self.scenario is not None
        script = self.scenario.script
        if callable(script):
            return script(request)
        return ScriptedPolicy(script).reply_to(request)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    found: list[Stage] = []
    policy = ScriptedPolicy(lambda request: found[0].play(request))
    with policy, ScriptedPolicy(helper, model="helper") as specialist:
        found.append(Stage(policy, specialist.url))
        yield found[0]


@dataclass
class Played:
    """What a scenario brought in one face."""

    answer: str
    ledger: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    deleted: list[str]
    trace: Trace | None


async def play(stage: Stage, scenario: Scenario, drive: Driver, session: CaptureSession, **options: Any) -> Played:
    stage.scenario = scenario
    stage.policy.requests.clear()
    DELETED.clear()
    before = set(session.trace_ids)
    answer, ledger = await drive(scenario, stage.policy.url, specialists(stage.helper_url), **options)
    assert session.flush()
    new = [trace_id for trace_id in session.trace_ids if trace_id not in before]
    assert len(new) <= 1
    trace = session.recorder.store.trace(new[0]) if new else None
    return Played(answer, plain_calls(ledger), list(stage.policy.requests), list(DELETED), trace)


def plain_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return calls without run ids and times; calls that ran side by side in a fixed order."""
    kept = [{key: value for key, value in call.items() if key not in ("run_id", "seconds")} for call in calls]
    for call in kept:
        call["error"] = call["error"].partition(": ")[2]  # OpenAI's client and LangChain's name the class differently
    return sorted(kept, key=lambda call: (call["turn"], call["kind"] != "policy", call["call_id"]))


def plain_trace(trace: Trace | None) -> dict[str, Any] | None:
    """Return what a trace says but ids, times, and the names of framework and graph."""
    if trace is None:
        return None
    return {
        "status": trace.status,
        "request": trace.request,
        "answer": trace.answer,
        "error": trace.error,
        "preferences": trace.preferences,
        "budget": trace.budget,
        "catalog": trace.catalog,
        "exact": trace.exact,
        "policies": trace.policy_versions,
        "totals": [trace.totals.turns, trace.totals.calls, trace.totals.input_tokens, trace.totals.output_tokens],
        "dollars": round(trace.totals.dollars, 12),
        "metadata": sorted(trace.metadata),
        "nodes": [
            {
                "parent": node.parent,
                "message": node.message,
                "ids": node.ids,
                "logprobs": node.logprob_bytes,
                "exact": node.exact,
                "turn": node.turn
                and {
                    "model": node.turn.model,
                    "sampling": node.turn.sampling,
                    "logprobs_mode": node.turn.logprobs_mode,
                    "finish_reason": node.turn.finish_reason,
                    "usage": node.turn.usage,
                    "dollars": node.turn.dollars,
                    "agent": node.turn.agent,
                    "is_policy": node.turn.is_policy,
                    "tools": trace.tools(node),
                    "rewrites": node.turn.rewrites,
                    "invalid": [(call["name"], call["args"]) for call in node.turn.invalid_tool_calls],
                },
            }
            for node in trace.graph.nodes
        ],
        "calls": sorted(
            (
                [entry.node, entry.call.call_id, str(entry.arguments), entry.result, entry.agent]
                + [str(value) for value in plain_calls([entry.call.to_dict()])[0].values()]
                for entry in trace.calls
            ),
            key=str,
        ),
    }


def without_ids(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return requests with their tool call ids numbered: the server gives each call of its life another."""
    numbers: dict[str, int] = {}

    def number(call_id: str) -> int:
        return numbers.setdefault(call_id, len(numbers))

    def plain(message: dict[str, Any]) -> dict[str, Any]:
        kept = dict(message)
        if "tool_calls" in kept:
            kept["tool_calls"] = [{**call, "id": number(call["id"])} for call in kept["tool_calls"]]
        if "tool_call_id" in kept:
            kept["tool_call_id"] = number(kept["tool_call_id"])
        return kept

    return [{**request, "messages": [plain(message) for message in request["messages"]]} for request in requests]


async def test_there_are_enough_recorded_requests() -> None:
    assert len(scenarios()) >= 200
    assert len({scenario.name for scenario in scenarios()}) == len(scenarios())


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_requests_and_the_same_traces(kind: str, stage: Stage, tmp_path: Path) -> None:
    prompts = 0
    with TraceStore(tmp_path / "one.db") as one, TraceStore(tmp_path / "other.db") as other:
        for scenario in KINDS[kind]():
            with capture(one) as session:
                langgraph = await play(stage, scenario, run_langgraph, session)
            with capture(other) as session:
                llamaindex = await play(stage, scenario, run_llamaindex, session)
            assert without_ids(llamaindex.requests) == without_ids(langgraph.requests), scenario.name
            assert llamaindex.answer == langgraph.answer, scenario.name
            assert llamaindex.ledger == langgraph.ledger, scenario.name
            assert llamaindex.deleted == langgraph.deleted, scenario.name
            assert plain_trace(llamaindex.trace) == plain_trace(langgraph.trace), scenario.name
            assert prompt_ids(llamaindex.trace) == prompt_ids(langgraph.trace), scenario.name
            prompts += len(llamaindex.requests)
    assert prompts >= len(KINDS[kind]())


def prompt_ids(trace: Trace | None) -> list[tuple[list[int], list[int]]]:
    """Return prompt and sampled ids of each policy call."""
    if trace is None:
        return []
    sampled = [node for node in trace.graph.nodes if node.sampled]
    return [(prompt.tolist(), ids.tolist()) for prompt, ids in (trace.graph.call_ids(node.index) for node in sampled)]


async def test_a_stream_is_the_same_run(stage: Stage, tmp_path: Path) -> None:
    with TraceStore(tmp_path / "traces.db") as store:
        for scenario in [*KINDS["single"]()[::5], *KINDS["error"]()[::5], *KINDS["parallel"]()[::5]]:
            with capture(store) as session:
                whole = await play(stage, scenario, run_llamaindex, session)
            with capture(store) as session:
                streamed = await play(stage, scenario, run_llamaindex, session, streaming=True)
            for request in streamed.requests:
                assert request.pop("stream_options") == {"include_usage": True}
                assert request.pop("stream") is True
                request["stream"] = False
            assert without_ids(streamed.requests) == without_ids(whole.requests), scenario.name
            assert streamed.ledger == whole.ledger, scenario.name
            assert plain_trace(streamed.trace) == plain_trace(whole.trace), scenario.name
