"""Requests to the engine as the HTTP face sends them: which policy is meant, and the answer's steps as they come."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import HTTPException, Request
from transformers import PreTrainedTokenizerBase

from toolorch_serving.embedded.engine import Engine
from toolorch_serving.embedded.protocol import RequestError
from toolorch_serving.embedded.request import Request as EngineRequest
from toolorch_serving.embedded.request import Step
from toolorch_serving.embedded.sampling import Sampling


@dataclass(frozen=True)
class Served:
    """A policy as it is served.

    Attributes:
        engine: What runs it.
        tokenizer: Its tokenizer, with the chat template.
        name: The name that it is served under.
        root: Where it was loaded from.
        longest: Most tokens of prompt and answer together.
        reasoning: Whether answers begin with reasoning (`--reasoning-parser qwen3`).
    """

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    name: str
    root: str
    longest: int
    reasoning: bool

    def adapter(self, model: str | None) -> str | None:
        """Return the adapter that a request's `model` means; None is the bare policy.

        Raises:
            RequestError: There is no such model.
        """
        adapters = self.engine.model.adapters
        if model in (None, self.name):
            return None
        if model in adapters:
            return model
        raise RequestError(
            f"the model `{model}` does not exist; served here: {', '.join((self.name, *adapters))}",
            "model",
            status=404,
            kind="NotFoundError",
        )

    def submit(self, prompt: list[int], sampling: Sampling, adapter: str | None, *, skip_special: bool) -> Running:
        """Queue a request; call it on the event loop that reads the answer."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Step | Exception] = asyncio.Queue()
        request = EngineRequest(
            prompt,
            sampling,
            lambda item: loop.call_soon_threadsafe(arrived.put_nowait, item),
            adapter=adapter,
            skip_special=skip_special,
        )
        self.engine.submit(request)
        return Running(self, request, arrived)


@dataclass(frozen=True)
class Running:
    """A request that is under way."""

    served: Served
    request: EngineRequest
    arrived: asyncio.Queue[Step | Exception]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex[:16]}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def version(self) -> str | None:
        """Version of the weights that answer; None: those that were loaded at the start."""
        return self.request.version

    @property
    def model(self) -> str:
        """Name of the adapter that answers, or of the policy with the version of its weights."""
        return self.request.adapter or self.request.version or self.served.name

    async def steps(self) -> AsyncIterator[Step]:
        """Yield the answer's steps.

        Raises:
            RequestError: The engine failed.
        """
        try:
            while True:
                item = await self.arrived.get()
                if isinstance(item, HTTPException):
                    raise item
                if isinstance(item, Exception):
                    text = f"the engine failed: {type(item).__name__}: {item}"
                    raise RequestError(text, None, status=500, kind="InternalServerError")
                yield item
                if item.finish is not None:
                    return
        finally:
            # Reached as well when the client has gone: the row leaves the batch.
            self.request.cancelled = True

    async def all_steps(self, http: Request) -> list[Step]:
        """Return the answer's steps once it is whole; the client that closes the connection ends it."""

        async def client_gone() -> None:
            while (await http.receive())["type"] != "http.disconnect":
                pass
            self.arrived.put_nowait(HTTPException(499, "the client closed the connection"))

        watch = asyncio.create_task(client_gone())
        try:
            return [step async for step in self.steps()]
        finally:
            watch.cancel()
            self.request.cancelled = True
