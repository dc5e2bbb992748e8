"""The loop on a CPU with nothing simulated but the task: capture, train, swap, and a reward that is surely better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_policy as tiny
from toolorch_integrations import Budget
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.store import TraceStore
from toolorch_rl.online import OnlineSettings, train_online
from toolorch_rl.rollouts import Group, PolicyServer, RolloutSettings, rollouts
from toolorch_serving.embedded import EmbeddedServer

RUNS = RolloutSettings(repetitions=8, at_once=32, seconds=120)
TASKS = [{"id": f"letters-{number}", "text": text} for number, text in enumerate(("find", "both", "talk", "hello"))]


def app_of(server: EmbeddedServer) -> Any:
    """Return an orchestrator that can only answer."""
    policy = ChatPolicy(model=server.name, base_url=server.url, max_tokens=12, max_retries=2, timeout=60)
    agent = create_orchestrator(policy, [], budget=Budget(turns=1))

    async def app(task: dict[str, str]) -> str:
        result = await agent.ainvoke({"messages": [("user", task["text"])]})
        return str(result["messages"][-1].text)

    return app


def many_vowels(task: Any, trace: Any, result: Any) -> bool:
    """Solved by an answer with five vowels or more: a policy with random weights manages that now and then."""
    sampled = trace.graph.nodes[-1].message.get("content") or ""
    return sum(letter in "aeiou" for letter in sampled.lower()) >= 5


def p_value(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return how probable as many more solved runs are, if nothing has changed (two proportions, one-sided)."""
    (a, n), (b, m) = before, after
    pooled = (a + b) / (n + m)
    spread = math.sqrt(max(pooled * (1 - pooled), 1e-9) * (1 / n + 1 / m))
    return 0.5 * math.erfc((b / m - a / n) / spread / math.sqrt(2))


def solved(groups: Sequence[Group]) -> tuple[int, int]:
    """Return how many runs solved their task, and how many there are."""
    runs = [run for group in groups for run in group.runs]
    return sum(run.verdict.passed for run in runs), len(runs)


@pytest.mark.slow
def test_captured_trained_swapped_and_better(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "tiny", lessons=())
    store = TraceStore.open(tmp_path / "traces.db")
    with EmbeddedServer(folder, dtype="float32", progress=False) as server:
        app = app_of(server)
        before = rollouts(app, TASKS * 4, many_vowels, RUNS, server=PolicyServer(server))
        result = train_online(
            app,
            TASKS,
            many_vowels,
            server=server,
            online=OnlineSettings(groups=4, rollouts=RUNS),
            store=store,
            policy=str(folder),
            output=str(tmp_path / "trained"),
            steps=12,
            lora_rank=None,
            learning_rate=2e-3,
            save_every=100,
        )
        after = rollouts(app, TASKS * 4, many_vowels, RUNS, server=PolicyServer(server), start=1000)
    assert result.metrics["steps"] == 12
    assert len(list(store.traces())) >= 12 * 32
    versions = {name for trace in store.traces() for name in trace.policy_versions}
    assert len(versions) > 2  # versions were swapped in while rollouts went on
    last = {name for group in after for run in group.runs for name in run.trace.policy_versions}
    assert len(last) == 1
    assert last.pop().startswith("tiny-v11-")  # and a mark of the process that published it
    assert p_value(solved(before), solved(after)) < 0.01
    store.close()
