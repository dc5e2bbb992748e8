"""Adding to traces: the statements of one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, StatementError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.node import Node
from toolorch_integrations.plain import storable_json
from toolorch_integrations.store import rows, schema, statements
from toolorch_integrations.trace import TraceCall, TraceHeader

_UNUSABLE = (OperationalError, InterfaceError, InternalError)


@dataclass(slots=True)
class TraceWrite:
    """What is to be added to one trace."""

    header: TraceHeader
    nodes: list[Node] = field(default_factory=list)
    calls: list[TraceCall] = field(default_factory=list)
    snapshots: dict[str, Any] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    """Ids of runs that resumed the trace."""


class StoreConflictError(StoreError):
    """A trace has been changed by another writer since it was read."""


def write(connection: Connection, writes: Sequence[TraceWrite]) -> None:
    """Add to traces. Rows are touched in the same order by all writers, so that none waits for each other.

    Raises:
        StoreConflictError: Another writer has added to one of the traces since it was read.
        SQLAlchemyError: The database refuses something, or cannot be used now.
    """
    writes = sorted(writes, key=lambda entry: entry.header.id)
    bodies = {key: body for entry in writes for key, body in entry.snapshots.items()}
    snapshots = [{"hash": key, "body": storable_json(body)} for key, body in sorted(bodies.items())]
    upsert(connection, schema.snapshots, snapshots, replace=False)
    _write_headers(connection, [entry.header for entry in writes])
    nodes = [rows.node_row(entry.header.id, node) for entry in writes for node in entry.nodes]
    statements.insert_rows(connection, schema.nodes, nodes)
    calls = [rows.call_row(entry.header.id, call) for entry in writes for call in entry.calls]
    statements.insert_rows(connection, schema.calls, calls)
    runs = [{"run_id": run, "trace_id": entry.header.id} for entry in writes for run in entry.runs]
    upsert(connection, schema.run_aliases, runs)


def write_each(connection: Connection, writes: Sequence[TraceWrite]) -> list[TraceWrite]:
    """Add to traces one by one; return those that the database refuses, of which nothing is written.

    Raises:
        StoreConflictError: As for `write`.
        SQLAlchemyError: The database cannot be used now.
    """
    refused = []
    for entry in sorted(writes, key=lambda entry: entry.header.id):
        try:
            with connection.begin_nested():
                write(connection, [entry])
        except _UNUSABLE:
            raise
        except (StatementError, OverflowError, TypeError, ValueError):
            refused.append(entry)
    return refused


def holds(connection: Connection, header: TraceHeader) -> bool:
    """Whether the row that `write` makes of a header is there."""
    table = schema.traces
    found = connection.execute(select(table).where(table.c.id == header.id)).mappings().one_or_none()
    return found is not None and dict(found) == rows.header_row(header)


def upsert(connection: Connection, table: Table, entries: list[dict[str, Any]], *, replace: bool = True) -> None:
    """Insert rows; those with a known primary key are replaced, or left as they are."""
    if not entries:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    keys = [column.name for column in table.primary_key]
    if replace:
        others = {name: statement.excluded[name] for name in entries[0] if name not in keys}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    connection.execute(statement, entries)


def _write_headers(connection: Connection, headers: list[TraceHeader]) -> None:
    statements.insert_rows(connection, schema.traces, [rows.header_row(one) for one in headers if one.revision == 0])
    known = [header for header in headers if header.revision]
    if statements.update_traces(connection, [rows.header_row(header) for header in known]) != len(known):
        which = f"trace {known[0].id}" if len(known) == 1 else f"one of {len(known)} traces"
        raise StoreConflictError(f"{which} was written by another process, or purged")
