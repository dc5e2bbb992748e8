"""The truth of an index: documents, their words, their tags and their vectors in one SQLite file.

Why SQLite's FTS5 for BM25, and not bm25s or tantivy: words, vectors and filters change in one transaction with the
documents, so that nothing can come apart when the process is killed; a change is seen at once; filters are plain SQL;
and it is there already. bm25s cannot add to an index, and tantivy would be a second truth with commits of its own.
Both are faster on queries made of common words over millions of documents, which FTS5 scores one by one.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolorch_serving.retrieval.documents import Prepared, Tag, Vectors, tags_of
from toolorch_serving.retrieval.filters import Selection
from toolorch_serving.retrieval.rowset import Rows
from toolorch_serving.retrieval.tables import Tables

_MOST_TERMS = 64


Found = tuple[str, str, str]
"""Id, text and metadata of a document as they are stored."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows of a document: enough to see whether one that comes is the same."""

    row: int
    digest: bytes
    metadata: str


class Database(Tables):
    """What is asked of the tables, and how they change."""

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Note something about the index."""
        with self.transaction() as write:
            write.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Return those documents that are there."""
        sql = "SELECT id, row, digest, metadata FROM documents WHERE id IN (SELECT value FROM json_each(?))"
        with self.reader() as read:
            return {found[0]: Known(*found[1:]) for found in read.execute(sql, (json.dumps(list(ids)),))}

    def held(self, digests: Iterable[bytes]) -> set[bytes]:
        """Return those texts that are there."""
        sql = "SELECT 1 FROM documents WHERE digest = ? LIMIT 1"
        with self.reader() as read:
            return {digest for digest in digests if read.execute(sql, (digest,)).fetchone()}

    def vectors_of(self, digests: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Return the vectors of texts that are there already."""
        found = {}
        sql = "SELECT vector FROM vectors WHERE row = (SELECT row FROM documents WHERE digest = ? LIMIT 1)"
        with self.reader() as read:
            for digest in set(digests):
                held = read.execute(sql, (digest,)).fetchone()
                if held is not None:
                    found[digest] = np.frombuffer(held[0], np.float32)
        return found

    def vector(self, row: int) -> Vectors | None:
        """Return a row's vector; None if the row is gone."""
        with self.reader() as read:
            found = read.execute("SELECT vector FROM vectors WHERE row = ?", (row,)).fetchone()
        return None if found is None else np.frombuffer(found[0], np.float32)

    def put(self, documents: Sequence[Prepared], vectors: Vectors) -> tuple[Rows, Rows]:
        """Add documents, each in place of the one that has its id; return the new rows and the rows that went."""
        rows, gone = [], []
        with self.transaction() as write:
            for document, vector in zip(documents, vectors, strict=True):
                gone += _drop(write, document.id)
                row = write.execute(
                    "INSERT INTO documents (id, text, metadata, digest, source) VALUES (?, ?, ?, ?, ?)",
                    (document.id, document.text, document.metadata, document.digest, document.source),
                ).lastrowid
                assert row is not None
                write.execute("INSERT INTO vectors VALUES (?, ?)", (row, np.asarray(vector, np.float32).tobytes()))
                write.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(*tag, row) for tag in document.tags])
                rows.append(row)
        return np.asarray(rows, np.int64), np.asarray(gone, np.int64)

    def drop(self, ids: Sequence[str]) -> Rows:
        """Delete documents; return the rows that went."""
        with self.transaction() as write:
            return np.asarray([row for one in ids for row in _drop(write, one)], np.int64)

    def ids_of(self, source: str) -> list[str]:
        """Return the ids of the documents that came from a source, or that are named as it is."""
        sql = "SELECT id FROM documents WHERE source = ?1 UNION SELECT id FROM documents WHERE id = ?1"
        with self.reader() as read:
            return [found[0] for found in read.execute(sql, (source,))]

    def found(self, rows: Iterable[int]) -> dict[int, Found]:
        """Return the documents of rows; rows that are gone are missing."""
        sql = "SELECT row, id, text, metadata FROM documents WHERE row IN (SELECT value FROM json_each(?))"
        with self.reader() as read:
            found = read.execute(sql, (json.dumps(sorted(rows)),)).fetchall()
        return {row: (name, text, metadata) for row, name, text, metadata in found}

    def selected(self, selection: Selection) -> Rows:
        """Return the rows that a filter lets through."""
        with self.reader() as read:
            found = read.execute(selection.sql, selection.arguments)
            return np.fromiter((row for (row,) in found), np.int64)

    def rows(self, last: int | None = None) -> Rows:
        """Return all rows, or those up to `last`, ascending."""
        with self.reader() as read:
            # The index by digest is the smallest that holds the rows.
            sql = "SELECT row FROM documents INDEXED BY documents_by_digest"
            found = read.execute(sql)
            rows = np.sort(np.fromiter((row for (row,) in found), np.int64))
        return rows if last is None else rows[rows <= last]

    def last_row(self) -> int:
        """Return the highest row that was ever used; 0 if none was."""
        with self.reader() as read:
            found = read.execute("SELECT seq FROM sqlite_sequence WHERE name = 'documents'").fetchone()
        return int(found[0]) if found else 0

    def vectors(
        self, after: int = 0, last: int = 2**62, among: Rows | None = None, batch: int = 8192
    ) -> Iterator[tuple[Rows, Vectors]]:
        """Yield rows and their vectors, ascending: those after a row and up to another, or certain ones."""
        with self.reader() as read:
            if among is None:
                sql = "SELECT row, vector FROM vectors WHERE row > ? AND row <= ? ORDER BY row"
                found = read.execute(sql, (after, last))
            else:
                sql = "SELECT row, vector FROM vectors WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row"
                found = read.execute(sql, (json.dumps(among.tolist()),))
            while some := found.fetchmany(batch):
                data = b"".join(vector for _, vector in some)
                yield (
                    np.asarray([row for row, _ in some], np.int64),
                    np.frombuffer(data, np.float32).reshape(len(some), -1),
                )

    def by_words(self, query: str, k: int, selection: Selection | None) -> list[tuple[int, float]]:
        """Return the rows that share words with a query, by BM25, best first."""
        terms = dict.fromkeys(re.findall(r"\w+", query.lower()))
        if not terms:
            return []
        match = " OR ".join(f'"{term}"' for term in list(terms)[:_MOST_TERMS])
        sql, arguments = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?", [match]
        if selection is not None:
            # The plus keeps SQLite from asking the words' table once for each row of the filter.
            sql += f" AND +rowid IN ({selection.sql})"
            arguments += selection.arguments
        with self.reader() as read:
            return read.execute(f"{sql} ORDER BY rank LIMIT ?", (*arguments, k)).fetchall()

    def count(self) -> int:
        """Return how many documents there are."""
        with self.reader() as read:
            return int(read.execute("SELECT count(*) FROM documents").fetchone()[0])

    def sizes(self) -> dict[str, int]:
        """Return how many documents there are, from how many sources, and the bytes of the file."""
        with self.reader() as read:
            sources = read.execute("SELECT count(DISTINCT source) FROM documents WHERE source NOT NULL").fetchone()[0]
        files = self.path.parent.glob(f"{self.path.name}*")
        return {"documents": self.count(), "sources": sources, "bytes": sum(file.stat().st_size for file in files)}


def _drop(write: sqlite3.Connection, name: str) -> list[int]:
    found = write.execute("SELECT row, metadata FROM documents WHERE id = ?", (name,)).fetchone()
    if found is None:
        return []
    row, metadata = found
    tags: set[Tag] = set(tags_of(json.loads(metadata)))
    write.executemany("DELETE FROM tags WHERE key = ? AND value = ? AND row = ?", [(*tag, row) for tag in tags])
    write.execute("DELETE FROM vectors WHERE row = ?", (row,))
    write.execute("DELETE FROM documents WHERE row = ?", (row,))
    return [row]
