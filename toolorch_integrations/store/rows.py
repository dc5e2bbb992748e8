"""Between the objects of a trace and the rows of its tables."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.node import Node, Turn
from toolorch_integrations.owner import Owner
from toolorch_integrations.plain import storable, storable_json
from toolorch_integrations.trace import Feedback, Reward, Totals, TraceCall, TraceHeader


def header_row(header: TraceHeader) -> dict[str, Any]:
    """Return a trace's row."""
    totals = header.totals
    return {
        "id": header.id,
        "status": header.status.value,
        "started": header.started,
        "ended": header.ended,
        "app": storable(header.app),
        "framework": storable(header.framework),
        "thread_id": storable(header.thread_id),
        "request": storable(header.request),
        "answer": storable(header.answer),
        "error": storable(header.error),
        "preferences": _json_or_none(header.preferences),
        "budget": _json_or_none(header.budget),
        "catalog_hash": header.catalog_hash,
        "policy_versions": storable_json(header.policy_versions),
        "exact": header.exact,
        "turns": totals.turns,
        "calls": totals.calls,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "dollars": totals.dollars,
        "seconds": totals.seconds,
        "metadata": storable_json(header.metadata),
        "host": header.owner.host,
        "boot": header.owner.boot,
        "pid": header.owner.pid,
        "process_start": header.owner.started,
        "revision": header.revision + 1,
    }


def header_fields(row: Row[Any]) -> dict[str, Any]:
    """Return the arguments of `TraceHeader` and `Trace` for a row of `traces`."""
    return {
        "id": row.id,
        "status": TraceStatus(row.status),
        "started": row.started,
        "ended": row.ended,
        "app": row.app,
        "framework": row.framework,
        "thread_id": row.thread_id,
        "request": row.request,
        "answer": row.answer,
        "error": row.error,
        "preferences": _value_or_none(row.preferences),
        "budget": _value_or_none(row.budget),
        "catalog_hash": row.catalog_hash,
        "policy_versions": json.loads(row.policy_versions),
        "exact": row.exact,
        "totals": Totals(row.turns, row.calls, row.input_tokens, row.output_tokens, row.dollars, row.seconds),
        "metadata": json.loads(row.metadata),
        "owner": Owner(row.host, row.boot, row.pid, row.process_start),
        "revision": row.revision,
    }


def node_row(trace_id: str, node: Node) -> dict[str, Any]:
    """Return a node's row."""
    turn = node.turn
    row = {
        "trace_id": trace_id,
        "idx": node.index,
        "parent": node.parent,
        "role": storable(node.role),
        "message": storable_json(node.message),
        "token_ids": node.ids or None,
        "logprobs": node.logprob_bytes,
        "exact": node.exact,
        "sampled": node.sampled,
    }
    if turn is None:
        return row | _NO_TURN
    return row | {
        "model": storable(turn.model),
        "response_id": storable(turn.response_id),
        "sampling": storable_json(turn.sampling),
        "logprobs_mode": turn.logprobs_mode,
        "finish_reason": turn.finish_reason,
        "usage": storable_json(turn.usage),
        "started": turn.started,
        "seconds": turn.seconds,
        "dollars": turn.dollars,
        "agent": storable(turn.agent),
        "is_policy": turn.is_policy,
        "tools": turn.tools,
        "raw_text": storable(turn.raw_text),
        "invalid_tool_calls": _json_or_none(turn.invalid_tool_calls or None),
        "rewrites": _json_or_none(turn.rewrites or None),
    }


_NO_TURN: dict[str, Any] = dict.fromkeys(
    (
        "model", "response_id", "sampling", "logprobs_mode", "finish_reason", "usage", "started", "seconds",
        "dollars", "agent", "is_policy", "tools", "raw_text", "invalid_tool_calls", "rewrites",
    )
)  # fmt: skip


def read_node(row: Row[Any]) -> Node:
    """Return the node of a row."""
    turn = None
    if row.sampled:
        rewrites = _value_or_none(row.rewrites) or {}
        turn = Turn(
            row.model,
            row.response_id,
            json.loads(row.sampling),
            row.logprobs_mode,
            row.finish_reason,
            json.loads(row.usage),
            row.started,
            row.seconds,
            row.dollars,
            row.agent,
            row.is_policy,
            row.tools,
            row.raw_text,
            _value_or_none(row.invalid_tool_calls) or [],
            {int(index): message for index, message in rewrites.items()},
        )
    logprobs = None if row.logprobs is None else bytes(row.logprobs)
    return Node(row.idx, row.parent, json.loads(row.message), bytes(row.token_ids or b""), logprobs, row.exact, turn)


def call_row(trace_id: str, entry: TraceCall) -> dict[str, Any]:
    """Return a call's row."""
    call = entry.call
    return {
        "trace_id": trace_id,
        "idx": entry.index,
        "node": entry.node,
        "kind": call.kind.value,
        "name": storable(call.name),
        "status": call.status.value,
        "model": storable(call.model),
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "dollars": call.dollars,
        "seconds": call.seconds,
        "attempts": call.attempts,
        "call_id": storable(call.call_id),
        "turn": call.turn,
        "run_id": storable(call.run_id),
        "error": storable(call.error),
        "confirmed": call.confirmed,
        "arguments": _json_or_none(entry.arguments),
        "result": storable(entry.result),
        "result_length": entry.result_length,
        "started": entry.started,
        "agent": storable(entry.agent),
    }


def read_call(row: Row[Any]) -> TraceCall:
    """Return the call of a row."""
    call = Call(
        CallKind(row.kind),
        row.name,
        CallStatus(row.status),
        row.model,
        row.input_tokens,
        row.output_tokens,
        row.dollars,
        row.seconds,
        row.attempts,
        row.call_id,
        row.turn,
        row.run_id,
        row.error,
        row.confirmed,
    )
    arguments = _value_or_none(row.arguments)
    return TraceCall(row.idx, call, row.node, arguments, row.result, row.result_length, row.started, row.agent)


def feedback_row(entry: Feedback) -> dict[str, Any]:
    """Return a feedback's row."""
    return {
        "id": entry.id,
        "trace_id": entry.trace_id,
        "name": storable(entry.name),
        "score": entry.score,
        "comment": storable(entry.comment),
        "source": storable(entry.source),
        "created": entry.created,
    }


def read_feedback(row: Row[Any]) -> Feedback:
    """Return the feedback of a row."""
    return Feedback(row.trace_id, row.name, row.score, row.comment, row.source, row.created, row.id)


def reward_row(entry: Reward) -> dict[str, Any]:
    """Return a reward's row."""
    return {
        "id": entry.id,
        "trace_id": entry.trace_id,
        "values": storable_json(entry.values),
        "verifier": storable(entry.verifier),
        "created": entry.created,
    }


def read_reward(row: Row[Any]) -> Reward:
    """Return the reward of a row."""
    # By item: `Row.values` is a method.
    return Reward(row.trace_id, json.loads(row._mapping["values"]), row.verifier, row.created, row.id)


def _json_or_none(value: Any) -> str | None:
    return None if value is None else storable_json(value)


def _value_or_none(text: str | None) -> Any:
    return None if text is None else json.loads(text)
