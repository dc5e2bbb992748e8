"""What the gateway itself asks the policy server: which models it serves, and what token ids mean."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import httpx

from toolorch_serving.gateway.config import PolicyConfig
from toolorch_serving.gateway.errors import ConfigError, UpstreamError

_TIMEOUT = 5.0
_BELIEVED = 5.0
"""Seconds for which a list of models is believed."""


class Upstream:
    """The policy server, for the small questions; safe across threads, and blocking.

    Args:
        config: Where it is.

    Raises:
        ConfigError: The variable of its key is not set.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.config = config
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False, headers=authorization(config))
        self._root = config.url.removesuffix("/v1")
        self._lock = threading.Lock()
        self._models: list[dict[str, Any]] = []
        self._read_at = float("-inf")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Return what is served, as `/v1/models` has it.

        Raises:
            UpstreamError: The server cannot be asked.
        """
        with self._lock:
            if time.monotonic() - self._read_at >= _BELIEVED:
                found = self._ask("GET", f"{self.config.url}/models").get("data")
                if not isinstance(found, list):
                    raise UpstreamError(f"{self.config.url}/models is no list of models: is policy.url right?")
                self._models = [
                    entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("id"), str)
                ]
                self._read_at = time.monotonic()
            return self._models

    def names(self) -> list[str]:
        """Return the names that the server answers under.

        Raises:
            UpstreamError: The server cannot be asked.
        """
        return [entry["id"] for entry in self.models()]

    def detokenize(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens included.

        Raises:
            UpstreamError: The server cannot say, as most others than vLLM cannot.
        """
        text = self._ask("POST", f"{self._root}/detokenize", {"tokens": ids}).get("prompt")
        if not isinstance(text, str):
            raise UpstreamError(f"{self._root}/detokenize gave no text")
        return text

    def unload(self, version: str) -> None:
        """Take an adapter out of the server.

        Raises:
            UpstreamError: It cannot be taken out.
        """
        self._ask("POST", f"{self.config.url}/unload_lora_adapter", {"lora_name": version})
        with self._lock:
            self._read_at = float("-inf")

    def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, url, json=body)
            response.raise_for_status()
            found = response.json() if response.headers.get("content-type", "").startswith("application/json") else {}
        except httpx.HTTPStatusError as error:
            raise UpstreamError(f"{url} answered {error.response.status_code}: {error.response.text[:200]}") from error
        except (httpx.HTTPError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise UpstreamError(f"the policy server {url} cannot be asked ({reason}): is it running?") from error
        return found if isinstance(found, dict) else {}


def authorization(config: PolicyConfig) -> dict[str, str]:
    """Return the header with the policy server's key, if it takes one.

    Raises:
        ConfigError: The variable is not set.
    """
    if not config.key_variable:
        return {}
    key = os.environ.get(config.key_variable)
    if not key:
        raise ConfigError(f"policy.key_variable: the environment variable {config.key_variable} is not set: export it")
    return {"Authorization": f"Bearer {key}"}
