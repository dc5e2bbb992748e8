"""Traces: listing, whole traces, feedback, and routing over time."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.plain import storable
from toolorch_integrations.store import TraceFilters
from toolorch_integrations.trace import Feedback, Trace
from toolorch_serving.gateway import trace_reading
from toolorch_serving.gateway.errors import GatewayError, NotFoundError
from toolorch_serving.gateway.keys import Caller, caller
from toolorch_serving.gateway.schemas import FeedbackCreated, FeedbackRequest, Routing, TraceDetail, TraceList
from toolorch_serving.gateway.state import GatewayState
from toolorch_serving.gateway.token_text import TokenText

DAY = 86_400.0
_MOST_BUCKETS = 2_000
_FLUSH_SECONDS = 5.0

Reader = Annotated[Caller, Depends(caller("read"))]
Text = Annotated[str | None, Query(max_length=500)]
Seconds = Annotated[float, Query(ge=1, le=366 * DAY, allow_inf_nan=False)]


def trace_routes(state: GatewayState) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["traces"])
    tokens = TokenText(state.upstream)

    @router.get("/v1/traces", response_model=TraceList)
    def traces(
        who: Reader,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
        status: TraceStatus | None = None,
        app: Text = None,
        thread_id: Text = None,
    ) -> Response:
        """List traces, newest first."""
        filters = TraceFilters(status=status, app=_storable(app), thread_id=_storable(thread_id))
        data, cursor = trace_reading.page(state.store, filters, _storable(before), limit)
        return _json({"data": data, "next": cursor})

    @router.get("/v1/traces/{trace_id}", response_model=TraceDetail)
    def trace(who: Reader, trace_id: Annotated[str, Path(min_length=1, max_length=200)]) -> Response:
        """Return a whole trace: its graph with tokens and log-probabilities, calls, feedback and rewards."""
        found = state.store.find(storable(trace_id))
        if found is None:
            raise NotFoundError(f"there is no trace {trace_id!r}: /v1/traces lists them", param="trace_id")
        ids = {token for node in found.graph.nodes for token in node.token_ids.tolist()}
        return _json(trace_reading.whole_view(found, tokens.texts(ids, _separators(found))))

    @router.post("/v1/feedback", response_model=FeedbackCreated, status_code=201)
    def feedback(who: Annotated[Caller, Depends(caller("feedback"))], body: FeedbackRequest) -> FeedbackCreated:
        """Attach feedback to a trace; training makes a reward of its score."""
        entry = Feedback(storable(body.trace_id), body.name, body.score, body.comment, source=who.name)
        if state.store.find(entry.trace_id) is None:
            state.flush(_FLUSH_SECONDS)  # The run may have ended a moment ago.
        try:
            state.store.add_feedback(entry)
        except StoreError as error:
            raise NotFoundError(
                f"there is no trace {body.trace_id!r}: give the trace_id of an answer", param="trace_id"
            ) from error
        return FeedbackCreated(id=entry.id)

    @router.get("/v1/routing", response_model=Routing)
    def routing(
        who: Reader,
        since: Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)] = None,
        bucket: Seconds = 3_600.0,
    ) -> dict[str, Any]:
        """Return which tools, specialists and policy versions runs used, over time; by default of the last day."""
        now = time.time()
        begin = now - DAY if since is None else since
        if (now - begin) / bucket > _MOST_BUCKETS:
            raise GatewayError(
                f"bucket is {bucket:g} s: at most {_MOST_BUCKETS} of them are given, so ask for longer ones or a later "
                "since",
                param="bucket",
            )
        return {"buckets": trace_reading.routing(state.store, begin, bucket)}

    return router


def _storable(text: str | None) -> str | None:
    return None if text is None else storable(text)


def _json(value: Any) -> Response:
    return Response(trace_reading.encode(value), media_type="application/json")


def _separators(trace: Trace) -> list[int]:
    """Return ids that may be special tokens: what sampled answers end with, and what prompts begin with."""
    nodes = trace.graph.nodes
    ends = [int(node.token_ids[-1]) for node in nodes if node.sampled and node.ids]
    begins = [int(node.token_ids[0]) for node in nodes if not node.sampled and node.ids]
    return list(dict.fromkeys([*ends, *begins]))[:4]
