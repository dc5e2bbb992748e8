"""A trace in memory: what a recorder's events add to it, and how much of that the store has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.events import CallEnded, PolicyCalled, TraceAnnotated, TraceEnded, TraceStatus
from toolorch_integrations.graph import TraceGraph
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.plain import content_hash, plain
from toolorch_integrations.store import TraceWrite
from toolorch_integrations.trace import RESULT_LIMIT, TraceCall, TraceHeader, policy_call


@dataclass(slots=True)
class OpenTrace:
    """A trace in memory, and how much of it the store has."""

    header: TraceHeader
    graph: TraceGraph = field(default_factory=TraceGraph)
    calls: int = 0
    """Number of calls, those in the store included."""
    nodes_stored: int = 0
    calls_pending: list[TraceCall] = field(default_factory=list)
    snapshots_pending: dict[str, Any] = field(default_factory=dict)
    runs_pending: list[str] = field(default_factory=list)
    changed: bool = True
    lost: bool = False
    """Part of the graph could not be stored: it is to be read back before anything is added."""

    def pending(self) -> TraceWrite:
        """Return what the store does not have yet."""
        nodes = self.graph.nodes[self.nodes_stored :]
        return TraceWrite(self.header, nodes, self.calls_pending, self.snapshots_pending, self.runs_pending)

    def clear_pending(self) -> None:
        """Take note that what was pending is stored, or given up."""
        self.calls_pending, self.snapshots_pending, self.runs_pending = [], {}, []

    def take_graph(self, stored: OpenTrace) -> None:
        """Go on from what the store has. The header stays, so that what was spent and lost is not forgotten."""
        self.graph, self.calls, self.nodes_stored = stored.graph, stored.calls, stored.nodes_stored
        self.header.revision = stored.header.revision
        self.lost = False

    def annotate(self, event: TraceAnnotated) -> None:
        """Note what is known of the run beside its course."""
        header = self.header
        if event.preferences is not None:
            header.preferences = plain(dict(event.preferences))
        if event.budget is not None:
            header.budget = plain(dict(event.budget))
        if event.catalog is not None:
            header.catalog_hash = self._snapshot(event.catalog)
        header.metadata |= plain(dict(event.metadata))
        self.count_lost(event.lost)

    def count_lost(self, lost: Mapping[str, int]) -> None:
        """Note that events were dropped."""
        if lost:
            known = Counter(self.header.metadata.get("dropped") or {})
            self.header.metadata["dropped"] = dict(known + Counter(lost))
            self.changed = True

    def add_policy_call(self, event: PolicyCalled) -> None:
        """Add a policy call that went well or failed."""
        header = self.header
        tools = "" if event.tools is None else self._snapshot(event.tools)
        node = self.graph.add_policy_call(event, tools)
        if event.reply is None or node is None:
            kind = CallKind.POLICY if event.is_policy else CallKind.SPECIALIST
            call = Call(
                kind,
                event.model or kind.value,
                event.status,
                event.model,
                dollars=event.dollars,
                seconds=event.seconds,
                call_id=event.response_id,
                error=event.error,
            )
            self._add_call(call, event, node=None if node is None else node.index)
        elif event.is_policy:
            header.totals.add(policy_call(node))
            header.exact = header.exact and node.exact
            if event.model and event.model not in header.policy_versions:
                header.policy_versions.append(event.model)

    def add_call(self, event: CallEnded) -> None:
        """Add a tool or specialist call."""
        result, length = event.result[:RESULT_LIMIT], len(event.result)
        self._add_call(event.call, event, result, length, event.arguments)

    def end(self, event: TraceEnded) -> None:
        """Note how the run ended."""
        header = self.header
        header.status, header.ended = TraceStatus(event.status), event.ended
        header.answer = event.answer or header.answer
        header.error = event.error

    def _add_call(
        self,
        call: Call,
        event: CallEnded | PolicyCalled,
        result: str = "",
        length: int = 0,
        arguments: Any = None,
        node: int | None = None,
    ) -> None:
        node = self.graph.asker(call.call_id) if node is None else node
        arguments = plain(arguments)
        if node is not None and arguments == self.graph.nodes[node].arguments(call.call_id):
            arguments = None  # They stand in the message already, and a reader finds them there.
        entry = TraceCall(self.calls, call, node, arguments, result, length, event.started, event.agent)
        self.calls_pending.append(entry)
        self.calls += 1
        self.header.totals.add(call)

    def _snapshot(self, value: Any) -> str:
        key = content_hash(value)
        self.snapshots_pending[key] = value
        return key
