"""Reads documents from folders, text files, JSON lines and Parquet."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolorch_integrations.retrieval import RetrievalError
from toolorch_serving.retrieval.chunks import Chunking, chunks
from toolorch_serving.retrieval.documents import Document, digest_of, prepare
from toolorch_serving.retrieval.html_text import html_text

_ROWS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".parquet")
_PAGES = (".html", ".htm", ".xhtml")


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row mean what.

    Attributes:
        text: Joined by a line break.
        id: Tried in turn; a row without one is named after its text.
        vector: Holds an embedding, made by the index's model; None: the text is embedded.
        metadata: Kept for filters; None: the field `metadata` if it is an object, else all fields that are left.
    """

    text: Sequence[str] = ("text",)
    id: Sequence[str] = ("id", "_id")
    vector: str | None = None
    metadata: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A file or a row with all of its documents.

    Attributes:
        source: Name of the file or row: documents of that source that are not in `documents` are out of date.
        read: Bytes of the input that have been read, about.
    """

    source: str
    documents: list[Document]
    read: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or a row that cannot be read.

    Attributes:
        place: File, and line or row.
        reason: What is wrong with it.
        read: As in `Item`.
    """

    place: str
    reason: str
    read: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """What an index is built from.

    Attributes:
        paths: Folders and files. Folders are read whole, hidden files left out.
    """

    paths: Sequence[Path]
    fields: Fields = field(default_factory=Fields)
    chunking: Chunking = field(default_factory=Chunking)

    def files(self) -> list[tuple[Path, str]]:
        """Return all files, each with the name that its documents get: the path from the given folder on.

        Raises:
            RetrievalError: A path is missing, or two have one name.
        """
        found: list[tuple[Path, str]] = []
        names = [path.absolute().name for path in self.paths]
        for path, name in zip(self.paths, names, strict=True):
            if not path.exists():
                raise RetrievalError(f"source {path}: there is no such file or folder", "sources")
            if names.count(name) > 1:
                raise RetrievalError(f"sources: two are named {name!r}; build them one after another", "sources")
            found += (
                [(file, f"{name}/{file.relative_to(path)}") for file in _walk(path)]
                if path.is_dir()
                else [(path, name)]
            )
        return found

    def read(self) -> Iterator[Item | Skipped]:
        """Yield what the files hold, and what of it cannot be read."""
        before = 0
        for path, name in self.files():
            size = path.stat().st_size
            try:
                for found in self._file(path, name, size):
                    yield type(found)(*_moved(found, before))
            except (OSError, ValueError, EOFError, zlib.error) as error:
                yield Skipped(name, _reason(error), before + size)
            before += size

    def _file(self, path: Path, name: str, size: int) -> Iterator[Item | Skipped]:
        lower = path.name.lower()
        if lower.endswith(_ROWS):
            rows = _parquet(path, size) if lower.endswith(".parquet") else _lines(path)
            for place, row, read in rows:
                yield self._row(f"{name}:{place}", row, read)
            return
        text, metadata = _text(path), {"path": name}
        if lower.endswith(_PAGES):
            text, title = html_text(text)
            metadata |= {"title": title} if title else {}
        if lower.endswith(".json"):
            rows_in = json.loads(text)
            if isinstance(rows_in, list) and any(isinstance(row, Mapping) for row in rows_in):
                for number, row in enumerate(rows_in, 1):
                    yield self._row(f"{name}:{number}", row, size)
                return
        documents = [
            Document(piece, f"{name}#{number}", {**metadata, "chunk": number, "start": start}, source=name)
            for number, (start, piece) in enumerate(chunks(text, self.chunking))
        ]
        yield Item(name, documents, size) if documents else Skipped(name, "it holds no text", size)

    def _row(self, place: str, row: Any, read: int) -> Item | Skipped:
        if isinstance(row, Exception):
            return Skipped(place, _reason(row), read)
        try:
            documents = list(self._documents(row))
            for document in documents:
                prepare(document)
        except ValueError as error:
            return Skipped(place, _reason(error), read)
        return Item(documents[0].source or documents[0].id, documents, read)

    def _documents(self, row: Any) -> Iterator[Document]:
        fields = self.fields
        if not isinstance(row, Mapping):
            raise RetrievalError("the row is no object")
        missing = [name for name in fields.text if not isinstance(row.get(name), str)]
        if missing:
            raise RetrievalError(f"the field {missing[0]!r} is no text; it has {', '.join(map(str, row))!s:.200}")
        text = "\n".join(row[name] for name in fields.text if row[name].strip())
        if not text:
            raise RetrievalError(f"{' and '.join(fields.text)}: empty")
        given = next((row[name] for name in fields.id if row.get(name) is not None), None)
        name = digest_of(text).hex() if given is None else str(given)
        metadata = self._metadata(row)
        vector = row.get(fields.vector) if fields.vector else None
        if fields.vector and vector is None:
            raise RetrievalError(f"the field {fields.vector!r}, which should hold a vector, is missing")
        pieces = [(0, text)] if vector is not None else list(chunks(text, self.chunking))
        if len(pieces) == 1:
            yield Document(text, name, metadata, vector)
            return
        for number, (start, piece) in enumerate(pieces):
            yield Document(piece, f"{name}#{number}", {**metadata, "chunk": number, "start": start}, source=name)

    def _metadata(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        fields = self.fields
        if fields.metadata is not None:
            return {name: row[name] for name in fields.metadata if name in row}
        if isinstance(row.get("metadata"), Mapping):
            return dict(row["metadata"])
        taken = {*fields.text, *fields.id, fields.vector}
        return {name: value for name, value in row.items() if name not in taken}


def _moved(found: Item | Skipped, before: int) -> tuple[Any, Any, int]:
    first, second = (found.source, found.documents) if isinstance(found, Item) else (found.place, found.reason)
    return first, second, found.read + before


def _walk(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(at, name) for name in sorted(files) if not name.startswith("."))


def _text(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data[:4096]:
        raise RetrievalError("it is no text file")
    return data.decode("utf-8-sig")


def _lines(path: Path) -> Iterator[tuple[str, Any, int]]:
    with path.open("rb") as raw:
        lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except ValueError as error:  # of Unicode as well
                row = error
            yield f"{number}", row, raw.tell()


def _parquet(path: Path, size: int) -> Iterator[tuple[str, Any, int]]:
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        number, total = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", {name: _plain(value) for name, value in row.items()}, size * number // total


def _plain(value: Any) -> Any:
    """Return a Parquet value as JSON has it: dates and decimals as text."""
    if value is None or isinstance(value, (str, int, float, list)):
        return value
    return json.loads(json.dumps(value, default=str))


def _reason(error: Exception) -> str:
    if isinstance(error, RetrievalError):
        return str(error)
    return f"{type(error).__name__}: {error!s:.200}"
