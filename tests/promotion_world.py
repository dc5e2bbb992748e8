"""What the tests of promotion share: a candidate that deserves it, captured runs, and a sudden end."""

from __future__ import annotations

import functools

from benchmarks.simulated_promotion import World, world
from tests.routing_world import trace_of
from toolorch_integrations.trace import Reward, Trace


@functools.cache
def _good_world() -> World:
    return world("good", 100)


def good() -> World:
    """Return a world whose candidate is better."""
    return _good_world().again()


def captured(number: int, version: str, thread: str, started: float, outcome: float | None = 1.0) -> Trace:
    """Return a run as capture stores it, with its reward where one came."""
    user = {"role": "user", "content": f"request {number}"}
    call = ([1, 2], [3], [-0.5])
    trace = trace_of(f"{number:032x}", [call], [user], ["yes"], version=version, started=started)
    trace.thread_id = thread
    if outcome is not None:
        trace.rewards.append(Reward(trace.id, {"outcome": outcome}, "test"))
    return trace


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""
