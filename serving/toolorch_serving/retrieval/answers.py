"""What the service is asked and answers, and how it says what is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolorch_integrations.errors import EndpointError, ToolorchError
from toolorch_integrations.retrieval import RetrievalError
from toolorch_serving.error_body import error_body
from toolorch_serving.retrieval.documents import LONGEST_ID, Document
from toolorch_serving.retrieval.searcher import MOST_RESULTS

MOST_QUERIES = 256
MOST_DOCUMENTS = 2000
LONGEST_QUERY = 10_000
LONGEST_TEXT = 1_000_000


class RefusedError(Exception):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


def error_response(error: Exception) -> JSONResponse:
    """Return the answer that says what is wrong: `{"error": {"message", "type", "param", "code"}}`."""
    kind, param, headers = "invalid_request_error", getattr(error, "param", None), {}
    if isinstance(error, RefusedError):
        status = error.status
        kind = "invalid_request_error" if status < 500 else "overloaded_error"
    elif isinstance(error, RetrievalError):
        status = 400
    elif isinstance(error, EndpointError):
        status, kind = 503 if error.retryable else 502, "endpoint_error"
    else:
        status, kind = 500, "server_error"
    if status == 503:
        headers["retry-after"] = "1"
    message = str(error) if isinstance(error, (RefusedError, ToolorchError)) else f"{type(error).__name__}: {error}"
    return JSONResponse(error_body(message, kind, param=param, code=status), status, headers=headers)


Query = Annotated[str, Field(min_length=1, max_length=LONGEST_QUERY)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchBody(_Body):
    """A search for one query or for many."""

    query: Query | None = Field(None, description="One question or a few key words.")
    queries: list[Query] | None = Field(None, min_length=1, max_length=MOST_QUERIES, description="Several at once.")
    k: int = Field(10, ge=1, le=MOST_RESULTS, strict=True, description="Results a query.")
    filter: dict[str, Any] | None = Field(
        None, description='Conditions on metadata, such as {"lang": "en", "year": {"$gte": 2020}}.'
    )
    mode: Literal["hybrid", "dense", "lexical"] = Field("hybrid", description="By meaning, by words, or both.")
    weights: tuple[float, float] = Field(
        (1.0, 1.0), description="How much the dense and the lexical ranking count in hybrid mode."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        return self

    @property
    def asked(self) -> list[str]:
        """All queries."""
        return self.queries if self.queries is not None else [self.query or ""]


class DocumentBody(_Body):
    """A document to add."""

    text: str = Field(min_length=1, max_length=LONGEST_TEXT)
    id: str | None = Field(None, min_length=1, max_length=LONGEST_ID, description="By default made from the text.")
    metadata: dict[str, Any] = Field(default_factory=dict)

    def document(self) -> Document:
        """Return it as the index takes it."""
        return Document(self.text, self.id or "", self.metadata)


class DocumentsBody(_Body):
    """Documents to add, or to replace."""

    documents: list[DocumentBody] = Field(min_length=1, max_length=MOST_DOCUMENTS)
    skip_duplicates: bool = Field(False, description="Leave out new ones whose text is there under another id.")


class HitAnswer(BaseModel):
    """A document that was found."""

    id: str
    text: str
    score: float
    metadata: dict[str, Any]


class SearchAnswer(BaseModel):
    """The documents found for each query, best first."""

    results: list[list[HitAnswer]]


class AddedAnswer(BaseModel):
    """What became of documents."""

    added: int
    updated: int
    unchanged: int
    duplicates: int
    embedded: int
    ids: list[str]
