"""A captured run: what was asked, how it ended, what it cost, and its message graph."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.graph import Path, TraceGraph
from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger
from toolorch_integrations.node import Node
from toolorch_integrations.owner import Owner


@dataclass(slots=True)
class Totals:
    """Sums over a trace, failed calls included."""

    turns: int = 0
    """Policy calls."""
    calls: int = 0
    """Tool and specialist calls."""
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    """Sum of the calls' wall clocks."""

    def add(self, call: Call) -> None:
        """Count a call."""
        if call.kind is CallKind.POLICY:
            self.turns += 1
        else:
            self.calls += 1
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.dollars += call.dollars
        self.seconds += call.seconds


@dataclass(slots=True)
class TraceCall:
    """A tool or specialist call, or a policy call that failed, as the trace keeps it."""

    index: int
    call: Call
    node: int | None = None
    """The node that asked for the call (for a failed policy call: that it was made from); None: not known."""
    arguments: Any = None
    result: str = ""
    """What the policy saw, cut at `RESULT_LIMIT` characters."""
    result_length: int = 0
    """Characters before the cut."""
    started: float = 0.0
    agent: str = ""


RESULT_LIMIT = 65_536
"""Characters of a call's result that are kept: the whole text stands in the message that carries it."""


@dataclass(slots=True)
class Feedback:
    """What a person or a program thought of a run, attached at any later time."""

    trace_id: str
    name: str
    score: float | None = None
    comment: str = ""
    source: str = ""
    created: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(slots=True)
class Reward:
    """A reward vector that a verifier gave a run."""

    trace_id: str
    values: dict[str, float]
    """By component: outcome, cost, latency ..."""
    verifier: str = ""
    created: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(slots=True, kw_only=True)
class TraceHeader:
    """All of a trace but its graph and calls."""

    id: str
    status: TraceStatus = TraceStatus.RUNNING
    started: float = field(default_factory=time.time)
    """Epoch seconds."""
    ended: float | None = None
    app: str = ""
    framework: str = ""
    thread_id: str = ""
    request: str = ""
    answer: str = ""
    error: str = ""
    preferences: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    catalog_hash: str = ""
    policy_versions: list[str] = field(default_factory=list)
    """Model names that policy calls were answered with, in order of appearance."""
    exact: bool = True
    """Whether every policy call's ids are the server's own, whole and unredacted."""
    totals: Totals = field(default_factory=Totals)
    metadata: dict[str, Any] = field(default_factory=dict)
    """Tags under "tags"; lost events under "dropped"."""
    owner: Owner = field(default_factory=Owner)
    revision: int = 0
    """How often the store has written the trace; 0: never. A writer with an older one has to read it again."""


@dataclass(slots=True, kw_only=True)
class Trace(TraceHeader):
    """A whole trace."""

    graph: TraceGraph = field(default_factory=TraceGraph)
    calls: list[TraceCall] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=list)
    snapshots: dict[str, Any] = field(default_factory=dict)
    """Catalogue and tool schemas by their hash."""

    @property
    def catalog(self) -> Any:
        """The catalogue as the request saw it, or None."""
        return self.snapshots.get(self.catalog_hash)

    def add_call(self, entry: TraceCall) -> None:
        """Add a call as a store keeps it: without arguments where they are those that its message asks for."""
        if entry.arguments is None and entry.node is not None:
            entry.arguments = self.graph.nodes[entry.node].arguments(entry.call.call_id)
        self.calls.append(entry)

    def paths(self) -> Iterator[Path]:
        """Yield the path to each leaf of the graph."""
        return self.graph.paths()

    def tools(self, node: Node) -> Any:
        """Return the tool schemas that were sent to the call that sampled a node, or None."""
        return None if node.turn is None else self.snapshots.get(node.turn.tools)

    def ledger(self) -> Ledger:
        """Return every call of the trace in the order in which they began."""
        turns = [node for node in self.graph.nodes if node.turn is not None and node.turn.is_policy]
        begun = [(node.turn.started, policy_call(node)) for node in turns if node.turn is not None]
        begun += [(entry.started, entry.call) for entry in self.calls]
        return Ledger([call for _, call in sorted(begun, key=lambda item: item[0])])


def policy_call(node: Node) -> Call:
    """Return the ledger entry of a sampled node."""
    turn = node.turn
    if turn is None:
        raise ValueError(f"node {node.index} was not sampled")
    return Call(
        CallKind.POLICY,
        turn.model or "policy",
        CallStatus.OK,
        model=turn.model,
        input_tokens=int(turn.usage.get("prompt_tokens") or 0),
        output_tokens=int(turn.usage.get("completion_tokens") or len(node.token_ids)),
        dollars=turn.dollars,
        seconds=turn.seconds,
        call_id=turn.response_id,
    )
