"""GET /v1/models: the orchestrators, and what the policy server has."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Depends

from toolorch_serving.gateway.config import PolicyConfig
from toolorch_serving.gateway.keys import Caller, caller
from toolorch_serving.gateway.state import GatewayState

SECONDS = 3.0
"""How long the policy server may take to say what it has."""
FRESH = 5.0
"""Seconds for which its answer is believed."""


class Upstream:
    """The models of the policy server, asked for seldom and for a short time only.

    Args:
        config: The server; None: there is none.
    """

    def __init__(self, config: PolicyConfig | None) -> None:
        self._config = config
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._models: list[dict[str, Any]] = []
        self._problem = ""

    async def models(self) -> tuple[list[dict[str, Any]], str]:
        """Return its models as it describes them, and what was wrong if it did not answer."""
        if self._config is None:
            return [], ""
        async with self._lock:
            if time.monotonic() - self._read_at > FRESH:
                self._models, self._problem = await _ask(self._config)
                self._read_at = time.monotonic()
            return self._models, self._problem


def model_routes(state: GatewayState) -> APIRouter:
    """Return the route that lists what can be asked for."""
    router = APIRouter(tags=["chat"])
    upstream = Upstream(state.config.policy)
    created = int(time.time())

    @router.get("/v1/models")
    async def models(who: Annotated[Caller, Depends(caller("chat"))]) -> dict[str, Any]:
        """List the orchestrators and the policy server's models that the caller may ask."""
        others, problem = await upstream.models()
        own = [
            {"id": name, "object": "model", "created": created, "owned_by": "toolorch", "kind": "orchestrator"}
            for name in state.runners
        ]
        listed = [*own, *(model for model in others if model.get("id") not in state.runners)]
        found: dict[str, Any] = {
            "object": "list",
            "data": [model for model in listed if who.may_ask(str(model.get("id")))],
        }
        return found | ({"upstream_error": problem} if problem else {})

    return router


async def _ask(config: PolicyConfig) -> tuple[list[dict[str, Any]], str]:
    key = os.environ.get(config.key_variable or "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(timeout=SECONDS) as client, asyncio.timeout(SECONDS):
            answer = await client.get(f"{config.url}/models", headers=headers)
            answer.raise_for_status()
            data = answer.json()["data"]
            return [dict(model) for model in data], ""
    except (httpx.HTTPError, TimeoutError, ValueError, LookupError, TypeError) as error:
        return [], f"the policy server {config.url} does not list its models: {type(error).__name__}: {error}"
