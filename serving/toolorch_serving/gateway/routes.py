"""All routes of the gateway as one FastAPI app, its errors in OpenAI's form, and its OpenAPI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from toolorch_integrations import __version__
from toolorch_integrations.errors import EndpointError, GivenUpError, StoreError, ToolorchError
from toolorch_serving.gateway.chat import chat_routes
from toolorch_serving.gateway.completions import completion_routes
from toolorch_serving.gateway.errors import (
    ErrorBody,
    GatewayError,
    InternalError,
    TimeLimitError,
    UnavailableError,
    UpstreamError,
)
from toolorch_serving.gateway.service_routes import service_routes
from toolorch_serving.gateway.state import GatewayState
from toolorch_serving.gateway.trace_routes import trace_routes
from toolorch_serving.gateway.version_routes import version_routes
from toolorch_serving.web import page_routes

logger = logging.getLogger(__name__)


def make_routes(state: GatewayState) -> FastAPI:
    """Return the app of all routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await state.close()

    app = FastAPI(
        title="toolorch gateway",
        version=__version__,
        summary="Orchestrators and policies behind OpenAI's protocol, with every run captured.",
        lifespan=lifespan,
        redoc_url=None,
        responses={
            "4XX": {"model": ErrorBody, "description": "The request is refused; the message says why."},
            "5XX": {"model": ErrorBody, "description": "It cannot be answered now; the message says why."},
        },
    )
    app.state.gateway = state
    for routes in (completion_routes, chat_routes, service_routes, trace_routes, version_routes):
        app.include_router(routes(state))
    app.include_router(page_routes())
    _handle_errors(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def error_of(error: Exception) -> GatewayError:
    """Return how a client is told of an error."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, StoreError | SQLAlchemyError):
        return UnavailableError(
            f"the trace store cannot be used now: {_first_line(error)}", headers={"Retry-After": "5"}
        )
    if isinstance(error, GivenUpError):
        return TimeLimitError(str(error))
    if isinstance(error, EndpointError):
        return UpstreamError(str(error))
    if isinstance(error, ToolorchError):
        return GatewayError(str(error))
    return InternalError.of(error)


def _handle_errors(app: FastAPI) -> None:
    async def refuse(_: Request, error: Exception) -> JSONResponse:
        found = error_of(error)
        return JSONResponse(found.body, found.status, found.headers)

    async def refuse_store(_: Request, error: Exception) -> JSONResponse:
        logger.warning("the trace store cannot be used: %s", error)
        return await refuse(_, error)

    async def refuse_body(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        found = GatewayError(f"{place or 'body'}: {first['msg'].removeprefix('Value error, ')}", param=place or None)
        return await refuse(_, found)

    async def refuse_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        detail = {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}
        return JSONResponse({"error": detail}, error.status_code, error.headers)

    app.add_exception_handler(ToolorchError, refuse)
    app.add_exception_handler(StoreError, refuse_store)
    app.add_exception_handler(SQLAlchemyError, refuse_store)
    app.add_exception_handler(RequestValidationError, refuse_body)
    app.add_exception_handler(HTTPException, refuse_http)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the description, without FastAPI's own form of validation errors: here they are 400 and OpenAI's."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        found["paths"]["/v1/completions"] = _PASSED_ON
        for name in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema


_ERROR = {
    "description": "The message says why.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}
# `app.Gateway` hands it to the proxy: no route of FastAPI's ever sees it.
_PASSED_ON = {
    "post": {
        "tags": ["chat"],
        "summary": "Complete",
        "description": "Completion of a text by the policy server; what it may hold is the server's to say.",
        "operationId": "complete_v1_completions_post",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {
            "200": {
                "description": "As the server has it.",
                "content": {"application/json": {}, "text/event-stream": {}},
            },
            "4XX": _ERROR,
            "5XX": _ERROR,
        },
        "security": [{"HTTPBearer": []}],
    }
}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
