"""Looks at an index without opening it, also while a service has it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from toolorch_integrations.retrieval import RetrievalError


def look_at(folder: Path) -> dict[str, Any]:
    """Return what an index holds.

    Raises:
        RetrievalError: There is none in the folder.
    """
    path = folder / "documents.db"
    if not path.is_file():
        raise RetrievalError(f"index {folder}: there is none; `toolorch index build` makes one", "index")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            noted = dict(connection.execute("SELECT name, value FROM meta"))
            documents = connection.execute("SELECT count(*) FROM documents").fetchone()[0]
            sources = connection.execute("SELECT count(DISTINCT source) FROM documents").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise RetrievalError(f"index {folder}: {path.name} cannot be read ({error})", "index") from error
    return {
        "documents": documents,
        "sources": sources,
        "model": noted.get("model"),
        "dimension": int(noted.get("dimension", 0)),
        "kind": noted.get("kind"),
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
    }
