"""What a store holds, and how it lets go of it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, select, tuple_, union

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

    def __add__(self, other: Purged) -> Purged:
        """Return the sum of two."""
        times = [at for one in (self, other) for at in (one.oldest, one.newest) if at is not None]
        turns = self.turns + other.turns
        return Purged(self.traces + other.traces, turns, min(times, default=None), max(times, default=None))


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
    columns = schema.traces.c
    running = TraceStatus.RUNNING.value
    chosen = [columns.status != running if status is None else columns.status == status.value]
    with engine.connect() as connection:
        if keep:
            newest = select(columns.started, columns.id).where(*chosen)
            newest = newest.order_by(columns.started.desc(), columns.id.desc()).offset(keep - 1).limit(1)
            last_kept = connection.execute(newest).one_or_none()
            if last_kept is None:
                return Purged(0, 0, None, None)
            chosen.append(tuple_(columns.started, columns.id) < tuple(last_kept))
        if before is not None:
            chosen.append(columns.started < before)
        if dry_run:
            return _total(connection, chosen)
    total = Purged(0, 0, None, None)
    while (deleted := _delete_chunk(engine, chosen)).traces:
        total += deleted
    if total.traces:
        _tidy(engine)
    return total


def _total(connection: Connection, chosen: Sequence[ColumnElement[bool]]) -> Purged:
    columns = schema.traces.c
    found = connection.execute(
        select(func.count(), func.sum(columns.turns), func.min(columns.started), func.max(columns.started)).where(
            *chosen
        )
    ).one()
    return Purged(int(found[0]), int(found[1] or 0), found[2], found[3])


def _delete_chunk(engine: Engine, chosen: list[ColumnElement[bool]]) -> Purged:
    """Delete the oldest of the chosen traces that no writer holds."""
    table = schema.traces
    oldest = select(table.c.id).where(*chosen).order_by(table.c.started, table.c.id).limit(CHUNK)
    with engine.connect().execution_options(**WRITES) as connection, connection.begin():
        # Rows that a writer has locked are left for the next time; it may be resuming them.
        ids = list(connection.scalars(oldest.with_for_update(skip_locked=True)))
        same = [table.c.id.in_(ids)]
        deleted = _total(connection, same)
        connection.execute(delete(table).where(*same))
    return deleted


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
    snapshots = schema.snapshots
    used = union(select(schema.traces.c.catalog_hash), select(schema.nodes.c.tools).where(schema.nodes.c.sampled))
    unused = snapshots.c.hash.not_in(used)
    with engine.connect() as reading:
        candidates = list(reading.scalars(select(snapshots.c.hash).where(unused)))
    if candidates:
        with engine.connect().execution_options(**WRITES) as writing, writing.begin():
            if engine.dialect.name == "postgresql":
                # A writer that found a snapshot there relies on it: wait for those, and have later ones wait.
                writing.exec_driver_sql("LOCK TABLE snapshots IN SHARE ROW EXCLUSIVE MODE")
            writing.execute(delete(snapshots).where(snapshots.c.hash.in_(candidates), unused))
    if engine.dialect.name == "sqlite":
        connection = engine.raw_connection()
        try:
            # As a script: the vacuum frees a page a step, and `execute` takes the first step only.
            script = "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);"
            with contextlib.suppress(sqlite3.OperationalError):  # In use: new traces will fill the space instead.
                connection.driver_connection.executescript(script)  # type: ignore[union-attr]
        finally:
            connection.close()
