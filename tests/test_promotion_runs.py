"""Live runs as a canary sees them: whose they are, and what they are worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.promotion_world import captured
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Trace, TraceCall
from toolorch_rl.training import TrainSettings
from toolorch_serving.promotion import live_runs

LIVE = TrainSettings(policy="v2", output=Path("v2"), preferences=Preferences(cost=0.5))


def priced(number: int, version: str, started: float, dollars: float) -> Trace:
    """Return a solved run that cost so much."""
    trace = captured(number, version, f"thread {number}", started)
    call = Call(CallKind.SPECIALIST, "expert", dollars=dollars, seconds=0.2, run_id=trace.id)
    trace.calls.append(TraceCall(0, call, started=started))
    return trace


def test_live_runs_are_those_of_conversations_that_began_in_the_canary(store: TraceStore):
    for trace in (
        captured(0, "v1", "old", 10.0),
        captured(1, "v1", "old", 110.0),
        captured(2, "v1", "a", 120.0),
        captured(3, "v2", "b", 130.0, 0.0),
        captured(4, "v9", "c", 140.0),
        captured(5, "v2", "", 150.0, None),
    ):
        store.add(trace)
    found = list(live_runs(store, "v2", "v1")(100.0))
    assert [(run.key, run.candidate) for run in found] == [("a", False), ("b", True), (f"{5:032x}", True)]
    assert [run.outcomes["solved"] for run in found[:2]] == [1.0, 0.0]
    assert all(np.isnan(run.outcomes["reward"]) for run in found)  # nothing to measure it by yet
    assert np.isnan(found[2].outcomes["solved"])  # nothing says so yet
    assert np.isfinite(found[2].outcomes["seconds"])


def test_a_live_runs_reward_is_the_same_at_every_look(store: TraceStore):
    """Measured by the incumbent's runs before the canary, and not by those that come later."""
    for number in range(20):
        store.add(priced(number, "v1", 10.0 + number, 0.01 + 0.001 * number))
    store.add(priced(100, "v1", 120.0, 0.02))
    look = live_runs(store, "v2", "v1", LIVE)
    (first,) = look(100.0)
    store.add(priced(101, "v2", 130.0, 5.0))
    store.add(priced(102, "v2", 140.0, 0.0001))
    again, dear, cheap = look(100.0)
    assert again == first
    assert 1.0 < first.outcomes["reward"] < 1.5
    assert (dear.outcomes["reward"], cheap.outcomes["reward"]) == (1.0, 1.5)
    assert list(live_runs(store, "v2", "v1", LIVE)(100.0)) == [again, dear, cheap]  # after a kill as well


def test_without_runs_before_the_first_look_with_enough_solved_ones_decides(store: TraceStore):
    look = live_runs(store, "v2", "v1", LIVE)
    for number in range(19):
        store.add(priced(number, "v1", 110.0 + number, 0.01 + 0.001 * number))
    assert all(np.isnan(run.outcomes["reward"]) for run in look(100.0))
    store.add(priced(19, "v2", 140.0, 0.04))
    first = list(look(100.0))
    assert all(np.isfinite(run.outcomes["reward"]) for run in first)
    store.add(priced(20, "v2", 150.0, 9.0))
    assert list(look(100.0))[:20] == first
