"""Whether a store has the traces of what streaming clients were told."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks.streams_load import TURNS, Told
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import TraceHeader

_ARRIVAL = 45.0
"""Seconds that the last traces may take to arrive."""
_ENDED = ("answered", "budget", "interrupted", "error")


def lost(store: str, told: Told) -> list[str]:
    """Return what is wrong with the traces of what clients were told; waits for those that are on their way.

    A trace of the proxy has each finished request once, an orchestrator's run its two turns and its call. Where a
    client has left, the trace has ended, whichever way.
    """
    deadline = time.monotonic() + _ARRIVAL
    with TraceStore.open(store) as opened:
        while True:
            found = {header.id: header for header in opened.traces()}
            wrong = wrongs(found, told)
            if not wrong or time.monotonic() > deadline:
                return wrong
            time.sleep(1.0)


def wrongs(found: Mapping[str, TraceHeader], told: Told) -> list[str]:
    """Return what is wrong with traces, now."""
    wrong = []
    orchestrated, unsure = set(told.orchestrated), {*told.left, *told.broken}
    for trace_id, finished in told.finished.items():
        header = found.get(trace_id)
        if header is None:
            wrong.append(f"{trace_id} is not in the store")
        elif trace_id in orchestrated:
            seen = (header.status.value, header.totals.turns, header.totals.calls)
            if seen != ("answered", 2, 1):
                wrong.append(f"{trace_id} of an orchestrator has status, turns and calls {seen}")
        elif trace_id in told.fallen_back:
            if header.status.value != "answered":
                wrong.append(f"{trace_id}, which the specialist answered, is {header.status}")
        elif trace_id in unsure:
            if not finished <= header.totals.turns <= TURNS:
                wrong.append(f"{trace_id} has {header.totals.turns} turns, {finished} requests had finished")
        elif (header.status.value, header.totals.turns) != ("answered", finished):
            wrong.append(f"{trace_id} is {header.status} with {header.totals.turns} turns, not {finished}")
    for trace_id in told.left:
        header = found.get(trace_id)
        if header is None or header.status.value not in _ENDED:
            wrong.append(f"{trace_id}, whose client left, is {header.status if header else 'not in the store'}")
    return wrong
