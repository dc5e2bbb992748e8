"""An index of documents: hybrid search, live changes, one folder on disk."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from toolorch_integrations.retrieval import Filter, Hit, Mode, RetrievalError
from toolorch_serving.retrieval.adding import Added, chosen, vectors_for
from toolorch_serving.retrieval.database import Database
from toolorch_serving.retrieval.dense import chosen_kind
from toolorch_serving.retrieval.documents import Document
from toolorch_serving.retrieval.embedders import Embedder, EmbedderSettings, checked, unit
from toolorch_serving.retrieval.filters import compile_filter
from toolorch_serving.retrieval.keeper import Keeper, Progress, silent
from toolorch_serving.retrieval.locks import FolderLock
from toolorch_serving.retrieval.searcher import Searcher, check_search


class RetrievalIndex:
    """Documents in a folder, found by meaning and by words. For many threads; one process at a time."""

    def __init__(
        self,
        folder: str | Path,
        embedder: Embedder | None = None,
        *,
        settings: EmbedderSettings | None = None,
        kind: str | None = None,
        recall: float = 0.97,
        create: bool = True,
    ) -> None:
        """Open an index; vectors are loaded at the first search, or by `load`.

        Args:
            folder: Where it is.
            embedder: What makes vectors; by default made from `settings`.
            settings: How to make the embedder; by default as the index remembers, and MiniLM for a new one.
            kind: Of the faiss index: auto, flat, ivf, ivf_sq8 or hnsw; by default as the index remembers.
            recall: Share of the true nearest to find, measured when a large index is built.
            create: Whether to make an index that is not there.

        Raises:
            RetrievalError: It is open elsewhere, damaged, or of another embedding model.
        """
        self.folder = Path(folder)
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not self.folder.is_dir():
            raise RetrievalError(f"index {folder}: there is no such folder; `toolorch index build` makes one", "index")
        self._lock = FolderLock(self.folder)
        try:
            self._database = Database(self.folder / "documents.db", create=create)
            try:
                self._open(embedder, settings, kind, recall)
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _open(
        self, embedder: Embedder | None, settings: EmbedderSettings | None, kind: str | None, recall: float
    ) -> None:
        noted = self._database.meta()
        if embedder is None:
            if settings is None and noted.get("embedder") == "" and "model" in noted:
                raise RetrievalError(f"embedder: give the one that {noted['model']} was, for this index", "embedder")
            settings = settings or (
                EmbedderSettings.loads(noted["embedder"]) if "embedder" in noted else EmbedderSettings()
            )
            embedder = settings.make()
        self.embedder = embedder
        if "model" not in noted:
            noted |= {
                "id": uuid.uuid4().hex,
                "model": embedder.name,
                "dimension": str(embedder.dimension),
                "kind": "auto",
            }
        elif (embedder.name, embedder.dimension) != (noted["model"], int(noted["dimension"])):
            raise RetrievalError(
                f"model: index {self.folder} holds vectors of {noted['model']} ({noted['dimension']} dimensions), not "
                f"of {embedder.name} ({embedder.dimension}); give that model, or build another index",
                "model",
            )
        chosen_kind(kind or "auto", 0)
        noted |= {
            "kind": kind or noted["kind"],
            "embedder": settings.dumps() if settings else noted.get("embedder", ""),
        }
        self._database.set_meta(noted)
        self._keeper = Keeper(
            self._database,
            self.folder / "vectors.snapshot",
            noted["id"],
            embedder.dimension,
            noted["kind"],
            recall,
        )
        self._searcher = Searcher(self._database, self._keeper)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._database.count()

    def load(self, progress: Progress = silent) -> None:
        """Load the vectors, or build their index, now rather than at the first search."""
        self._keeper.load(progress)

    def add(self, documents: Iterable[Document], *, skip_duplicates: bool = False) -> Added:
        """Add documents, or replace those of the same id. When this returns they are on disk and are found.

        Texts that are in the index already are not embedded again.

        Args:
            documents: All are checked before any is added; of two with one id the later counts.
            skip_duplicates: Leave out new documents whose text is there under another id.

        Raises:
            RetrievalError: A document cannot be stored.
            EndpointError: The endpoint of the embedding model failed.
        """
        report = Added()
        fresh = chosen(self._database, documents, report, skip_duplicates=skip_duplicates)
        if fresh:
            vectors = vectors_for(self._database, fresh, self.embedder, report)
            with self._keeper.changing:
                rows, gone = self._database.put(fresh, vectors)
                self._keeper.apply(rows, vectors, gone)
        return report

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents, at once and for good; return how many were there."""
        with self._keeper.changing:
            gone = self._database.drop(list(ids))
            self._keeper.apply(np.zeros(0, np.int64), np.zeros((0, self.embedder.dimension), np.float32), gone)
        return len(gone)

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002
        mode: Mode = "hybrid",
        weights: tuple[float, float] = (1.0, 1.0),
    ) -> list[list[Hit]]:
        """Return the best `k` documents for each query, best first.

        Args:
            queries: Questions or key words.
            k: Results a query, up to 1000.
            filter: Conditions on metadata: see `toolorch_serving.retrieval.filters`.
            mode: hybrid, dense or lexical.
            weights: How much the dense and the lexical ranking count in hybrid mode.

        Raises:
            RetrievalError: An argument is not usable.
            EndpointError: The endpoint of the embedding model failed.
        """
        check_search(queries, k, mode, weights)
        selection = compile_filter(filter)
        if not queries:
            return []
        if mode == "lexical":
            return self._searcher.lexical(queries, k, selection)
        vectors = checked(self.embedder.embed_queries(queries), len(queries), self.embedder)
        if mode == "dense":
            return self._searcher.dense(vectors, k, selection)
        return self._searcher.hybrid(queries, vectors, k, selection, weights)

    def search_vectors(self, vectors: Any, k: int = 10, *, filter: Filter | None = None) -> list[list[Hit]]:  # noqa: A002
        """Return the documents nearest to vectors of shape (queries, dimension), of any length; else as `search`."""
        wanted = np.asarray(vectors, np.float32)
        check_search((), k, "dense", (1.0, 1.0))
        if wanted.ndim != 2 or wanted.shape[1] != self.embedder.dimension or not np.isfinite(wanted).all():
            raise RetrievalError(f"vectors: must be rows of {self.embedder.dimension} finite numbers", "vectors")
        return self._searcher.dense(unit(wanted), k, compile_filter(filter))

    def ids_of(self, source: str) -> list[str]:
        """Return the ids of the documents that came from a source, or that are named as it is."""
        return self._database.ids_of(source)

    def snapshot(self) -> int:
        """Write a snapshot of the vectors' index, so that opening is quick; return its bytes."""
        return self._keeper.snapshot()

    def stats(self) -> dict[str, Any]:
        """Return what the index holds and how it searches."""
        noted, dense = self._database.meta(), self._keeper.dense
        found = {
            **self._database.sizes(),
            "model": noted["model"],
            "dimension": int(noted["dimension"]),
            "kind": noted["kind"],
            "unsaved_changes": self._keeper.changes,
        }
        if dense is not None:
            found["vectors"] = {
                "kind": dense.shape.kind,
                "held": len(dense),
                "dead": dense.dead,
                "effort": dense.shape.effort,
                "measured_recall": dense.shape.recall,
                "gpu": dense.on_gpu,
            }
        if self._keeper.failure:
            found["failure"] = self._keeper.failure
        return found

    def close(self) -> None:
        """Write a snapshot if there is something new, and let others have the index."""
        try:
            self._keeper.close()
        finally:
            self._database.close()
            self._lock.release()
