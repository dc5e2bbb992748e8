"""Both faces mean the same: the same requests reach the policy turn by turn, and the same traces come of them.

Each recorded request goes through both faces against one scripted server, whose tokens are the bytes of the prompt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compared import plain_calls, plain_trace, prompt_ids, without_ids
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
            # Calls of one turn run side by side: which of them is first is chance.
            assert sorted(llamaindex.deleted) == sorted(langgraph.deleted), scenario.name
            assert plain_trace(llamaindex.trace) == plain_trace(langgraph.trace), scenario.name
            assert prompt_ids(llamaindex.trace) == prompt_ids(langgraph.trace), scenario.name
            prompts += len(llamaindex.requests)
    assert prompts >= len(KINDS[kind]())


async def test_a_price_on_the_agent_is_charged_alike(stage: Stage, tmp_path: Path) -> None:
    with TraceStore(tmp_path / "one.db") as one, TraceStore(tmp_path / "other.db") as other:
        for scenario in [*KINDS["single"]()[::9], *KINDS["handed over"]()[::9]]:
            with capture(one) as session:
                langgraph = await play(stage, scenario, run_langgraph, session, priced="agent")
            with capture(other) as session:
                llamaindex = await play(stage, scenario, run_llamaindex, session, priced="agent")
            assert llamaindex.ledger == langgraph.ledger, scenario.name
            assert plain_trace(llamaindex.trace) == plain_trace(langgraph.trace), scenario.name
            assert llamaindex.trace is not None
            spent = sum(call["dollars"] for call in llamaindex.ledger)
            assert llamaindex.trace.totals.dollars == pytest.approx(spent) != 0.0, scenario.name


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
