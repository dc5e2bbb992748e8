"""Bringing a store to this release's schema.

The store's version is a number in `toolorch_schema`, so that any release can read it with one query; alembic keeps
its own mark beside it, written in the same transaction.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, delete, insert, inspect, select

from toolorch_integrations.errors import StoreError
from toolorch_integrations.store.schema import SCHEMA_VERSION, schema_version

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "toolorch_revision"
_LOCK = 7308332041
"""Key of the advisory lock under which one process at a time upgrades."""


class _Turns:
    """One upgrade at a time in this process: alembic's context is global to it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """In a forked child: nobody upgrades, whatever the parent's other threads do."""
        self.lock = threading.Lock()


_turns = _Turns()
os.register_at_fork(after_in_child=_turns.renew)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a schema to the next."""

    revision: str
    summary: str


def version(connection: Connection) -> int:
    """Return a store's schema version; 0: there are no tables yet."""
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return max(connection.scalars(select(schema_version.c.version)), default=0)


def check(found: int, where: str) -> None:
    """Refuse a store that a newer release wrote.

    Raises:
        StoreError: It is newer.
    """
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"{where}: schema {found} is newer than this release's {SCHEMA_VERSION}; "
            "upgrade toolorch-integrations, or give another store"
        )


def prepare(connection: Connection, where: str) -> None:
    """Create the tables, or bring them to this release's schema; the connection has begun a transaction that writes.

    Raises:
        StoreError: The store's schema is not one that this release knows.
    """
    found = version(connection)
    if found < SCHEMA_VERSION:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = version(connection)  # Another process may have done it meanwhile.
    check(found, where)
    if found < SCHEMA_VERSION:
        with _turns.lock:  # Within the database's own lock, everywhere: no two wait for each other.
            _upgrade(connection, found)


def plan(engine: Engine, where: str) -> tuple[int, list[Migration]]:
    """Return a store's schema version and what an upgrade would run.

    Raises:
        StoreError: A newer release wrote the store.
    """
    with engine.connect() as connection:
        found = version(connection)
    check(found, where)
    if found == SCHEMA_VERSION:
        return found, []
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    steps = scripts.iterate_revisions("head", f"{found:04d}" if found else "base")
    return found, [Migration(step.revision, step.doc) for step in reversed(list(steps)) if int(step.revision) > found]


def _upgrade(connection: Connection, found: int) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    if found and not inspect(connection).has_table(VERSION_TABLE):
        command.stamp(config, f"{found:04d}")  # Made before the schema had migrations.
    command.upgrade(config, "head")
    connection.execute(delete(schema_version))
    connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
