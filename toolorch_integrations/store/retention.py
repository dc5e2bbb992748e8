"""What a store holds, and how it lets go of it."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, select, union

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import schema
from toolorch_integrations.store.engine import WRITES

CHUNK = 500
"""Traces that one transaction deletes: writers wait no longer than for that."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge deleted, or would delete."""

    traces: int
    turns: int
    oldest: float | None
    """When the oldest of them started, epoch seconds."""
    newest: float | None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds."""

    traces: int
    by_status: dict[str, int]
    exact: int
    """Traces whose ids are all the server's own."""
    turns: int
    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float
    feedback: int
    rewards: int
    bytes: int
    """Size of the database, free pages included."""


def purge(engine: Engine, before: float | None, status: TraceStatus | None, keep: int | None, dry_run: bool) -> Purged:
    """Delete traces; see `TraceStore.purge`."""
    table = schema.traces
    query = select(table.c.id, table.c.started, table.c.turns).order_by(table.c.started.desc(), table.c.id.desc())
    if status is None:
        query = query.where(table.c.status != TraceStatus.RUNNING.value)
    else:
        query = query.where(table.c.status == status.value)
    with engine.connect() as connection:
        chosen = list(connection.execute(query))[keep or 0 :]
    chosen = [row for row in chosen if before is None or row.started < before]
    if not dry_run and chosen:
        for start in range(0, len(chosen), CHUNK):
            with engine.connect().execution_options(**WRITES) as connection, connection.begin():
                ids = [row.id for row in chosen[start : start + CHUNK]]
                connection.execute(delete(table).where(table.c.id.in_(ids)))
        _tidy(engine)
    started = [row.started for row in chosen]
    turns = sum(row.turns for row in chosen)
    return Purged(len(chosen), turns, min(started, default=None), max(started, default=None))


def stats(engine: Engine) -> StoreStats:
    """Count; see `TraceStore.stats`."""
    columns = schema.traces.c
    with engine.connect() as connection:
        by_status = {
            row.status: row.number
            for row in connection.execute(select(columns.status, func.count().label("number")).group_by(columns.status))
        }
        exact = connection.scalar(select(func.count()).where(columns.exact)) or 0
        totals = [
            connection.scalar(select(func.sum(column))) or 0
            for column in (columns.turns, columns.calls, columns.input_tokens, columns.output_tokens)
        ]
        dollars = connection.scalar(select(func.sum(columns.dollars))) or 0.0
        feedback = connection.scalar(select(func.count()).select_from(schema.feedback)) or 0
        rewards = connection.scalar(select(func.count()).select_from(schema.rewards)) or 0
        size = _size(connection)
    turns, calls, tokens_in, tokens_out = map(int, totals)
    return StoreStats(
        traces=sum(by_status.values()),
        by_status=by_status,
        exact=exact,
        turns=turns,
        calls=calls,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        dollars=float(dollars),
        feedback=feedback,
        rewards=rewards,
        bytes=size,
    )


def _size(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    return sum(
        int(connection.scalar(select(func.pg_total_relation_size(table.name))) or 0)
        for table in schema.metadata.sorted_tables
    )


def _tidy(engine: Engine) -> None:
    """Drop snapshots that no trace refers to any more, and give free space back to the disk."""
    used = union(select(schema.traces.c.catalog_hash), select(schema.nodes.c.tools).where(schema.nodes.c.sampled))
    with engine.connect().execution_options(**WRITES) as writing, writing.begin():
        writing.execute(delete(schema.snapshots).where(schema.snapshots.c.hash.not_in(used)))
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            # As a script: the vacuum frees a page a step, and `execute` takes the first step only.
            script = "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);"
            with contextlib.suppress(sqlite3.OperationalError):  # In use: new traces will fill the space instead.
                connection.driver_connection.executescript(script)  # type: ignore[union-attr]
        finally:
            connection.close()
