"""The service itself: health, metrics, models, and the catalogue."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from toolorch_integrations.entry import AnyEntry
from toolorch_serving.gateway.errors import ErrorBody, NotFoundError, UpstreamError
from toolorch_serving.gateway.keys import Caller, caller
from toolorch_serving.gateway.schemas import CatalogList, Health, Models
from toolorch_serving.gateway.state import GatewayState

logger = logging.getLogger(__name__)

Chatter = Annotated[Caller, Depends(caller("chat"))]


def service_routes(state: GatewayState) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["service"])

    @router.get("/health", response_model=Health, responses={503: {"model": Health, "description": "Draining."}})
    async def health() -> JSONResponse:
        """Say whether the gateway takes requests; it needs no key, and asks neither store nor policy server."""
        body = {"status": "draining" if state.draining else "ok", "in_flight": state.metrics.running}
        return JSONResponse(body, 503 if state.draining else 200)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus's text."}
        },
    )
    def metrics(who: Annotated[Caller, Depends(caller("read"))]) -> Response:
        """Return all figures in Prometheus's text format."""
        return Response(state.metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @router.get("/v1/models", response_model=Models)
    def models(who: Chatter) -> dict[str, Any]:
        """List orchestrators and the policy server's models, as far as the caller may ask them."""
        found: list[dict[str, Any]] = [{"id": name, "owned_by": "toolorch"} for name in state.runners]
        if state.upstream is not None:
            try:
                found += [entry for entry in state.upstream.models() if entry["id"] not in state.runners]
            except UpstreamError as error:
                if not found:
                    raise
                logger.warning("the policy server's models are not listed: %s", error)
        return {"data": [entry for entry in found if who.may_ask(entry["id"])]}

    @router.get("/v1/catalog", response_model=CatalogList, responses={404: {"model": ErrorBody}})
    def catalog(
        who: Chatter,
        orchestrator: Annotated[str | None, Query(max_length=200, description="By default the first one.")] = None,
    ) -> dict[str, Any]:
        """List the tools and specialists that an orchestrator may call."""
        name = next(iter(state.runners), "") if orchestrator is None else orchestrator
        runner = state.runners.get(name)
        if runner is None:
            known = ", ".join(sorted(state.runners)) or "none"
            raise NotFoundError(f"there is no orchestrator {name!r}; there are: {known}", param="orchestrator")
        who.require_model(name)
        return {"data": [_entry(entry) for entry in runner.catalog()]}

    return router


def _entry(entry: AnyEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "description": entry.description,
        "price": entry.price,
        "latency": entry.latency,
        "destructive": entry.needs_confirmation,
        "capabilities": list(entry.capabilities),
    }
