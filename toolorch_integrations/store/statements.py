"""The statements that a busy writer repeats: compiled once, and given to the driver with many rows at a time.

SQLAlchemy looks at each value of each row on its way. That is most of what a write would cost, and for nothing: the
rows hold what both drivers take as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import Connection, Dialect, Table, bindparam, insert, update
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase

from toolorch_integrations.store import schema

_Row: TypeAlias = dict[str, Any]
_Statement: TypeAlias = tuple[str, Callable[[_Row], Any]]
"""SQL, and what makes the driver's parameters of a row."""


def insert_rows(connection: Connection, table: Table, entries: Sequence[_Row]) -> None:
    """Insert rows; each has a value for every column."""
    if entries:
        _run(connection, _insert(table, connection.dialect), entries)


def update_traces(connection: Connection, entries: Sequence[_Row]) -> int:
    """Replace rows of `traces` that stand at the revision before; returns how many did.

    Args:
        connection: In a transaction.
        entries: Rows as they shall be, their new revision included.
    """
    if not entries:
        return 0
    found = [entry | {"revision_before": entry["revision"] - 1} for entry in entries]
    return _run(connection, _update_traces(connection.dialect), found)


def _run(connection: Connection, statement: _Statement, entries: Sequence[_Row]) -> int:
    sql, parameters = statement
    return connection.exec_driver_sql(sql, [parameters(entry) for entry in entries]).rowcount


@lru_cache(maxsize=64)
def _insert(table: Table, dialect: Dialect) -> _Statement:
    return _compiled(insert(table), dialect, [column.name for column in table.columns])


@lru_cache(maxsize=16)
def _update_traces(dialect: Dialect) -> _Statement:
    table = schema.traces
    # The key is not set: a database would look for rows that refer to the old one.
    names = [column.name for column in table.columns if column.name != "id"]
    same = (table.c.id == bindparam("trace_id")) & (table.c.revision == bindparam("revision_before"))
    sql, parameters = _compiled(update(table).where(same), dialect, names)
    return sql, lambda entry: parameters(entry | {"trace_id": entry["id"]})


def _compiled(statement: UpdateBase, dialect: Dialect, names: list[str]) -> _Statement:
    compiled = statement.compile(dialect=dialect, column_keys=names)
    assert isinstance(compiled, SQLCompiler)
    if compiled.positiontup is not None:
        return str(compiled), itemgetter(*compiled.positiontup)
    return str(compiled), lambda entry: entry  # The driver takes values by name.
