"""A client of the policy server for what the gateway itself asks: which versions it has, and what token ids mean."""

from __future__ import annotations

import os
import time
from typing import Any

import httpx

from toolorch_serving.gateway.config import PolicyConfig
from toolorch_serving.gateway.errors import ConfigError, UpstreamError

_TIMEOUT = 5.0
_BELIEVED = 5.0
"""Seconds for which a list of models is believed."""


class PolicyClient:
    """Asks the policy server the small questions; safe across threads, and blocking.

    Where it is several servers behind a balancer, questions about versions go to each of them.

    Args:
        config: Where it is.

    Raises:
        ConfigError: The variable of its key is not set.
    """

    def __init__(self, config: PolicyConfig) -> None:
        self.config = config
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False, headers=_authorization(config))
        self._root = config.url.removesuffix("/v1")
        self._replicas = config.replicas or (config.url,)
        self._models: dict[str, tuple[float, list[dict[str, Any]]]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Return what callers can ask now, as `/v1/models` has it.

        Raises:
            UpstreamError: The server cannot be asked.
        """
        return self._served(self.config.url)

    def names(self) -> list[str]:
        """Return the names that every replica answers under.

        Raises:
            UpstreamError: A replica cannot be asked.
        """
        first, *others = ([str(entry["id"]) for entry in self._served(url)] for url in self._replicas)
        return [name for name in first if all(name in names for names in others)]

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
        """Take an adapter out of every replica that has it.

        Raises:
            UpstreamError: One of them could not be asked, or did not let go of it; the others have.
        """
        self._models.clear()  # what they have now counts
        failed: UpstreamError | None = None
        for url in self._replicas:
            try:
                if any(entry["id"] == version for entry in self._served(url)):
                    self._ask("POST", f"{url}/unload_lora_adapter", {"lora_name": version})
            except UpstreamError as error:
                failed = failed or error
        self._models.clear()
        if failed is not None:
            raise failed

    def _served(self, url: str) -> list[dict[str, Any]]:
        read_at, models = self._models.get(url, (float("-inf"), []))
        if time.monotonic() - read_at < _BELIEVED:
            return models
        found = self._ask("GET", f"{url}/models").get("data")
        if not isinstance(found, list):
            raise UpstreamError(f"{url}/models is no list of models: is its URL in [policy] right?")
        models = [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        self._models[url] = (time.monotonic(), models)
        return models

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


def policy_key(config: PolicyConfig) -> str | None:
    """Return the policy server's key, if it takes one.

    Raises:
        ConfigError: The variable is not set.
    """
    if not config.key_variable:
        return None
    key = os.environ.get(config.key_variable)
    if not key:
        raise ConfigError(f"policy.key_variable: the environment variable {config.key_variable} is not set: export it")
    return key


def _authorization(config: PolicyConfig) -> dict[str, str]:
    key = policy_key(config)
    return {} if key is None else {"Authorization": f"Bearer {key}"}
