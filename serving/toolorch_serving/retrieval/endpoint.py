"""Embeddings from an OpenAI-compatible endpoint: OpenAI, vLLM, Ollama, text-embeddings-inference and others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from toolorch_integrations.errors import EndpointError, MissingVariableError
from toolorch_serving.retrieval.documents import Vectors
from toolorch_serving.retrieval.embedders import EmbedderSettings

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 10.0


class EndpointEmbedder:
    """A model behind `/v1/embeddings`."""

    def __init__(
        self,
        settings: EmbedderSettings,
        *,
        batch: int = 64,
        timeout: float = 60.0,
        attempts: int = 4,
        pause: float = 0.5,
    ) -> None:
        """Send nothing yet.

        Args:
            settings: Model, URL, key and prefixes.
            batch: Texts a request.
            timeout: Seconds that a request may take.
            attempts: Requests for one batch at most.
            pause: Seconds before the second; it doubles with each.

        Raises:
            MissingVariableError: The key's variable is not set.
        """
        self.name = settings.model
        self._settings, self._batch, self._attempts, self._pause = settings, batch, attempts, pause
        headers = {}
        if settings.key_variable is not None:
            if not os.environ.get(settings.key_variable):
                raise MissingVariableError(f"key_variable: the environment variable {settings.key_variable} is not set")
            headers["authorization"] = f"Bearer {os.environ[settings.key_variable]}"
        self._url = f"{(settings.url or '').rstrip('/')}/embeddings"
        self._client = httpx.Client(headers=headers, timeout=timeout)
        self._dimension = 0
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        """Length of a vector; the first use asks the endpoint."""
        with self._lock:
            if not self._dimension:
                self._dimension = len(self._request(["dimension"])[0])
        return self._dimension

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each text.

        Raises:
            EndpointError: The endpoint is down or refuses, after bounded retries.
        """
        return self._embed([self._settings.document_prefix + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return a vector for each query; raises as `embed_documents`."""
        return self._embed([self._settings.query_prefix + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> Vectors:
        parts = [self._request(texts[start : start + self._batch]) for start in range(0, len(texts), self._batch)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def _request(self, texts: Sequence[str]) -> Vectors:
        body = {"model": self.name, "input": list(texts), "encoding_format": "float"}
        for attempt in range(1, self._attempts + 1):
            wait = min(self._pause * 2 ** (attempt - 1), _LONGEST_PAUSE)
            try:
                response = self._client.post(self._url, json=body)
            except httpx.TransportError as error:
                problem = f"cannot be reached ({type(error).__name__}: {error}). Is it running?"
            except httpx.InvalidURL as error:
                raise EndpointError(f"The embeddings endpoint's url {self._url!r} is none: {error}") from error
            else:
                if response.is_success:
                    return self._vectors(response, len(texts))
                problem = f"answered {response.status_code}: {response.text[:300]}"
                if response.status_code not in _RETRIED:
                    raise EndpointError(f"The embeddings endpoint {self._url} {problem}", attempts=attempt)
                wait = _asked_wait(response, wait)
            if attempt < self._attempts:
                time.sleep(wait)
        raise EndpointError(f"The embeddings endpoint {self._url} {problem}", retryable=True, attempts=self._attempts)

    def _vectors(self, response: httpx.Response, number: int) -> Vectors:
        try:
            data: list[Any] = sorted(response.json()["data"], key=lambda one: one["index"])
            found = np.asarray([one["embedding"] for one in data], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise EndpointError(f"The embeddings endpoint {self._url} gave no embeddings ({error!r})") from error
        if found.ndim != 2 or len(found) != number:
            raise EndpointError(f"The embeddings endpoint {self._url} gave {len(data)} embeddings for {number} texts")
        return found


def _asked_wait(response: httpx.Response, wait: float) -> float:
    try:
        return min(max(float(response.headers["retry-after"]), wait), _LONGEST_PAUSE)
    except (KeyError, ValueError):
        return wait
