"""The database is in the golden state: two SQLite states compared row by row, and which rows differ."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from toolorch_rl.verifiers.verdict import Verdict, VerifierError

Database: TypeAlias = str | Path | sqlite3.Connection
"""A SQLite file, which is opened for reading only, or an open connection."""

Row: TypeAlias = dict[str, Any]

_SHOWN = 3
"""Rows that a reason quotes."""


@dataclass(frozen=True, slots=True)
class TableDifference:
    """How a table differs from the golden one."""

    table: str
    missing: list[Row] = field(default_factory=list)
    """Golden rows that are not there."""
    surplus: list[Row] = field(default_factory=list)
    """Rows that should not be there."""
    changed: list[tuple[Row, Row]] = field(default_factory=list)
    """Golden row and actual row with the same primary key."""
    problem: str = ""
    """Why the rows cannot be compared: the table is absent, or its columns differ."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.changed or self.problem)

    def text(self) -> str:
        """Return the difference in words."""
        if self.problem:
            return f"{self.table}: {self.problem}"
        parts = []
        for golden, actual in self.changed[:_SHOWN]:
            cells = [f"{k} is {actual[k]!r}, not {golden[k]!r}" for k in golden if golden[k] != actual[k]]
            same = [f"{k}={v!r}" for k, v in list(golden.items())[:1]]
            parts.append(f"row {same[0] if same else ''}: {', '.join(cells)}")
        parts += [f"missing {row}" for row in self.missing[:_SHOWN]]
        parts += [f"surplus {row}" for row in self.surplus[:_SHOWN]]
        left = len(self.missing) + len(self.surplus) + len(self.changed) - len(parts)
        return f"{self.table}: {'; '.join(parts)}{f'; and {left} more rows' if left > 0 else ''}"


@dataclass(frozen=True, slots=True)
class DatabaseDifference:
    """How a database differs from the golden one, by table; equal tables are left out."""

    tables: dict[str, TableDifference]

    def __bool__(self) -> bool:
        return bool(self.tables)

    def text(self) -> str:
        """Return the differences in words."""
        return " | ".join(table.text() for table in self.tables.values()) or "no difference"


@dataclass(frozen=True, slots=True)
class DatabaseVerifier:
    """Solved when the database equals the golden state. `details` has counts of differing rows by table.

    The score is 1 when it does, and otherwise the share of the right changes among all changes that were to be made
    or were made; that needs `initial`, and is 0 without it.

    Attributes:
        initial: The state before the run.
        ignore_tables: Tables that do not count (logs).
        ignore_columns: Columns that do not count, by table (`created_at`); `*` stands for every table. Where a column
            of the primary key is ignored, rows are compared as a whole.
    """

    initial: Database | None = None
    ignore_tables: Collection[str] = ()
    ignore_columns: Mapping[str, Collection[str]] = field(default_factory=dict)

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Compare the state in `outcome` with the golden one in `reference`; both are a `Database`.

        Raises:
            VerifierError: One of them is no SQLite database.
        """
        golden = self._read(reference, "reference")
        actual = self._read(outcome, "outcome")
        difference = _compare(golden, actual)
        if not difference:
            rows = sum(len(table.rows) for table in golden.values())
            return Verdict(1.0, True, f"all {len(golden)} tables are in the golden state ({rows} rows)")
        score = 0.0
        if self.initial is not None:
            initial = self._read(self.initial, "initial")
            wanted, made = _changes(initial, golden), _changes(initial, actual)
            either = (wanted | made).total()
            score = (wanted & made).total() / either if either else 0.0
        counts = {
            name: {"missing": len(table.missing), "surplus": len(table.surplus), "changed": len(table.changed)}
            for name, table in difference.tables.items()
        }
        # Two wrongs may leave the same rows under other columns: a state that differs never earns all.
        return Verdict(min(score, 0.99), False, difference.text(), {"tables": counts})

    def _read(self, database: Any, which: str) -> dict[str, _Table]:
        return _read(database, which, self.ignore_tables, self.ignore_columns)


def compare_databases(
    golden: Database,
    actual: Database,
    *,
    ignore_tables: Collection[str] = (),
    ignore_columns: Mapping[str, Collection[str]] | None = None,
) -> DatabaseDifference:
    """Return how a database differs from the golden one; see `DatabaseVerifier` for what is ignored.

    Raises:
        VerifierError: One of them is no SQLite database.
    """
    ignored = ignore_columns or {}
    return _compare(_read(golden, "golden", ignore_tables, ignored), _read(actual, "actual", ignore_tables, ignored))


@dataclass(frozen=True, slots=True)
class _Table:
    columns: tuple[str, ...]
    key: tuple[int, ...]
    """Places of the primary key's columns; empty where there is none to go by."""
    rows: Counter[tuple[Any, ...]]


