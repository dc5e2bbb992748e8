"""Other weights for the running engine, by the same requests as vLLM's with VLLM_SERVER_DEV_MODE=1."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body

from toolorch_serving.embedded.engine import Engine
from toolorch_serving.embedded.protocol import RequestError

DEFAULT = "default"
"""vLLM's name for the weights that were loaded at the start."""


def weight_routes(engine: Engine) -> APIRouter:
    """Return the routes that pause, reload and resume."""
    router = APIRouter()

    @router.post("/pause")
    async def pause(mode: str = "abort") -> dict[str, str]:
        if mode != "wait":
            raise RequestError(f"mode {mode} is not supported by the embedded engine: pause with mode=wait", "mode")
        await asyncio.wrap_future(engine.pause())
        return {"status": "paused"}

    @router.post("/resume")
    async def resume() -> dict[str, str]:
        await asyncio.wrap_future(engine.resume())
        return {"status": "resumed"}

    @router.get("/is_paused")
    async def is_paused() -> dict[str, bool]:
        return {"is_paused": engine.paused}

    @router.post("/collective_rpc")
    async def call(
        method: Annotated[str, Body()], kwargs: Annotated[dict[str, str] | None, Body()] = None
    ) -> dict[str, list[Any]]:
        if method != "reload_weights":
            raise RequestError(f"method {method} is not supported: the embedded engine has reload_weights", "method")
        path = (kwargs or {}).get("weights_path", "")
        if not (Path(path) / "config.json").is_file():
            raise RequestError(f"weights_path {path} holds no config.json", "weights_path", status=404)
        try:
            await asyncio.wrap_future(engine.between_tokens(lambda: engine.reload(path)))
        except (ValueError, OSError, RuntimeError) as error:
            raise RequestError(f"the weights do not load: {error}", "weights_path") from error
        return {"results": [None]}

    @router.post("/reset_prefix_cache")
    async def reset_prefix_cache() -> dict[str, bool]:
        return {"success": True}  # A reload has done it.

    @router.post("/update_weight_version")
    async def update_weight_version(new_version: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        engine.version = None if new_version == DEFAULT else new_version
        return {"success": True, "new_version": new_version}

    @router.get("/weight_info")
    async def weight_info() -> dict[str, str]:
        return {"weight_version": engine.version or DEFAULT}

    return router
