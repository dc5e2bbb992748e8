"""From a store's URL to a database engine."""

from __future__ import annotations

import sqlite3
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from toolorch_integrations.errors import StoreError

BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's write before an attempt fails."""

WRITES = {"toolorch_writes": True}
"""Execution options of a connection that will write: SQLite then takes its write lock at the beginning."""

POOL = 5
"""Connections to PostgreSQL that a process keeps, and as many more at peaks: ten processes fit a server's hundred."""

WRITE_LIMITS = "SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '60s'"
"""PostgreSQL: a writer that waits for a stuck one gives up and tries again, and one that is stuck is cut off. Set in
the transaction, so that it also holds behind a connection pooler."""

_NETWORK = {
    "connect_timeout": 5,
    "application_name": "toolorch",
    # A server that is cut off without a word is noticed in 15 seconds, and not in the kernel's two hours.
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def parse_url(where: str | Path) -> URL:
    """Return the database URL for a store: a file name, `sqlite:///file` or `postgresql://...`.

    Raises:
        StoreError: The URL is none that a store can be, or its driver is not installed.
    """
    text = str(where)
    if "://" not in text:
        return _file_url(text)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise StoreError(f"store {text!r} is not a database URL: give sqlite:///file or postgresql://...") from error
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        return _file_url(url.database or "")
    if backend in ("postgresql", "postgres"):
        if find_spec("psycopg") is None:
            raise StoreError(
                "a store on PostgreSQL needs the psycopg driver: pip install 'toolorch-integrations[postgres]'"
            )
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(f"store {display(url)}: {backend} is not supported; give sqlite:///file or postgresql://...")


def display(url: URL) -> str:
    """Return a URL as people may see it, without its password."""
    return url.render_as_string(hide_password=True)


def make_engine(url: URL, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Return an engine that has not connected yet."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy_seconds})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=POOL,
        max_overflow=POOL,
        pool_timeout=10,
        pool_recycle=1800,
        connect_args=_NETWORK | dict(url.query),
    )


def _file_url(name: str) -> URL:
    if name in ("", ":memory:") or name.startswith("file:"):
        raise StoreError(f"store {name!r}: give a file, such as sqlite:///traces.db; memory would lose the traces")
    return URL.create("sqlite", database=str(Path(name).expanduser().absolute()))


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # The driver's own BEGIN would not take the write lock; `_begin_sqlite` does.
    connection.execute("PRAGMA page_size = 8192")  # A sampled message is about 2.5 KB: pages of 4 KB stay half empty.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # So that a purge gives disk space back.
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")  # In WAL mode a killed process loses no commit with it.
    connection.execute("PRAGMA foreign_keys = ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change the journal's mode, waiting for others as long as for any lock: SQLite itself does not wait here."""
    (busy_milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    give_up = time.monotonic() + busy_milliseconds / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("toolorch_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