def _read(
    database: Any, which: str, ignore_tables: Collection[str], ignore_columns: Mapping[str, Collection[str]]
) -> dict[str, _Table]:
    tables = {}
    everywhere = ignore_columns.get("*", ())
    with _opened(database, which) as connection:
        try:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            for (name,) in names:
                if name in ignore_tables or name.startswith("sqlite_"):
                    continue
                ignored = {*everywhere, *ignore_columns.get(name, ())}
                info = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
                columns = tuple(sorted(column for column, _ in info if column not in ignored))
                keys = [column for column, place in info if place]
                whole = keys and not ignored.intersection(keys)
                chosen = ", ".join(_quoted(column) for column in columns) or "NULL"
                rows = Counter(tuple(row) for row in connection.execute(f"SELECT {chosen} FROM {_quoted(name)}"))
                tables[name] = _Table(columns, tuple(columns.index(key) for key in keys) if whole else (), rows)
        except sqlite3.Error as error:
            raise VerifierError(f"{which} {_named(database)} cannot be read as a SQLite database: {error}") from error
    return tables


@contextmanager
def _opened(database: Any, which: str) -> Iterator[sqlite3.Connection]:
    if isinstance(database, sqlite3.Connection):
        factory, database.row_factory = database.row_factory, None
        try:
            yield database
        finally:
            database.row_factory = factory
        return
    if not isinstance(database, (str, Path)):
        raise VerifierError(f"{which} must be a SQLite file or connection, got {type(database).__name__}")
    path = Path(database)
    if not path.is_file():
        raise VerifierError(f"{which} {_named(database)} is no file; give a SQLite file or an open connection")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise VerifierError(f"{which} {_named(database)} cannot be opened: {error}") from error
    with closing(connection):
        yield connection


def _compare(golden: dict[str, _Table], actual: dict[str, _Table]) -> DatabaseDifference:
    found = {}
    for name in sorted({*golden, *actual}):
        if name not in actual:
            found[name] = TableDifference(name, problem="the table is missing")
        elif name not in golden:
            found[name] = TableDifference(name, problem="the table should not be there")
        elif difference := _compare_table(name, golden[name], actual[name]):
            found[name] = difference
    return DatabaseDifference(found)


def _compare_table(name: str, golden: _Table, actual: _Table) -> TableDifference:
    if golden.columns != actual.columns:
        return TableDifference(name, problem=f"its columns are {list(actual.columns)}, not {list(golden.columns)}")
    missing, surplus = golden.rows - actual.rows, actual.rows - golden.rows
    changed = []
    if golden.key:
        by_key = {tuple(row[place] for place in golden.key): row for row in surplus}
        for row in list(missing):
            other = by_key.get(tuple(row[place] for place in golden.key))
            if other is not None:
                changed.append((row, other))
                del missing[row], surplus[other]
    columns = _keys_first(golden)

    def rows(counted: Counter[tuple[Any, ...]]) -> list[Row]:
        return [_row(row, columns) for row in sorted(counted.elements(), key=repr)]

    pairs = [(_row(old, columns), _row(new, columns)) for old, new in sorted(changed, key=repr)]
    return TableDifference(name, rows(missing), rows(surplus), pairs)


def _keys_first(table: _Table) -> list[tuple[str, int]]:
    places = [*table.key, *(place for place in range(len(table.columns)) if place not in table.key)]
    return [(table.columns[place], place) for place in places]


def _row(row: tuple[Any, ...], columns: list[tuple[str, int]]) -> Row:
    return {name: row[place] for name, place in columns}


def _changes(before: dict[str, _Table], after: dict[str, _Table]) -> Counter[tuple[Any, ...]]:
    changes: Counter[tuple[Any, ...]] = Counter()
    for name in {*before, *after}:
        old = before[name].rows if name in before else Counter()
        new = after[name].rows if name in after else Counter()
        changes.update({("+", name, row): count for row, count in (new - old).items()})
        changes.update({("-", name, row): count for row, count in (old - new).items()})
    return changes


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _named(database: Any) -> str:
    return "connection" if isinstance(database, sqlite3.Connection) else repr(str(database))
