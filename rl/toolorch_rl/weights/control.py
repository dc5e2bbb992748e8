"""A running server's controls, by HTTP: the same requests for vLLM and for the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import numpy as np

from toolorch_integrations.tokens.reply import UNCERTAIN
from toolorch_rl.weights.errors import WeightsError
from toolorch_rl.weights.probe import Answer, Probe

_DEFAULT = "default"


class ServerControl:
    """Loads, unloads, pauses and reloads. Safe to use from many threads."""

    def __init__(self, url: str, *, timeout: float = 600) -> None:
        """Prepare.

        Args:
            url: Of the server, with or without /v1.
            timeout: Seconds that a request may take; pausing waits for all requests in flight.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout = timeout
        # vLLM closes idle connections: one a request.
        self._http = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            transport=httpx.HTTPTransport(retries=2),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> dict[str, dict[str, Any]]:
        """Return what is served, by name: the policy first, then its adapters."""
        return {entry["id"]: entry for entry in self._ask("GET", "/v1/models")["data"]}

    def load_adapter(self, name: str, folder: str) -> None:
        """Serve a LoRA adapter under a name of its own."""
        hint = "start vLLM with adapters: VllmServer(..., lora=True)"
        self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, hint=hint)

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter."""
        self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def is_paused(self) -> bool:
        """Whether requests wait; False where the server cannot be paused at all."""
        try:
            return bool(self._ask("GET", "/is_paused")["is_paused"])
        except WeightsError:
            return False

    def pause(self) -> None:
        """Let requests in flight end, and others wait."""
        self._ask("POST", "/pause", params={"mode": "wait"})

    def resume(self) -> None:
        """Let requests begin again."""
        self._ask("POST", "/resume")

    def attach(self) -> bool:
        """Let a server go on that somebody left paused; says whether it was.

        A trainer that is killed in the middle of a swap leaves vLLM paused: its health is good, and no request is
        ever answered.
        """
        paused = self.is_paused()
        if paused:
            self.resume()
        return paused

    @contextmanager
    def drained(self) -> Iterator[None]:
        """Let all requests in flight end, and others wait while the block runs."""
        try:
            self.pause()
            yield
        except BaseException:
            with suppress(WeightsError):  # What went wrong first says more.
                self.resume()
            raise
        self.resume()

    def reload(self, folder: str) -> None:
        """Replace all weights by those in a folder; prefixes that were cached with the old ones are dropped."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        self._ask("POST", "/collective_rpc", body)
        self.reset_prefix_cache()

    def reset_prefix_cache(self) -> None:
        """Drop the cache of prompts' beginnings.

        Raises:
            WeightsError: The server keeps it, since requests still use it.
        """
        if self._ask("POST", "/reset_prefix_cache").get("success") is not True:
            raise WeightsError(f"{self.url} keeps its prefix cache, which belongs to other weights: requests hold it")

    def version(self) -> str | None:
        """Return the name of the weights; None: those that were loaded at the start, or unfinished ones."""
        name = str(self._ask("GET", "/weight_info")["weight_version"])
        return None if name == _DEFAULT or name.startswith(UNCERTAIN) else name

    def uncertain(self) -> bool:
        """Whether a swap was begun and never finished."""
        return str(self._ask("GET", "/weight_info")["weight_version"]).startswith(UNCERTAIN)

    def set_version(self, name: str | None) -> None:
        """Name the weights; the name stands with every answer that is sampled from then on."""
        self._ask("POST", "/update_weight_version", {"new_version": name or _DEFAULT})

    def world_size(self) -> int:
        """Return how many workers hold weights."""
        return int(self._ask("GET", "/get_world_size")["world_size"])

    def sample(self, model: str, probe: Probe) -> list[Answer]:
        """Return what a model of the server answers to a probe."""
        body = {
            "model": model,
            "max_tokens": probe.tokens,
            "temperature": 1,
            "top_p": 1,
            "top_k": 0,
            "seed": 0,
            "repetition_penalty": 1,
            "ignore_eos": True,
            "logprobs": 1,
            "return_token_ids": True,
        }
        answers = []
        for prompt in probe.prompts:
            choice = self._ask("POST", "/v1/completions", {**body, "prompt": list(prompt)})["choices"][0]
            logprobs = np.array(choice["logprobs"]["token_logprobs"], np.float64)
            answers.append(Answer((*prompt, *choice["token_ids"]), logprobs))
        return answers

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        params: dict[str, str] | None = None,
        hint: str = "start vLLM for training: VllmServer(..., training=True)",
    ) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body, params=params)
        except httpx.TimeoutException as error:
            raise WeightsError(f"{self.url}{path} did not answer within {self._timeout:g} s") from error
        except httpx.HTTPError as error:
            raise WeightsError(
                f"{self.url} cannot be reached ({error or type(error).__name__}): is it running?"
            ) from error
        if response.status_code == 404 and '"Not Found"' in response.text:
            raise WeightsError(f"{self.url} has no {path}: {hint}")
        if response.status_code >= 300:
            raise WeightsError(f"{self.url}{path} answered {response.status_code}: {response.text[:500]}")
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return dict(response.json()) if is_json else {}
