"""Traces as JSON lines, to move and keep them.

`parquet` has them as a table, to analyse them. Here a line is a whole trace: header, `nodes`, `calls`, `feedback`,
`rewards` and the `snapshots` that its hashes name. A node's `token_ids` and `logprobs` are base64 text of
little-endian uint32 and float32, exact to the bit; with `readable` they are lists of numbers, which `read_jsonl` takes
too (a log-probability of minus infinity is then `-Infinity`, as Python writes it). Names ending in `.gz` are packed.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import Call
from toolorch_integrations.node import ID_TYPE, LOGPROB_TYPE, Node, Turn
from toolorch_integrations.owner import Owner
from toolorch_integrations.plain import storable_json
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Feedback, Reward, Totals, Trace, TraceCall, TraceHeader

FORMAT = "toolorch-trace/1"
"""Stands in every line; a line of another format is refused."""


def write_jsonl(traces: Iterable[Trace], path: str | Path, *, readable: bool = False) -> int:
    """Write traces to a file, a line each; returns how many.

    Args:
        traces: What to write; read one by one.
        path: The file; a name ending in .gz is compressed. An existing file is replaced.
        readable: Ids and log-probabilities as lists of numbers: several times as long.
    """
    number = 0
    with _open(path, "wt") as file:
        for trace in traces:
            file.write(storable_json(trace_to_json(trace, readable=readable)) + "\n")
            number += 1
    return number


def read_jsonl(path: str | Path) -> Iterator[Trace]:
    """Yield the traces of a file that `write_jsonl` wrote.

    Raises:
        StoreError: A line is not a trace; the message names file and line.
    """
    with _open(path, "rt") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield trace_from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise StoreError(f"{path}, line {number}: not a trace of format {FORMAT} ({reason})") from error


def import_jsonl(store: TraceStore, path: str | Path) -> tuple[int, int]:
    """Add the traces of a file to a store; a trace that is there already only gets new feedback and rewards.

    Returns:
        How many traces were added, and how many were there.
    """
    added = known = 0
    for trace in read_jsonl(path):
        if store.add(trace):
            added += 1
        else:
            known += 1
    return added, known


def trace_to_json(trace: Trace, *, readable: bool = False) -> dict[str, Any]:
    """Return a trace as JSON-safe values."""
    header = {name: getattr(trace, name) for name in TraceHeader.__dataclass_fields__ if name != "revision"}
    return {
        "format": FORMAT,
        **header,
        "status": trace.status.value,
        "totals": asdict(trace.totals),
        "owner": asdict(trace.owner),
        "nodes": [_node_to_json(node, readable) for node in trace.graph.nodes],
        "calls": [_call_to_json(entry) for entry in trace.calls],
        "feedback": [asdict(entry) for entry in trace.feedback],
        "rewards": [asdict(entry) for entry in trace.rewards],
        "snapshots": trace.snapshots,
    }


def trace_from_json(data: dict[str, Any]) -> Trace:
    """Return the trace that `trace_to_json` wrote."""
    if data.get("format") != FORMAT:
        raise ValueError(f"format is {data.get('format')!r}")
    header = {name: data[name] for name in TraceHeader.__dataclass_fields__ if name in data}
    trace = Trace(
        **header
        | {
            "status": TraceStatus(data["status"]),
            "totals": Totals(**data["totals"]),
            "owner": Owner(**data["owner"]),
            "feedback": [Feedback(**entry) for entry in data["feedback"]],
            "rewards": [Reward(**entry) for entry in data["rewards"]],
            "snapshots": data["snapshots"],
        }
    )
    for node in data["nodes"]:
        trace.graph.append(_node_from_json(node))
    trace.calls = [TraceCall(**entry | {"call": Call.from_dict(entry["call"])}) for entry in data["calls"]]
    return trace


def _node_to_json(node: Node, readable: bool) -> dict[str, Any]:
    def numbers(data: bytes | None, kind: np.dtype[Any]) -> Any:
        if data is None:
            return None
        return np.frombuffer(data, kind).tolist() if readable else base64.b64encode(data).decode()

    return {
        "index": node.index,
        "parent": node.parent,
        "message": node.message,
        "token_ids": numbers(node.ids, ID_TYPE),
        "logprobs": numbers(node.logprob_bytes, LOGPROB_TYPE),
        "exact": node.exact,
        "turn": None if node.turn is None else asdict(node.turn),
    }


def _node_from_json(data: dict[str, Any]) -> Node:
    turn = None
    if data["turn"] is not None:
        turn = Turn(**data["turn"])
        turn.rewrites = {int(index): message for index, message in turn.rewrites.items()}
    ids = _from_numbers(data["token_ids"], ID_TYPE)
    logprobs = None if data["logprobs"] is None else _from_numbers(data["logprobs"], LOGPROB_TYPE)
    if logprobs is not None and len(logprobs) != len(ids):
        raise ValueError(f"node {data['index']} has {len(ids) // 4} ids and {len(logprobs) // 4} log-probabilities")
    return Node(data["index"], data["parent"], data["message"], ids, logprobs, data["exact"], turn)


def _from_numbers(value: str | list[float], kind: npt.DTypeLike) -> bytes:
    if not isinstance(value, str):
        return np.asarray(value, kind).tobytes()
    data = base64.b64decode(value, validate=True)
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes are not a list of 4-byte numbers")
    return data


def _call_to_json(entry: TraceCall) -> dict[str, Any]:
    return asdict(entry) | {"call": entry.call.to_dict()}


def _open(path: str | Path, mode: str) -> IO[str]:
    if str(path).endswith(".gz"):
        return cast("IO[str]", gzip.open(path, mode, encoding="utf-8"))
    return cast("IO[str]", Path(path).open(mode, encoding="utf-8"))
