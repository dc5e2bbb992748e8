"""Swap LoRA adapters into the running engine, by the same two requests as vLLM's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from toolorch_serving.embedded.engine import Engine
from toolorch_serving.embedded.protocol import RequestError


class LoadAdapter(BaseModel):
    """Which adapter to load, and from which folder."""

    lora_name: str
    lora_path: str


class UnloadAdapter(BaseModel):
    """Which adapter to drop."""

    lora_name: str


def adapter_routes(engine: Engine, name: str) -> APIRouter:
    """Return the routes that load and drop adapters; `name` is the bare policy's and stays taken."""
    router = APIRouter()

    @router.post("/v1/load_lora_adapter")
    async def load(body: LoadAdapter) -> PlainTextResponse:
        if body.lora_name == name or body.lora_name in engine.model.adapters:
            raise RequestError(
                f"lora_name {body.lora_name} is taken: give each version of an adapter a name of its own",
                "lora_name",
            )
        if not (Path(body.lora_path) / "adapter_config.json").is_file():
            raise RequestError(f"lora_path {body.lora_path} holds no adapter_config.json", "lora_path", status=404)

        try:
            await asyncio.wrap_future(
                engine.between_tokens(lambda: engine.model.load_adapter(body.lora_name, body.lora_path))
            )
        except (ValueError, RuntimeError, ImportError) as error:
            raise RequestError(f"the adapter does not load: {error}", "lora_path") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadAdapter) -> PlainTextResponse:
        if body.lora_name not in engine.model.adapters:
            raise RequestError(
                f"lora_name {body.lora_name} is not loaded", "lora_name", status=404, kind="NotFoundError"
            )
        try:
            await asyncio.wrap_future(engine.between_tokens(lambda: engine.unload_adapter(body.lora_name)))
        except ValueError as error:
            raise RequestError(str(error), "lora_name", status=409, kind="ConflictError") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return router
