"""The retrieval service: an index over HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from toolorch_integrations import __version__
from toolorch_integrations.errors import ToolorchError
from toolorch_serving.error_body import ErrorBody
from toolorch_serving.retrieval.answers import (
    AddedAnswer,
    DocumentsBody,
    RefusedError,
    SearchAnswer,
    SearchBody,
    error_response,
)
from toolorch_serving.retrieval.batching import BatchingEmbedder
from toolorch_serving.retrieval.index import RetrievalIndex
from toolorch_serving.retrieval.limits import Guard, ServiceLimits, Workers

_log = logging.getLogger(__name__)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 413, 500, 502, 503, 504)
}


def create_app(index: RetrievalIndex, *, key: str | None = None, limits: ServiceLimits | None = None) -> FastAPI:
    """Return the app that serves an index; it closes the index when it ends.

    Args:
        index: What is served.
        key: That callers must send as `Authorization: Bearer KEY`; None lets everybody in who reaches the port.
        limits: How much the service takes on.
    """
    limits = limits or ServiceLimits()
    index.embedder = BatchingEmbedder(index.embedder)
    workers = Workers(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        index.load()
        yield
        workers.close()
        index.close()

    app = FastAPI(title="toolorch retrieval", version=__version__, lifespan=lifespan, responses=_ERRORS)
    app.add_middleware(Guard, key=key, limits=limits)
    _add_error_handlers(app)

    @app.post("/search", response_model=SearchAnswer)
    async def search(body: SearchBody) -> Response:
        """Find the best documents for each query."""
        results = await workers.run(
            lambda: index.search(body.asked, body.k, filter=body.filter, mode=body.mode, weights=body.weights)
        )
        return _json({"results": results})

    @app.post("/documents", response_model=AddedAnswer)
    async def add(body: DocumentsBody) -> Response:
        """Add documents, or replace those of the same id; they are on disk and are found when this answers."""
        documents = [one.document() for one in body.documents]
        return _json(await workers.run(lambda: index.add(documents, skip_duplicates=body.skip_duplicates)))

    @app.delete("/documents/{id:path}", responses={404: {"model": ErrorBody}})
    async def delete(id: str) -> dict[str, int]:  # noqa: A002
        """Delete a document."""
        if not await workers.run(lambda: index.delete([id])):
            raise RefusedError(404, f"id: there is no document {id!r}", "id")
        return {"deleted": 1}

    @app.post("/snapshot")
    async def snapshot() -> dict[str, int]:
        """Write a snapshot of the vectors' index, so that the next start is quick."""
        return {"bytes": await workers.run(index.snapshot)}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the service is there."""
        return {"status": "ok"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        """Say what the index holds and how it searches."""
        return await workers.run(index.stats)

    return app


def _json(value: Any) -> Response:
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ToolorchError)
    @app.exception_handler(RefusedError)
    async def refuse(_: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def refuse_http(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(RefusedError(error.status_code, str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def refuse_body(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ""
        for part in first["loc"][1:]:
            field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
        if first["type"] == "json_invalid":
            return error_response(RefusedError(400, f"body: no JSON ({first['ctx']['error']})", "body"))
        fix = "; leave it out" if first["type"] == "extra_forbidden" else ""
        return error_response(RefusedError(400, f"{field or 'body'}: {first['msg']}{fix}", field or None))

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> JSONResponse:
        _log.error("A request failed.", exc_info=error)
        return error_response(error)
