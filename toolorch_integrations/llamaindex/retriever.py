"""A LlamaIndex retriever on the retrieval service, or on an index in this process."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from toolorch_integrations.retrieval import Filter, Hit, Mode, RetrievalClient, RetrievalError, Searchable


class Retriever(BaseRetriever):
    """Finds documents for a query, as nodes with scores.

    Retriever("http://127.0.0.1:8090", k=4, filter={"lang": "en"}).retrieve("refunds")
    """

    def __init__(
        self,
        source: str | Searchable,
        *,
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
        mode: Mode = "hybrid",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        """Make a retriever.

        Args:
            source: URL of the service, a `RetrievalClient`, or a `toolorch_serving.retrieval.RetrievalIndex`.
            k: Documents a query.
            filter: Conditions on metadata.
            mode: By meaning (dense), by words (lexical), or both.
            callback_manager: LlamaIndex's.
            verbose: LlamaIndex's.

        Raises:
            RetrievalError: `source` is none of those.
        """
        if isinstance(source, str):
            source = RetrievalClient(source)
        if not callable(getattr(source, "search", None)):
            raise RetrievalError("source: give the service's URL, a RetrievalClient or a RetrievalIndex", "source")
        self._source: Searchable = source
        self._options: dict[str, Any] = {"k": k, "filter": filter, "mode": mode}
        super().__init__(callback_manager=callback_manager, verbose=verbose)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._source.search([query_bundle.query_str], **self._options)[0])

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        queries = [query_bundle.query_str]
        if isinstance(self._source, RetrievalClient):
            return _nodes((await self._source.asearch(queries, **self._options))[0])
        return _nodes((await asyncio.to_thread(self._source.search, queries, **self._options))[0])


def _nodes(hits: list[Hit]) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(id_=hit.id, text=hit.text, metadata=hit.metadata), score=hit.score) for hit in hits
    ]
