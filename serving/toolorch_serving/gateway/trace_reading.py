"""Traces as the read API shows them: pages of headers, whole traces, and sums over time. All of it blocks."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Integer, cast, func, select

from toolorch_integrations.errors import StoreError
from toolorch_integrations.ledger import CallKind
from toolorch_integrations.node import Node
from toolorch_integrations.store import TraceFilters, TraceStore, cursor, schema
from toolorch_integrations.store.filters import place
from toolorch_integrations.trace import Trace, TraceCall, TraceHeader
from toolorch_serving.gateway.errors import GatewayError

SHOWN = 500
"""Characters of request and answer in a listing."""


def page(
    store: TraceStore, filters: TraceFilters, before: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Return traces without their graphs, newest first, and the cursor of the next page.

    Args:
        store: The store.
        filters: Which traces.
        before: Cursor of this page; None: the first.
        limit: Traces at most.

    Raises:
        GatewayError: The cursor is none.
    """
    if before is not None:
        try:
            place(before)
        except StoreError as error:
            raise GatewayError(str(error), param="before") from error
    heads = list(store.traces(**{**filters, "before": before, "limit": limit + 1}))  # type: ignore[arg-type]
    shown = heads[:limit]
    return [head_view(head, SHOWN) for head in shown], cursor(shown[-1]) if len(heads) > limit else None


def head_view(head: TraceHeader, shown: int | None = None) -> dict[str, Any]:
    """Return all of a trace but its graph and calls."""
    names = ("id", "started", "ended", "app", "framework", "thread_id", "error", "preferences", "budget")
    plain = {name: getattr(head, name) for name in (*names, "policy_versions", "exact", "metadata")}
    return {
        **plain,
        "status": head.status.value,
        "request": head.request[:shown],
        "answer": head.answer[:shown],
        "totals": asdict(head.totals),
    }


def whole_view(trace: Trace, texts: Mapping[int, str]) -> dict[str, Any]:
    """Return a whole trace.

    Args:
        trace: The trace.
        texts: Text by token id, as far as known.
    """
    return {
        **head_view(trace),
        "nodes": [_node_view(node, texts) for node in trace.graph.nodes],
        "calls": [_call_view(entry) for entry in trace.calls],
        "feedback": [_without(asdict(entry), "trace_id") for entry in trace.feedback],
        "rewards": [_without(asdict(entry), "trace_id", "id") for entry in trace.rewards],
    }


def encode(value: Any) -> bytes:
    """Return JSON of whatever a trace holds: lone surrogates are escaped, and what is no number is null."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or a number of more than 64 bits
        finite = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
        return json.dumps(finite).encode()


def routing(store: TraceStore, since: float, bucket: float) -> list[dict[str, Any]]:
    """Return what runs did, by the span of time in which they began; oldest first.

    Args:
        store: The store.
        since: Epoch second of the oldest run.
        bucket: Seconds of a span.
    """
    traces, calls = schema.traces.c, schema.calls.c
    number = _floor(store, traces.started / bucket).label("number")
    recent = traces.started >= since
    named: dict[int, dict[str, int]] = defaultdict(dict)
    with store.engine.connect() as connection:
        sums = connection.execute(
            select(number, traces.policy_versions, func.count(), func.sum(traces.dollars), func.sum(traces.seconds))
            .where(recent)
            .group_by(number, traces.policy_versions)
        ).all()
        made = connection.execute(
            select(number, calls.name, func.count())
            .select_from(schema.calls.join(schema.traces))
            .where(recent, calls.kind != CallKind.POLICY.value)
            .group_by(number, calls.name)
        ).all()
    for at, name, count in made:
        named[int(at)][name] = count
    buckets: dict[int, dict[str, Any]] = {}
    for at, versions, runs, dollars, seconds in sorted(sums):
        key = int(at)
        entry = buckets.setdefault(
            key,
            {
                "start": key * bucket,
                "runs": 0,
                "dollars": 0.0,
                "seconds": 0.0,
                "calls": named[key],
                "versions": Counter(),
            },
        )
        entry["runs"] += runs
        entry["dollars"] += dollars
        entry["seconds"] += seconds
        entry["versions"].update(dict.fromkeys(json.loads(versions), runs))
    return list(buckets.values())


def _floor(store: TraceStore, value: ColumnElement[Any]) -> ColumnElement[Any]:
    # SQLite may be built without floor, and its cast cuts; PostgreSQL's cast rounds.
    return cast(value, Integer) if store.file is not None else func.floor(value)


def _node_view(node: Node, texts: Mapping[int, str]) -> dict[str, Any]:
    ids = node.token_ids.tolist()
    logprobs = [None] * len(ids) if node.logprobs is None else node.logprobs.tolist()
    turn = node.turn
    return {
        "index": node.index,
        "parent": node.parent,
        "role": node.role,
        "content": node.message.get("content"),
        "tool_calls": node.message.get("tool_calls") or [],
        "tool_call_id": node.message.get("tool_call_id"),
        "exact": node.exact,
        "tokens": [
            {"id": token, "logprob": logprob, "text": texts.get(token)}
            for token, logprob in zip(ids, logprobs, strict=False)
        ],
        "turn": None
        if turn is None
        else {
            "model": turn.model,
            "agent": turn.agent,
            "is_policy": turn.is_policy,
            "seconds": turn.seconds,
            "dollars": turn.dollars,
            "sampling": turn.sampling,
            "usage": turn.usage,
            "finish_reason": turn.finish_reason,
            "logprobs_mode": turn.logprobs_mode,
        },
    }


def _call_view(entry: TraceCall) -> dict[str, Any]:
    call = entry.call
    names = ("name", "model", "input_tokens", "output_tokens", "dollars", "seconds", "call_id", "error", "confirmed")
    return {
        **{name: getattr(call, name) for name in names},
        "kind": call.kind.value,
        "status": call.status.value,
        "started": entry.started,
        "node": entry.node,
        "arguments": entry.arguments,
        "result": entry.result,
    }


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
