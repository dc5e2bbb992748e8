"""Ids of traces: new ones, or one that a caller has chosen before the run begins and tells its own clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_chosen: ContextVar[list[str] | None] = ContextVar("toolorch_trace_id", default=None)


@contextmanager
def trace_id(chosen: str) -> Iterator[None]:
    """Give the next trace that begins within this id, where the framework has no id of its own for a run.

    LlamaIndex has none. For LangGraph, `config={"run_id": uuid.UUID(chosen)}` does the same.

    Args:
        chosen: 32 hex digits, as `uuid.uuid4().hex`. Only one trace gets it.
    """
    token = _chosen.set([chosen])
    try:
        yield
    finally:
        _chosen.reset(token)


def new_trace_id() -> str:
    """Return the id for a trace that begins here and now."""
    chosen = _chosen.get()
    return chosen.pop() if chosen else uuid.uuid4().hex
