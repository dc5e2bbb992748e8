"""Retrieval: an index of documents on faiss and SQLite, and the service that makes it searchable over HTTP."""

from importlib import import_module

try:
    import_module("faiss")
except ImportError as error:
    raise ImportError(
        "toolorch_serving.retrieval needs faiss: pip install 'toolorch-integrations[retrieval]', or [retrieval-gpu]"
    ) from error

from toolorch_serving.retrieval.adding import Added
from toolorch_serving.retrieval.build import BuildReport, build_index
from toolorch_serving.retrieval.chunks import Chunking
from toolorch_serving.retrieval.documents import Document
from toolorch_serving.retrieval.embedders import Embedder, EmbedderSettings, SentenceEmbedder
from toolorch_serving.retrieval.endpoint import EndpointEmbedder
from toolorch_serving.retrieval.index import RetrievalIndex
from toolorch_serving.retrieval.service import create_app
from toolorch_serving.retrieval.sources import Fields, Skipped, Sources

__all__ = [
    "Added",
    "BuildReport",
    "Chunking",
    "Document",
    "Embedder",
    "EmbedderSettings",
    "EndpointEmbedder",
    "Fields",
    "RetrievalIndex",
    "SentenceEmbedder",
    "Skipped",
    "Sources",
    "build_index",
    "create_app",
]
