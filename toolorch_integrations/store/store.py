"""A trace store: traces in an SQL database, written by a recorder and read by everything else."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import SQLAlchemyError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import finding, interruption, positions, rows, schema, upgrade, writing
from toolorch_integrations.store.engine import BUSY_SECONDS, WRITE_LIMITS, WRITES, display, make_engine, parse_url
from toolorch_integrations.store.filters import TraceFilters
from toolorch_integrations.store.loading import load
from toolorch_integrations.store.positions import SpoolPosition
from toolorch_integrations.store.retention import Purged, StoreStats, purge, stats
from toolorch_integrations.store.upgrade import Migration
from toolorch_integrations.store.writing import TraceWrite
from toolorch_integrations.trace import Feedback, Reward, Trace, TraceHeader


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
        if not create:
            store._require_file()
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

    @property
    def key(self) -> str:
        """Sixteen hex digits that tell this store from others, whoever connects to it."""
        where = (self.url.get_backend_name(), self.url.host, self.url.port, self.url.database, dict(self.url.query))
        return hashlib.sha256(repr(where).encode()).hexdigest()[:16]

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
            upgrade.prepare(connection, str(self))
            interruption.interrupt_orphans(connection)

    def migrations(self) -> tuple[int, list[Migration]]:
        """Return the store's schema version, 0 for none, and what `prepare` would run to upgrade it.

        Raises:
            StoreError: The store is not there or cannot be read, or a newer release wrote it.
        """
        self._require_file()
        try:
            return upgrade.plan(self._engine, str(self))
        except SQLAlchemyError as error:
            raise StoreError(f"trace store {self} cannot be opened: {error}") from error

    # Writing

    def write(self, writes: Sequence[TraceWrite], step: SpoolPosition | None = None) -> None:
        """Add to traces, all in one transaction. Their headers' `revision` counts up when it is done.

        Args:
            writes: What to add.
            step: How far the spool that it came from is read with it.

        Raises:
            SpoolMovedError: The store has another part of that spool than the step begins at; nothing was written.
            StoreConflictError: Another writer has added to one of the traces since it was read; nothing was written.
            SQLAlchemyError: Nothing was written.
        """
        with self._writing() as connection:
            writing.write(connection, writes)
            if step is not None:
                positions.take_step(connection, step)
        for entry in writes:
            entry.header.revision += 1

    def write_each(self, writes: Sequence[TraceWrite], step: SpoolPosition | None = None) -> list[TraceWrite]:
        """Write as `write` does, but leave out the traces that the database refuses; returns those.

        Raises:
            StoreConflictError: As for `write`.
            SpoolMovedError: As for `write`.
            SQLAlchemyError: The database cannot be used now; nothing was written.
        """
        with self._writing() as connection:
            refused = writing.write_each(connection, writes)
            if step is not None:
                positions.take_step(connection, step)
        left_out = {entry.header.id for entry in refused}
        for entry in writes:
            entry.header.revision += entry.header.id not in left_out
        return refused

    def holds(self, writes: Sequence[TraceWrite]) -> bool:
        """Whether these very writes are stored: a commit whose answer was lost may have been made or not.

        Their headers' `revision` counts up if they are.
        """
        with self._engine.connect() as connection:
            held = bool(writes) and all(writing.holds(connection, entry.header) for entry in writes)
        for entry in writes:
            entry.header.revision += held
        return held

    def spool_position(self, spool: str) -> int:
        """Return the number of the newest event of a spool that the store has; 0: none."""
        return positions.position(self._engine, spool)

    def forget_spool(self, spool: str) -> None:
        """Drop the position of a spool that has been delivered and removed."""
        positions.forget(self._engine, spool)

    def interrupt(self, trace_ids: Iterable[str]) -> None:
        """Mark those of the traces that still run as interrupted, as their recorder ends."""
        ids = sorted(trace_ids)
        if ids:
            with self._writing() as connection:
                interruption.interrupt(connection, ids)

    def add(self, trace: Trace) -> bool:
        """Add a whole trace with its feedback and rewards, as an import does; one that is there stays.

        Returns:
            Whether the trace was new.
        """
        with self._writing() as connection:
            known = finding.known(connection, [trace.id])
        if not known:
            trace.revision = 0
            self.write([TraceWrite(trace, trace.graph.nodes, trace.calls, trace.snapshots)])
        self.add_feedback(*trace.feedback)
        self.add_rewards(*trace.rewards)
        return not known

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
        for page in finding.pages(self._reading, filters, _headers):
            yield from page

    def full_traces(self, **filters: Unpack[TraceFilters]) -> Iterator[Trace]:
        """Yield whole traces, newest first, a page at a time.

        Args:
            **filters: See `TraceFilters`.
        """
        for page in finding.pages(self._reading, filters, load):
            yield from page

    def trace(self, trace_id: str) -> Trace:
        """Return a whole trace.

        Args:
            trace_id: Its id, or a beginning of it that no other trace has.

        Raises:
            StoreError: There is no such trace, or more than one.
        """
        with self._reading() as connection:
            return load(connection, [finding.by_beginning(connection, trace_id, self)])[0]

    def find(self, trace_id: str) -> Trace | None:
        """Return the trace with exactly this id, or None."""
        with self._reading() as connection:
            found = finding.by_id(connection, trace_id)
            return None if found is None else load(connection, [found])[0]

    def header(self, trace_id: str) -> TraceHeader | None:
        """Return the trace with exactly this id without its graph, or None."""
        with self._reading() as connection:
            found = finding.by_id(connection, trace_id)
            return None if found is None else _headers(connection, [found])[0]

    def known(self, trace_ids: Iterable[str]) -> set[str]:
        """Return those of the ids that the store has a trace of."""
        with self._engine.connect() as connection:
            return finding.known(connection, trace_ids)

    def trace_of_run(self, run_id: str) -> str | None:
        """Return the trace that a run resumed, or None for a run that did not."""
        with self._engine.connect() as connection:
            return finding.of_run(connection, run_id)

    def interrupted_trace(self, thread_id: str, app: str = "", framework: str = "") -> str | None:
        """Return the newest interrupted trace of a conversation.

        Args:
            thread_id: The conversation, as its app calls it.
            app: The app, since two that share a store may both have a conversation "1"; empty: any.
            framework: The framework, likewise.
        """
        with self._engine.connect() as connection:
            return finding.newest_interrupted(connection, thread_id, app, framework)

    def stats(self) -> StoreStats:
        """Return what the store holds."""
        return stats(self._engine)

    def _require_file(self) -> None:
        if self.file is not None and not self.file.exists():
            raise StoreError(f"there is no trace store at {self.file}; give another with --store or TOOLORCH_STORE")

    def _attach(self, table: Table, entries: list[dict[str, Any]]) -> None:
        if not entries:
            return
        with self._writing() as connection:
            ids = {entry["trace_id"] for entry in entries}
            missing = ids - finding.known(connection, ids)
            if missing:
                raise StoreError(f"{self} holds no trace {min(missing)!r}; `toolorch traces list` shows their ids")
            writing.upsert(connection, table, sorted(entries, key=lambda entry: str(entry["id"])))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Yield a connection to which the store stands still, so that a trace is read whole or not at all."""
        with self._engine.connect() as connection:
            if self.file is None:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(**WRITES) as connection, connection.begin():
            if self.file is None:
                connection.exec_driver_sql(WRITE_LIMITS)
            yield connection


def _headers(_: Connection, found: Sequence[Any]) -> list[TraceHeader]:
    return [TraceHeader(**rows.header_fields(row)) for row in found]
