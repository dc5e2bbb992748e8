"""Search in documents, as both faces and tools see it: hits, errors, and a client of the retrieval service.

The service and the index behind it live in `toolorch_serving.retrieval`; this module needs only httpx.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import quote

import httpx

from toolorch_integrations.errors import EndpointError, MissingVariableError, ToolorchError
from toolorch_integrations.per_loop import PerLoop

Mode = Literal["hybrid", "dense", "lexical"]
"""Which search: by meaning (dense vectors), by words (BM25), or both fused by rank."""

Filter = Mapping[str, Any]
"""Conditions on metadata, such as `{"lang": "en", "year": {"$gte": 2020}, "tag": {"$in": ["a", "b"]}}`."""

_RETRIED = (429, 502, 503, 504)


class RetrievalError(ToolorchError, ValueError):
    """A document, a query, a filter or an index is not usable.

    Attributes:
        param: The field at fault, as the caller wrote it.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(slots=True)
class Hit:
    """A document that was found.

    Attributes:
        score: Higher is better. Cosine (dense), BM25 (lexical) or fused reciprocal ranks (hybrid); of one answer
            only can be compared.
    """

    id: str
    text: str
    score: float
    metadata: dict[str, Any] = field(default_factory=dict)


class Searchable(Protocol):
    """What can be searched: a `RetrievalClient`, or a `toolorch_serving.retrieval.RetrievalIndex` in this process."""

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002
        mode: Mode = "hybrid",
    ) -> list[list[Hit]]:
        """Return the best `k` documents for each query, best first."""


class RetrievalClient:
    """A client of the retrieval service, for threads and for event loops."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8090",
        *,
        key_variable: str | None = None,
        timeout: float = 30.0,
        attempts: int = 3,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: Where the service listens; `toolorch serve retrieval INDEX` starts one.
            key_variable: Environment variable with the service's key.
            timeout: Seconds that one attempt may take.
            attempts: Requests that are sent at most, while the service is down or busy.

        Raises:
            RetrievalError: `url` is none.
            MissingVariableError: `key_variable` is not set.
        """
        if not url.startswith(("http://", "https://")):
            raise RetrievalError(f"url {url!r}: give the service's address, such as http://127.0.0.1:8090", "url")
        self.url = url.rstrip("/")
        headers = {}
        if key_variable is not None:
            if not os.environ.get(key_variable):
                raise MissingVariableError(f"key_variable: the environment variable {key_variable} is not set")
            headers["authorization"] = f"Bearer {os.environ[key_variable]}"
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": headers,
            "timeout": timeout,
            "verify": httpx.create_ssl_context(),  # made once: it takes longer than a search
        }
        self._attempts = max(1, attempts)
        self._client = httpx.Client(**self._options)
        self._async_clients = PerLoop[httpx.AsyncClient]()

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002
        mode: Mode = "hybrid",
    ) -> list[list[Hit]]:
        """Return the best `k` documents for each query, best first.

        Raises:
            RetrievalError: The service refused the request; the message names the field.
            EndpointError: The service is down, or failed, after bounded retries.
        """
        return _hits(self._send("POST", "/search", _search_body(queries, k, filter, mode)), len(queries))

    async def asearch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002
        mode: Mode = "hybrid",
    ) -> list[list[Hit]]:
        """`search` on an event loop."""
        return _hits(await self._asend("POST", "/search", _search_body(queries, k, filter, mode)), len(queries))

    def add(self, documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Add or replace documents, each `{"text": ..., "id": ..., "metadata": {...}}`; return what became of them."""
        answer: dict[str, Any] = self._send("POST", "/documents", {"documents": [dict(one) for one in documents]})
        return answer

    def delete(self, document_id: str) -> bool:
        """Delete a document; return whether it was there."""
        try:
            self._send("DELETE", f"/documents/{quote(document_id, safe='')}", None)
        except RetrievalError as error:
            if error.param == "id":
                return False
            raise
        return True

    def stats(self) -> dict[str, Any]:
        """Return what the index holds."""
        answer: dict[str, Any] = self._send("GET", "/stats", None)
        return answer

    def close(self) -> None:
        """Close the connections of `search`; those of event loops close with their loops."""
        self._client.close()

    def _send(self, method: str, path: str, body: Any) -> Any:
        for attempt in range(1, self._attempts + 1):
            try:
                response = self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                if attempt == self._attempts:
                    raise self._unreachable(error, attempt) from error
            else:
                if response.status_code not in _RETRIED or attempt == self._attempts:
                    return _answer(response, attempt)
            time.sleep(_pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    async def _asend(self, method: str, path: str, body: Any) -> Any:
        client = self._async_clients.here(lambda: httpx.AsyncClient(**self._options))
        for attempt in range(1, self._attempts + 1):
            try:
                response = await client.request(method, path, json=body)
            except httpx.TransportError as error:
                if attempt == self._attempts:
                    raise self._unreachable(error, attempt) from error
            else:
                if response.status_code not in _RETRIED or attempt == self._attempts:
                    return _answer(response, attempt)
            await asyncio.sleep(_pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: httpx.TransportError, attempts: int) -> EndpointError:
        return EndpointError(
            f"The retrieval service at {self.url} cannot be reached ({type(error).__name__}: {error}). Is it running? "
            "`toolorch serve retrieval INDEX` starts one.",
            retryable=True,
            attempts=attempts,
        )


def _pause(attempt: int) -> float:
    return float(0.2 * 2.0 ** (attempt - 1))


def _search_body(queries: Sequence[str], k: int, condition: Filter | None, mode: Mode) -> dict[str, Any]:
    if isinstance(queries, str):
        raise RetrievalError("queries: give a list of texts, not one text", "queries")
    return {"queries": list(queries), "k": k, "filter": condition, "mode": mode}


def _hits(answer: Any, queries: int) -> list[list[Hit]]:
    try:
        found = [
            [Hit(hit["id"], hit["text"], float(hit["score"]), hit["metadata"]) for hit in hits]
            for hits in answer["results"]
        ]
        if len(found) != queries:
            raise ValueError(f"results for {len(found)} queries of {queries}")
    except (KeyError, TypeError, ValueError) as error:
        raise EndpointError(f"The answer is none of a retrieval service's ({error!r}); look at the url.") from error
    return found


def _answer(response: httpx.Response, attempts: int) -> Any:
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_success:
        if isinstance(body, dict):
            return body
        raise EndpointError(f"The answer is none of a retrieval service's ({response.text[:100]!r}); look at the url.")
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and 400 <= response.status_code < 500 and response.status_code != 429:
        raise RetrievalError(str(error.get("message")), error.get("param"))
    said = error.get("message") if isinstance(error, dict) else response.text[:200]
    raise EndpointError(
        f"The retrieval service answered {response.status_code}: {said}",
        retryable=response.status_code in _RETRIED,
        attempts=attempts,
    )
