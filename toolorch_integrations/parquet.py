"""Traces as a Parquet file, to analyse them.

A row a node: `token_ids` as list<uint32>, `logprobs` as list<float>, the message's text and JSON, what is known of the
call that sampled it, and the trace's own columns (prefix `trace_`), which are the same on all rows of a trace and
take next to no space in this format. There is no way back: to move traces, use JSON lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from toolorch_integrations.errors import StoreError
from toolorch_integrations.plain import storable, storable_json
from toolorch_integrations.trace import Trace

ROWS = 2_000
"""Nodes of one row group: what an export holds in memory."""


def write_parquet(traces: Iterable[Trace], path: str | Path) -> int:
    """Write traces to a Parquet file, a row a node; returns how many traces.

    Raises:
        StoreError: pyarrow is not installed.
    """
    try:
        pa = import_module("pyarrow")
        pq = import_module("pyarrow.parquet")
    except ImportError as error:
        raise StoreError("Parquet needs pyarrow: pip install 'toolorch-integrations[parquet]'") from error

    schema = pa.schema([(name, _arrow_type(pa, kind)) for name, kind in _COLUMNS.items()])
    number = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal number
        for trace in traces:
            number += 1
            yield from _rows(trace)

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        remaining = rows()
        while batch := list(itertools.islice(remaining, ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema))
    return number


_COLUMNS = {
    "trace_id": "string",
    "trace_status": "string",
    "trace_started": "float64",
    "trace_app": "string",
    "trace_thread_id": "string",
    "trace_exact": "bool",
    "trace_turns": "int64",
    "trace_dollars": "float64",
    "trace_seconds": "float64",
    "trace_rewards": "string",
    "trace_feedback": "string",
    "node": "int32",
    "parent": "int32",
    "role": "string",
    "text": "string",
    "message": "string",
    "token_ids": "uint32s",
    "logprobs": "floats",
    "sampled": "bool",
    "exact": "bool",
    "is_policy": "bool",
    "model": "string",
    "response_id": "string",
    "sampling": "string",
    "logprobs_mode": "string",
    "finish_reason": "string",
    "agent": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "started": "float64",
    "seconds": "float64",
    "dollars": "float64",
    "calls": "string",
}


def _arrow_type(pa: Any, kind: str) -> Any:
    lists = {"uint32s": pa.list_(pa.uint32()), "floats": pa.list_(pa.float32())}
    return lists[kind] if kind in lists else pa.type_for_alias(kind)


def _rows(trace: Trace) -> Iterator[dict[str, Any]]:
    header = {
        "trace_id": trace.id,
        "trace_status": trace.status.value,
        "trace_started": trace.started,
        "trace_app": storable(trace.app),
        "trace_thread_id": storable(trace.thread_id),
        "trace_exact": trace.exact,
        "trace_turns": trace.totals.turns,
        "trace_dollars": trace.totals.dollars,
        "trace_seconds": trace.totals.seconds,
        "trace_rewards": storable_json([entry.values for entry in trace.rewards]),
        "trace_feedback": storable_json([{"name": one.name, "score": one.score} for one in trace.feedback]),
    }
    calls: dict[int | None, list[dict[str, Any]]] = {}
    for entry in trace.calls:
        calls.setdefault(entry.node, []).append(entry.call.to_dict())
    for node in trace.graph.nodes:
        content = node.message.get("content")
        row = header | {
            "node": node.index,
            "parent": node.parent,
            "role": storable(node.role),
            "text": storable(content) if isinstance(content, str) else None,
            "message": storable_json(node.message),
            "token_ids": node.token_ids,
            "logprobs": node.logprobs,
            "sampled": node.sampled,
            "exact": node.exact,
            "calls": storable_json(calls[node.index]) if node.index in calls else None,
        }
        if node.turn is not None:
            turn = node.turn
            names = ("is_policy", "model", "response_id", "logprobs_mode", "finish_reason", "agent")
            row |= {name: getattr(turn, name) for name in (*names, "started", "seconds", "dollars")}
            row |= {name: turn.usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
            row["sampling"] = storable_json(turn.sampling)
        yield row
