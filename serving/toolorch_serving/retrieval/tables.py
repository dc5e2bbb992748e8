"""The SQLite file of an index: its tables, and connections to it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue

from toolorch_integrations.retrieval import RetrievalError

FORMAT = "1"
"""Version of the tables."""
_READERS = 16

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a row stands for one text and one vector for good
    id TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    digest BLOB NOT NULL,
    source TEXT
);
CREATE INDEX documents_by_digest ON documents (digest);
CREATE INDEX documents_by_source ON documents (source) WHERE source IS NOT NULL;
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE tags (
    key TEXT NOT NULL, value NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (key, value, row)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(
    text, content='documents', content_rowid='row', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER words_in AFTER INSERT ON documents BEGIN
    INSERT INTO words (rowid, text) VALUES (new.row, new.text);
END;
CREATE TRIGGER words_out AFTER DELETE ON documents BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.row, old.text);
END;
"""


class Tables:
    """One SQLite file; reads run beside each other and beside one write."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the file.

        Raises:
            RetrievalError: It is missing, or none of an index.
        """
        self.path = path
        if not create and not path.is_file():
            raise RetrievalError(
                f"index {path.parent}: there is none; build it with `toolorch index build`, or allow an empty one",
                "index",
            )
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        for _ in range(_READERS):
            self._readers.put(None)  # type: ignore[arg-type]  # opened when first needed
        self._writing = threading.Lock()
        try:
            self._writer = self._connect()
            self._set_up()
        except sqlite3.DatabaseError as error:
            raise RetrievalError(f"index {path.parent}: {path.name} cannot be read ({error})", "index") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # What is acknowledged outlives a power cut, not only a kill.
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("PRAGMA mmap_size = 1073741824")
        return connection

    def _set_up(self) -> None:
        with self.transaction() as write:
            if not write.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in _statements(_TABLES):
                    write.execute(statement)
                write.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))
        if self.meta().get("format") != FORMAT:
            raise RetrievalError(
                f"index {self.path.parent}: made by another version; build it anew with `toolorch index build`", "index"
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change the database: all or nothing, on disk at the end."""
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Read; at most so many at once, the others wait."""
        connection = self._readers.get()
        try:
            connection = connection or self._connect()
            yield connection
        finally:
            self._readers.put(connection)

    def close(self) -> None:
        """Close all connections; call it when nobody reads any more."""
        while not self._readers.empty():
            connection = self._readers.get()
            if connection is not None:
                connection.close()
        self._writer.close()

    def meta(self) -> dict[str, str]:
        """Return what is noted about the index."""
        with self.reader() as read:
            return dict(read.execute("SELECT name, value FROM meta").fetchall())


def _statements(script: str) -> Iterator[str]:
    """Split a script, since `executescript` would commit half of it."""
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
