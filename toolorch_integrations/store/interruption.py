"""Traces that still run where nobody is left to run them: they are marked as interrupted."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import rows, schema


def interrupt(connection: Connection, ids: Sequence[str]) -> None:
    """Mark those of the traces that still run."""
    table = schema.traces
    running = table.c.status == TraceStatus.RUNNING.value
    # Locked in one order: two processes that open the store at once would wait for each other.
    connection.execute(select(table.c.id).where(table.c.id.in_(ids)).order_by(table.c.id).with_for_update())
    values = {"status": TraceStatus.INTERRUPTED.value, "ended": time.time(), "revision": table.c.revision + 1}
    connection.execute(update(table).where(table.c.id.in_(ids), running).values(values))


def interrupt_orphans(connection: Connection) -> None:
    """Mark the traces of processes that have died."""
    table = schema.traces
    running = connection.execute(select(table).where(table.c.status == TraceStatus.RUNNING.value)).all()
    dead = [row.id for row in running if rows.header_fields(row)["owner"].is_dead()]
    if dead:
        interrupt(connection, dead)
