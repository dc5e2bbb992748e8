"""Embeds the queries of concurrent requests together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from toolorch_serving.retrieval.documents import Vectors
from toolorch_serving.retrieval.embedders import Embedder


class _Job:
    __slots__ = ("done", "error", "texts", "vectors")

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.done = False
        self.vectors: Vectors | None = None
        self.error: Exception | None = None


class BatchingEmbedder:
    """An embedder whose concurrent queries share a batch.

    While one batch is in the model, queries gather; whoever gets the model next takes all that have gathered. So nobody
    waits for company, and a busy service embeds in large batches. There is no thread to start or stop.
    """

    def __init__(self, embedder: Embedder, *, most: int = 256) -> None:
        """Wrap an embedder.

        Args:
            embedder: What embeds.
            most: Texts a batch, unless one request has more.
        """
        self._embedder, self._most = embedder, most
        self._waiting: list[_Job] = []
        self._waiting_lock = threading.Lock()
        self._model_lock = threading.Lock()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._embedder.name

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._embedder.dimension

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each text; documents come in batches already."""
        return self._embedder.embed_documents(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each query."""
        job = _Job(texts)
        with self._waiting_lock:
            self._waiting.append(job)
        while not job.done:
            with self._model_lock:
                if not job.done:
                    self._run(self._gathered())
        if job.error is not None:
            raise job.error
        assert job.vectors is not None
        return job.vectors

    def _gathered(self) -> list[_Job]:
        with self._waiting_lock:
            taken, texts = 0, 0
            for job in self._waiting:
                texts += len(job.texts)
                if taken and texts > self._most:
                    break
                taken += 1
            jobs, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return jobs

    def _run(self, jobs: list[_Job]) -> None:
        try:
            vectors = self._embedder.embed_queries([text for job in jobs for text in job.texts])
        except Exception as error:  # every caller of the batch is told
            for job in jobs:
                job.error, job.done = error, True
            return
        start = 0
        for job in jobs:
            job.vectors = vectors[start : start + len(job.texts)]
            start += len(job.texts)
            job.done = True
