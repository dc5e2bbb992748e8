"""What documents that come mean for an index: which are new, and which vectors are still to be made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from toolorch_integrations.retrieval import RetrievalError
from toolorch_serving.retrieval.database import Database, Known
from toolorch_serving.retrieval.documents import Document, Prepared, Vectors, prepare
from toolorch_serving.retrieval.embedders import Embedder, checked, unit


@dataclass(slots=True)
class Added:
    """What became of documents.

    Attributes:
        added: New ones.
        updated: Ones that took the place of another with their id.
        unchanged: Ones that were there already, word for word.
        duplicates: Left out, since their text is there under another id.
        embedded: Texts that went through the model.
        ids: Of the documents, in the order in which they were given.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    embedded: int = 0
    ids: list[str] = field(default_factory=list)


def chosen(
    database: Database, documents: Iterable[Document], report: Added, *, skip_duplicates: bool
) -> list[Prepared]:
    """Return those documents that change something; the others are counted.

    Raises:
        RetrievalError: One cannot be stored.
    """
    prepared = [prepare(document, f"documents[{number}]") for number, document in enumerate(documents)]
    report.ids = [one.id for one in prepared]
    coming = {one.id: one for one in prepared}
    known = database.known(list(coming))
    seen = database.held([one.digest for one in coming.values()]) if skip_duplicates else set()
    fresh = []
    for one in coming.values():
        there = known.get(one.id)
        if there is not None and _same(database, there, one):
            report.unchanged += 1
        elif there is None and skip_duplicates and one.digest in seen:
            report.duplicates += 1
        else:
            fresh.append(one)
            seen.add(one.digest)
            report.added += there is None
            report.updated += there is not None
    return fresh


def _same(database: Database, there: Known, coming: Prepared) -> bool:
    if (there.digest, there.metadata) != (coming.digest, coming.metadata):
        return False
    if coming.vector is None:
        return True
    given, held = np.asarray(coming.vector, np.float32), database.vector(there.row)
    return held is not None and given.shape == held.shape and np.allclose(unit(given), held, atol=1e-6)


def vectors_for(database: Database, fresh: Sequence[Prepared], embedder: Embedder, report: Added) -> Vectors:
    """Return a vector of length 1 for each document: its own, that of the same text in the index, or one made now.

    Raises:
        RetrievalError: A document's own vector does not fit.
        EndpointError: The endpoint of the embedding model failed.
    """
    size = embedder.dimension
    vectors = np.zeros((len(fresh), size), np.float32)
    for place, one in enumerate(fresh):
        if one.vector is not None:
            given = np.asarray(one.vector, np.float32)
            if given.shape != (size,) or not np.isfinite(given).all():
                raise RetrievalError(f"document {one.id}: vector must be {size} finite numbers", "vector")
            vectors[place] = given
    vectors = unit(vectors)
    without = [one for one in fresh if one.vector is None]
    held = database.vectors_of([one.digest for one in without])
    texts = {one.digest: one.text for one in without if one.digest not in held}
    if texts:
        made = checked(embedder.embed_documents(list(texts.values())), len(texts), embedder)
        held |= zip(texts, made, strict=True)
        report.embedded = len(texts)
    for place, one in enumerate(fresh):
        if one.vector is None:
            vectors[place] = held[one.digest]
    return vectors
