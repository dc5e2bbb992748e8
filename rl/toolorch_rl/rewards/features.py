"""The features of a run: how often each tool was called, whether it solved the task, dollars and seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.trace import Trace, policy_call
from toolorch_rl.verifiers.verdict import Verdict

MADE = frozenset({CallStatus.OK, CallStatus.ERROR, CallStatus.TIMEOUT})
"""Statuses of calls that were made. The others (unknown, malformed, refused, over budget) never reached a tool."""

SOLVED = 0.5
"""Least stored outcome that counts as solved."""


class RewardError(ToolorchError, ValueError):
    """Rewards cannot be computed from what was given; the message names the run and the fix."""


@dataclass(frozen=True, slots=True)
class CallCost:
    """What one call of a run caused."""

    name: str
    kind: CallKind
    dollars: float
    seconds: float
    """Its part of the run's seconds: time that calls spent side by side is shared evenly among them."""
    node: int | None = None
    """The sampled node that decided on the call: for a policy call, the node itself."""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class RunFeatures:
    """A run as the reward sees it, before normalisation."""

    run: str
    """The trace's id."""
    calls: Mapping[str, int]
    """Tool and specialist calls that were made, by catalogue name."""
    solved: bool
    dollars: float | None
    """Of all calls, failed ones, the policy's own and the last one included. None: nothing in the trace has a price."""
    seconds: float | None
    """Wall clock during which a call was under way. None: no call was timed."""
    costs: tuple[CallCost, ...] = ()
    """In the order in which the calls began, as far as that is known."""


def features_of(trace: Trace, solved: bool | Verdict | None = None) -> RunFeatures:
    """Return the features of a captured run.

    Args:
        trace: The run.
        solved: Whether it solved its task, or a verifier's verdict; by default the newest reward of the trace with an
            `outcome` says so.

    Raises:
        RewardError: Nothing says whether the run solved its task.
    """
    if isinstance(solved, Verdict):
        solved = solved.passed
    if solved is None:
        solved = _stored_outcome(trace)
    timed = _timed_calls(trace)
    seconds = _shared_seconds([(began, call.seconds) for call, _, began in timed])
    costs = tuple(
        CallCost(call.name, call.kind, call.dollars, share, node, call.call_id)
        for (call, node, _), share in zip(timed, seconds, strict=True)
    )
    counts = Counter(call.name for call, _, _ in timed if call.kind is not CallKind.POLICY and call.status in MADE)
    dollars = sum(cost.dollars for cost in costs)
    total = sum(seconds)
    return RunFeatures(
        run=trace.id,
        calls=dict(counts),
        solved=solved,
        dollars=dollars if dollars > 0 or _has_prices(trace.catalog) else None,
        seconds=total if total > 0 else None,
        costs=costs,
    )


def _stored_outcome(trace: Trace) -> bool:
    found = [entry for entry in trace.rewards if "outcome" in entry.values]
    if not found:
        raise RewardError(
            f"trace {trace.id} has no outcome: run a verifier and give its verdict as `solved`, or attach a reward "
            "with an `outcome` first"
        )
    return max(found, key=lambda entry: entry.created).values["outcome"] >= SOLVED


def _timed_calls(trace: Trace) -> list[tuple[Call, int | None, float]]:
    calls: list[tuple[Call, int | None, float]] = [
        (policy_call(node), node.index, node.turn.started)
        for node in trace.graph.nodes
        if node.turn is not None and node.turn.is_policy
    ]
    calls += [(entry.call, entry.node, entry.started) for entry in trace.calls]
    return sorted(calls, key=lambda item: item[2])


def _shared_seconds(spans: Sequence[tuple[float, float]]) -> list[float]:
    """Return each call's part of the time during which any was under way.

    Calls whose beginning is not known (0) are taken to have run alone.
    """
    shares = [max(0.0, length) if began <= 0 else 0.0 for began, length in spans]
    # From the first call on: epoch seconds in a float only resolve a quarter of a microsecond.
    origin = min((began for began, _ in spans if began > 0), default=0.0)
    known = [
        (began - origin, began - origin + length, index)
        for index, (began, length) in enumerate(spans)
        if began > 0 and length > 0
    ]
    edges = sorted({edge for began, ended, _ in known for edge in (began, ended)})
    arriving = sorted(known)
    active: list[tuple[float, float, int]] = []
    for start, stop in pairwise(edges):
        while arriving and arriving[0][0] <= start:
            active.append(arriving.pop(0))
        active = [span for span in active if span[1] > start]
        for _, _, index in active:
            shares[index] += (stop - start) / len(active)
    return shares


def _has_prices(catalog: Any) -> bool:
    """Whether a catalogue's snapshot holds a price above nothing, so that a run at no cost is known to be free."""
    if isinstance(catalog, Mapping):
        return any(
            (_positive(value) if str(key).startswith("price") else False) or _has_prices(value)
            for key, value in catalog.items()
        )
    return isinstance(catalog, Iterable) and not isinstance(catalog, str) and any(map(_has_prices, catalog))


def _positive(price: Any) -> bool:
    if isinstance(price, Mapping):
        return any(map(_positive, price.values()))
    return isinstance(price, (int, float)) and price > 0
