"""A LangChain retriever on the retrieval service, or on an index in this process."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, field_validator

from toolorch_integrations.retrieval import Hit, Mode, RetrievalClient, Searchable


class Retriever(BaseRetriever):
    """Finds documents for a query.

        Retriever(source="http://127.0.0.1:8090", k=4, filter={"lang": "en"}).invoke("refunds")

    A document's `metadata` is as stored, and `score` in it is the hit's. `k`, `filter` and `mode` can be given to one
    `invoke` as well.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: Any
    """URL of the service, a `RetrievalClient`, or a `toolorch_serving.retrieval.RetrievalIndex`."""
    k: int = Field(4, ge=1)
    """Documents a query."""
    filter: dict[str, Any] | None = None
    """Conditions on metadata."""
    mode: Mode = "hybrid"
    """By meaning (dense), by words (lexical), or both."""

    @field_validator("source")
    @classmethod
    def _searchable(cls, source: Any) -> Searchable:
        if isinstance(source, str):
            return RetrievalClient(source)
        if not callable(getattr(source, "search", None)):
            raise ValueError("source: give the service's URL, a RetrievalClient or a RetrievalIndex")
        return source  # type: ignore[no-any-return]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        return _documents(self.source.search([query], **self._options(changed))[0])

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **changed: Any
    ) -> list[Document]:
        options = self._options(changed)
        if isinstance(self.source, RetrievalClient):
            return _documents((await self.source.asearch([query], **options))[0])
        return _documents((await asyncio.to_thread(self.source.search, [query], **options))[0])

    def _options(self, changed: dict[str, Any]) -> dict[str, Any]:
        return {"k": self.k, "filter": self.filter, "mode": self.mode, **changed}


def _documents(hits: list[Hit]) -> list[Document]:
    return [Document(id=hit.id, page_content=hit.text, metadata={**hit.metadata, "score": hit.score}) for hit in hits]
