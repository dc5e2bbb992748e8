"""Policy versions: who serves, and decisions by hand."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from toolorch_serving.gateway.errors import NotFoundError, UpstreamError
from toolorch_serving.gateway.keys import Caller, caller
from toolorch_serving.gateway.policy_client import PolicyClient
from toolorch_serving.gateway.schemas import PromoteRequest, RollBackRequest, VersionStep, VersionsView
from toolorch_serving.gateway.state import GatewayState
from toolorch_serving.gateway.versions import Versions
from toolorch_serving.promotion.records import PromotionRecord

Admin = Annotated[Caller, Depends(caller("admin"))]


def version_routes(state: GatewayState) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["versions"])

    @router.get("/v1/versions", response_model=VersionsView)
    def versions(
        who: Annotated[Caller, Depends(caller("read"))], limit: Annotated[int, Query(ge=1, le=1_000)] = 100
    ) -> dict[str, Any]:
        """Return who serves, which candidate is tried out, and the newest steps of promotions, newest first."""
        if state.versions is None:
            return {**_NOTHING, "served_error": _NO_POLICY}
        routes = state.versions.refresh()
        served, error = _served(state.upstream)
        return {
            "current": routes.current or None,
            "candidate": routes.candidate or None,
            "share": routes.share,
            "served": served,
            "served_error": error,
            "history": [_step(record) for record in state.versions.history(limit)],
        }

    @router.post("/v1/versions/promote", response_model=VersionStep)
    def promote(who: Admin, body: PromoteRequest) -> dict[str, Any]:
        """Let a version that the policy server has serve from now on, and note why."""
        return _step(_versions(state).promote(body.version, body.reason, who.name))

    @router.post("/v1/versions/roll_back", response_model=VersionStep)
    def roll_back(who: Admin, body: RollBackRequest) -> dict[str, Any]:
        """Take back the candidate on its way, or else the newest version that was promoted, and note why."""
        return _step(_versions(state).roll_back(body.reason, who.name))

    return router


_NO_POLICY = "no policy server is configured: add [policy] url"
_NOTHING: dict[str, Any] = {"current": None, "candidate": None, "share": 0.0, "served": [], "history": []}


def _versions(state: GatewayState) -> Versions:
    if state.versions is None:
        raise NotFoundError(f"there are no versions here: {_NO_POLICY}")
    return state.versions


def _served(upstream: PolicyClient | None) -> tuple[list[str], str | None]:
    if upstream is None:
        return [], _NO_POLICY
    try:
        return upstream.names(), None
    except UpstreamError as error:
        return [], str(error)


def _step(record: PromotionRecord) -> dict[str, Any]:
    return {
        "candidate": record.candidate,
        "incumbent": record.incumbent,
        "step": record.step.value,
        "reason": record.reason,
        "time": record.time,
        "share": record.share,
        "evidence": dict(record.evidence),
    }
