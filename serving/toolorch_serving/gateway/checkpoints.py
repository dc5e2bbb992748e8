"""LangGraph's checkpoints of the gateway's conversations: only the newest of each is kept, as bytes.

LangGraph keeps every checkpoint that it ever wrote, so a conversation in its in-memory saver grows with the square of
its length. Here each run gets a saver of its own, and what it leaves is taken over only when the run ends well.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver


def thaw(frozen: tuple[str, bytes] | None, thread_id: str) -> InMemorySaver:
    """Return a saver that holds a conversation as it was frozen; an empty one for None."""
    saver = InMemorySaver()
    if frozen is None:
        return saver
    checkpoint, metadata, pending_writes = saver.serde.loads_typed(frozen)
    written = saver.put(_config(thread_id), checkpoint, metadata, checkpoint["channel_versions"])
    writes: dict[str, list[tuple[str, Any]]] = {}
    for task_id, channel, value in pending_writes:
        writes.setdefault(task_id, []).append((channel, value))
    for task_id, values in writes.items():
        saver.put_writes(written, values, task_id)
    return saver


def freeze(saver: InMemorySaver, thread_id: str) -> tuple[str, bytes] | None:
    """Return a conversation's newest checkpoint, as its saver's serialiser writes it."""
    found: CheckpointTuple | None = saver.get_tuple(_config(thread_id))
    if found is None:
        return None
    return saver.serde.dumps_typed((found.checkpoint, found.metadata, found.pending_writes or []))


def _config(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
