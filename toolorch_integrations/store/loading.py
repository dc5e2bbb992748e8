"""Reading whole traces: a query a table for a page of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Table, select

from toolorch_integrations.graph import TraceGraph
from toolorch_integrations.store import rows, schema
from toolorch_integrations.trace import Trace


def load(connection: Connection, headers: Iterable[Any]) -> list[Trace]:
    """Return the traces of rows of `traces`, in their order."""
    traces = {row.id: Trace(**rows.header_fields(row)) for row in headers}
    for row in _rows_of(connection, schema.nodes, traces):
        traces[row.trace_id].graph.append(rows.read_node(row))
    for row in _rows_of(connection, schema.calls, traces):
        traces[row.trace_id].add_call(rows.read_call(row))
    for row in _rows_of(connection, schema.feedback, traces):
        traces[row.trace_id].feedback.append(rows.read_feedback(row))
    for row in _rows_of(connection, schema.rewards, traces):
        traces[row.trace_id].rewards.append(rows.read_reward(row))
    wanted = {trace.id: _snapshot_hashes(trace.catalog_hash, trace.graph) for trace in traces.values()}
    table = schema.snapshots
    hashes = {key for keys in wanted.values() for key in keys}
    found = {
        row.hash: json.loads(row.body) for row in connection.execute(select(table).where(table.c.hash.in_(hashes)))
    }
    for trace in traces.values():
        trace.snapshots = {key: found[key] for key in sorted(wanted[trace.id]) if key in found}
    return list(traces.values())


def _snapshot_hashes(catalog_hash: str, graph: TraceGraph) -> set[str]:
    return {catalog_hash, *(node.turn.tools for node in graph.nodes if node.turn is not None)} - {""}


def _rows_of(connection: Connection, table: Table, traces: dict[str, Trace]) -> Iterator[Any]:
    order = table.c.idx if "idx" in table.c else table.c.created
    yield from connection.execute(select(table).where(table.c.trace_id.in_(traces)).order_by(table.c.trace_id, order))
