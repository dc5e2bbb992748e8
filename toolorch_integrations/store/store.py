"""A trace store: traces in an SQL database, written by a recorder and read by everything else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import Connection, Engine, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.node import Node
from toolorch_integrations.plain import storable_json
from toolorch_integrations.store import rows, schema
from toolorch_integrations.store.engine import BUSY_SECONDS, WRITES, display, make_engine, parse_url
from toolorch_integrations.store.filters import TraceFilters, conditions
from toolorch_integrations.store.loading import load
from toolorch_integrations.store.retention import Purged, StoreStats, purge, stats
from toolorch_integrations.trace import Feedback, Reward, Trace, TraceCall, TraceHeader

PAGE = 50
"""Traces that are read at a time."""


@dataclass(slots=True)
class TraceWrite:
    """What is to be added to one trace."""

    header: TraceHeader
    nodes: list[Node] = field(default_factory=list)
    calls: list[TraceCall] = field(default_factory=list)
    snapshots: dict[str, Any] = field(default_factory=dict)


class StoreConflictError(StoreError):
    """A trace has been changed by another writer since it was read."""


class TraceStore:
    """Traces in SQLite or PostgreSQL. Safe across threads, and several processes may use one store.

    `TraceStore(where)` only looks at the URL; `TraceStore.open(where)` connects.

    Example:
        >>> store = TraceStore.open("traces.db")
        >>> for header in store.traces(status="answered"):
        ...     trace = store.trace(header.id)
    """

    def __init__(self, where: str | Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
        """Take a store's file name or URL.

        Args:
            where: `traces.db`, `sqlite:///traces.db` or `postgresql://user:password@host/database`.
            busy_seconds: How long one attempt waits for another process's write lock (SQLite).

        Raises:
            StoreError: The URL is not usable, or the database's driver is not installed.
        """
        self.url = parse_url(where)
        self.busy_seconds = busy_seconds
        self._engine = make_engine(self.url, busy_seconds)

    @classmethod
    def open(cls, where: str | Path, *, create: bool = True) -> TraceStore:
        """Connect to a store; traces of processes that have died since are marked as interrupted.

        Args:
            where: As for the constructor.
            create: Whether a store that does not exist is created.

        Raises:
            StoreError: It cannot be opened, or a newer release wrote it.
        """
        store = cls(where)
        if not create and store.file is not None and not store.file.exists():
            raise StoreError(f"there is no trace store at {store.file}; give another with --store or TOOLORCH_STORE")
        try:
            store.prepare()
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(f"trace store {store} cannot be opened: {error}") from error
        return store

    def __str__(self) -> str:
        return display(self.url)

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The database engine, for queries of one's own."""
        return self._engine

    @property
    def file(self) -> Path | None:
        """The SQLite file, or None for PostgreSQL."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def after_fork(self) -> None:
        """Leave the parent process's connections alone and use new ones."""
        self._engine.dispose(close=False)
        self._engine = make_engine(self.url, self.busy_seconds)

    def prepare(self) -> None:
        """Connect, create or check the tables, and mark traces of dead processes as interrupted.

        Raises:
            StoreError: A newer release wrote the store.
            SQLAlchemyError: The database cannot be reached now.
        """
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._writing() as connection:
            schema.prepare(connection, str(self))
            _interrupt_orphans(connection)

    # Writing

    def write(self, writes: Sequence[TraceWrite]) -> None:
        """Add to traces, all in one transaction. Their headers' `revision` counts up when it is done.

        Raises:
            StoreConflictError: Another writer has added to one of the traces since it was read; nothing was written.
            SQLAlchemyError: Nothing was written.
        """
        with self._writing() as connection:
            bodies = {key: body for entry in writes for key, body in entry.snapshots.items()}
            self._upsert(
                connection,
                schema.snapshots,
                [{"hash": key, "body": storable_json(body)} for key, body in sorted(bodies.items())],
                replace=False,
            )
            for entry in sorted(writes, key=lambda entry: entry.header.id):
                _write_header(connection, entry.header)
            nodes = [rows.node_row(entry.header.id, node) for entry in writes for node in entry.nodes]
            if nodes:
                connection.execute(insert(schema.nodes), nodes)
            calls = [rows.call_row(entry.header.id, call) for entry in writes for call in entry.calls]
            if calls:
                connection.execute(insert(schema.calls), calls)
        for entry in writes:
            entry.header.revision += 1

    def interrupt(self, trace_ids: Iterable[str]) -> None:
        """Mark those of the traces that still run as interrupted, as their recorder ends."""
        ids = sorted(trace_ids)
        if ids:
            with self._writing() as connection:
                _interrupt(connection, ids)

    def add(self, trace: Trace) -> bool:
        """Add a whole trace with its feedback and rewards, as an import does; one that is there stays.

        Returns:
            Whether the trace was new.
        """
        with self._writing() as connection:
            known = connection.scalar(select(schema.traces.c.id).where(schema.traces.c.id == trace.id))
        if known is None:
            trace.revision = 0
            self.write([TraceWrite(trace, trace.graph.nodes, trace.calls, trace.snapshots)])
        self.add_feedback(*trace.feedback)
        self.add_rewards(*trace.rewards)
        return known is None

    def add_feedback(self, *entries: Feedback) -> None:
        """Attach feedback to traces; one with a known id is replaced.

        Raises:
            StoreError: A trace is not in the store.
        """
        self._attach(schema.feedback, [rows.feedback_row(entry) for entry in entries])

    def add_rewards(self, *entries: Reward) -> None:
        """Attach rewards to traces; one with a known id is replaced.

        Raises:
            StoreError: A trace is not in the store.
        """
        self._attach(schema.rewards, [rows.reward_row(entry) for entry in entries])

    def purge(
        self,
        *,
        older_than: float | None = None,
        status: TraceStatus | str | None = None,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> Purged:
        """Delete traces with all that hangs on them; running traces stay unless `status` names them.

        Args:
            older_than: Only traces that started more than so many seconds ago.
            status: Only traces of this status.
            keep: Spare the newest so many of the traces that the other arguments choose.
            dry_run: Count, and delete nothing.

        Raises:
            ValueError: None of the three is given: that would delete the whole store.
        """
        if older_than is None and status is None and keep is None:
            raise ValueError("purge needs older_than, status or keep")
        before = None if older_than is None else time.time() - older_than
        chosen = None if status is None else TraceStatus(status)
        return purge(self._engine, before, chosen, keep, dry_run)

    # Reading

    def traces(self, **filters: Unpack[TraceFilters]) -> Iterator[TraceHeader]:
        """Yield traces without their graphs, newest first, a page at a time.

        Args:
            **filters: See `TraceFilters`.
        """
        for page in self._pages(filters):
            for row in page:
                yield TraceHeader(**rows.header_fields(row))

    def full_traces(self, **filters: Unpack[TraceFilters]) -> Iterator[Trace]:
        """Yield whole traces, newest first, a page at a time.

        Args:
            **filters: See `TraceFilters`.
        """
        for page in self._pages(filters):
            with self._engine.connect() as connection:
                traces = load(connection, page)
            yield from traces

    def trace(self, trace_id: str) -> Trace:
        """Return a whole trace.

        Args:
            trace_id: Its id, or a beginning of it that no other trace has.

        Raises:
            StoreError: There is no such trace, or more than one.
        """
        column = schema.traces.c.id
        with self._engine.connect() as connection:
            found = connection.execute(
                select(schema.traces).where(column.startswith(trace_id, autoescape=True)).order_by(column).limit(2)
            ).all()
            if not found:
                raise StoreError(f"{self} holds no trace {trace_id!r}; `toolorch traces list` shows their ids")
            if len(found) > 1 and found[0].id != trace_id:
                raise StoreError(f"{self} holds more than one trace {trace_id!r}...; give more digits of the id")
            return load(connection, found[:1])[0]

    def find(self, trace_id: str) -> Trace | None:
        """Return the trace with exactly this id, or None."""
        with self._engine.connect() as connection:
            found = connection.execute(select(schema.traces).where(schema.traces.c.id == trace_id)).all()
            return load(connection, found)[0] if found else None

    def interrupted_trace(self, thread_id: str) -> str | None:
        """Return the newest interrupted trace of a conversation."""
        table = schema.traces
        with self._engine.connect() as connection:
            return connection.scalar(
                select(table.c.id)
                .where(table.c.thread_id == thread_id, table.c.status == TraceStatus.INTERRUPTED.value)
                .order_by(table.c.started.desc())
                .limit(1)
            )

    def stats(self) -> StoreStats:
        """Return what the store holds."""
        return stats(self._engine)

    def _pages(self, filters: TraceFilters) -> Iterator[Sequence[Any]]:
        table = schema.traces
        left = filters.get("limit")
        after: tuple[float, str] | None = None
        while left is None or left > 0:
            query = select(table).where(*conditions(filters, after))
            query = query.order_by(table.c.started.desc(), table.c.id.desc())
            with self._engine.connect() as connection:
                page = connection.execute(query.limit(PAGE if left is None else min(PAGE, left))).all()
            if not page:
                return
            yield page
            after = (page[-1].started, page[-1].id)
            left = None if left is None else left - len(page)

    def _attach(self, table: Table, entries: list[dict[str, Any]]) -> None:
        if not entries:
            return
        with self._writing() as connection:
            ids = {entry["trace_id"] for entry in entries}
            known = set(connection.scalars(select(schema.traces.c.id).where(schema.traces.c.id.in_(ids))))
            if ids - known:
                raise StoreError(f"{self} holds no trace {min(ids - known)!r}; `toolorch traces list` shows their ids")
            self._upsert(connection, table, entries)

    def _upsert(
        self, connection: Connection, table: Table, entries: list[dict[str, Any]], *, replace: bool = True
    ) -> None:
        if not entries:
            return
        dialect = sqlite if self.file is not None else postgresql
        statement = dialect.insert(table)
        keys = [column.name for column in table.primary_key]
        if replace:
            others = {name: statement.excluded[name] for name in entries[0] if name not in keys}
            statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=keys)
        connection.execute(statement, entries)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(**WRITES) as connection, connection.begin():
            yield connection


def _write_header(connection: Connection, header: TraceHeader) -> None:
    table, row = schema.traces, rows.header_row(header)
    if header.revision == 0:
        connection.execute(insert(table), row)
        return
    same = (table.c.id == header.id) & (table.c.revision == header.revision)
    if connection.execute(update(table).where(same).values(row)).rowcount == 0:
        raise StoreConflictError(f"trace {header.id} was written by another process, or purged")


def _interrupt_orphans(connection: Connection) -> None:
    table = schema.traces
    running = connection.execute(select(table).where(table.c.status == TraceStatus.RUNNING.value)).all()
    dead = [row.id for row in running if rows.header_fields(row)["owner"].is_dead()]
    if dead:
        _interrupt(connection, dead)


def _interrupt(connection: Connection, ids: list[str]) -> None:
    table = schema.traces
    running = table.c.status == TraceStatus.RUNNING.value
    values = {"status": TraceStatus.INTERRUPTED.value, "ended": time.time(), "revision": table.c.revision + 1}
    connection.execute(update(table).where(table.c.id.in_(ids), running).values(values))
