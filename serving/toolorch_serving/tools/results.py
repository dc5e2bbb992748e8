"""What searches bring, in one form for the policy and for the `select` rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolorch_serving.tools.tool_function import Document, Found

SNIPPET_CHARACTERS = 1_000


def shown(documents: Sequence[Document], nothing: str) -> Found:
    """Return documents as the policy reads them, and one by one."""
    parts = []
    for number, document in enumerate(documents, start=1):
        title, url = document.metadata.get("title"), document.metadata.get("url")
        head = " - ".join(str(part) for part in (title, url) if part)
        parts.append(f"[{number}] {head}\n{document.text}" if head else f"[{number}] {document.text}")
    return Found("\n\n".join(parts) or nothing, documents)


def result(title: Any, url: Any, snippet: Any) -> Document:
    """Return a search result as a document."""
    facts = {"title": " ".join(str(title or "").split())[:200], "url": str(url or "")[:500]}
    return Document(" ".join(str(snippet or "").split())[:SNIPPET_CHARACTERS], facts)
