"""Builds an index from files, and brings one up to date; a build that was killed goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from toolorch_serving.retrieval.documents import Document
from toolorch_serving.retrieval.index import RetrievalIndex
from toolorch_serving.retrieval.keeper import Progress, silent
from toolorch_serving.retrieval.sources import Item, Skipped, Sources

_BATCH = 256
"""Documents that are embedded and put on disk together: a kill costs at most so many."""
_SHOWN = 100


@dataclass(slots=True)
class BuildReport:
    """What a build did.

    Attributes:
        documents: That were read, after cutting.
        added, updated, unchanged, duplicates, embedded: See `toolorch_serving.retrieval.adding.Added`.
        deleted: That their file or row no longer holds.
        skipped: Files and rows that cannot be read.
        reasons: The first 100 of them.
    """

    documents: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    embedded: int = 0
    deleted: int = 0
    skipped: int = 0
    reasons: list[Skipped] = field(default_factory=list)


def build_index(
    index: RetrievalIndex,
    sources: Sources,
    *,
    skip_duplicates: bool = True,
    progress: Progress = silent,
    skipped: Callable[[Skipped], None] = lambda _: None,
) -> BuildReport:
    """Put what the sources hold into an index.

    Documents that are there are not embedded again, so a build that was killed goes on where it was, and one of files
    that have changed costs only what is new. Documents of files that are gone stay.

    Args:
        index: Preferably one whose vectors are not loaded: then they are indexed once, at the end.
        sources: Where documents come from.
        skip_duplicates: Leave out texts that are there under another name.
        progress: Told how much is done.
        skipped: Told of each file or row that cannot be read.

    Raises:
        RetrievalError: A source is missing, or vectors do not fit.
        EndpointError: The endpoint of the embedding model failed; run the build again to go on.
    """
    total = sum(path.stat().st_size for path, _ in sources.files())
    report, batch, waiting = BuildReport(), [], 0
    for found in sources.read():
        if isinstance(found, Skipped):
            report.skipped += 1
            if len(report.reasons) < _SHOWN:
                report.reasons.append(found)
            skipped(found)
            continue
        batch.append(found)
        waiting += len(found.documents)
        if waiting >= _BATCH:
            _put(index, batch, report, skip_duplicates)
            batch, waiting = [], 0
            progress("reading", min(found.read, total), total)
    _put(index, batch, report, skip_duplicates)
    progress("reading", total, total)
    index.load(progress)
    index.snapshot()
    return report


def _put(index: RetrievalIndex, items: list[Item], report: BuildReport, skip_duplicates: bool) -> None:
    documents: list[Document] = [document for item in items for document in item.documents]
    for start in range(0, len(documents), _BATCH):  # One long file may fill many batches.
        added = index.add(documents[start : start + _BATCH], skip_duplicates=skip_duplicates)
        for name in ("added", "updated", "unchanged", "duplicates", "embedded"):
            setattr(report, name, getattr(report, name) + getattr(added, name))
    report.documents += len(documents)
    stale: list[str] = []
    for item in items:
        held = {document.id for document in item.documents}
        stale += [name for name in index.ids_of(item.source) if name not in held]
    if stale:
        report.deleted += index.delete(stale)
