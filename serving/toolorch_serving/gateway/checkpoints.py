"""Where LangGraph keeps the gateway's conversations: with the gateway, or with a checkpointer of the app's own.

Either way a run that fails or is cancelled leaves its conversation as it was: half a run, with calls that nothing
answers, is refused by most models and misunderstood by the others.
"""

from __future__ import annotations

from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from toolorch_serving.gateway.threads import Thread

Graph = CompiledStateGraph[Any, Any, Any, Any]


class Checkpoints(Protocol):
    """The checkpoints of one conversation, for one run.

    Attributes:
        graph: The graph that writes them.
        config: With which the run begins.
        newest: Names the newest of them.
    """

    graph: Graph
    config: RunnableConfig
    newest: RunnableConfig

    async def mark(self) -> Any:
        """Return what `go_back` leads back to."""

    async def go_back(self, mark: Any) -> None:
        """Let the conversation be as it was."""

    def keep(self) -> int:
        """Keep what the run has left; return its size in bytes."""


class KeptCheckpoints:
    """Kept by the gateway: only the newest of each conversation, as bytes, taken over when a run ends well.

    LangGraph's saver in memory keeps every checkpoint that it ever wrote: a conversation would grow with the square of
    its length. So each run gets a saver of its own.
    """

    def __init__(self, graph: Graph, thread: Thread) -> None:
        self.newest = self.config = _config(thread)
        self._saver = _thaw(thread.state, self.newest)
        self._thread = thread
        self.graph: Graph = graph.copy({"checkpointer": self._saver})

    async def mark(self) -> Any:
        """Return what `go_back` leads back to."""
        return self._thread.state

    async def go_back(self, mark: Any) -> None:
        """Let the conversation be as it was."""
        self._thread.state = mark

    def keep(self) -> int:
        """Keep the newest checkpoint; return its size in bytes."""
        found: CheckpointTuple | None = self._saver.get_tuple(self.newest)
        assert found is not None
        frozen = self._saver.serde.dumps_typed((found.checkpoint, found.metadata, found.pending_writes or []))
        self._thread.state = frozen
        return len(frozen[1])


class OwnCheckpoints:
    """Kept by the app's checkpointer. After a run that failed the next one begins at the checkpoint before it."""

    def __init__(self, graph: Graph, thread: Thread) -> None:
        self.graph = graph
        self._thread = thread
        self.newest, self.config = _config(thread), _config(thread)
        if thread.state is not None:
            self.config["configurable"]["checkpoint_id"] = thread.state

    async def mark(self) -> Any:
        """Return the id of the checkpoint that the run begins at."""
        state = await self.graph.aget_state(self.config)
        return state.config["configurable"].get("checkpoint_id")

    async def go_back(self, mark: Any) -> None:
        """Begin there the next time; a conversation without any checkpoint before is deleted."""
        self._thread.state = mark
        checkpointer = self.graph.checkpointer
        if mark is None and not isinstance(checkpointer, bool) and checkpointer is not None:
            await checkpointer.adelete_thread(self._thread.checkpoints)

    def keep(self) -> int:
        """Go on with the newest checkpoint; the gateway holds nothing."""
        self._thread.state = None
        return 0


def _thaw(frozen: tuple[str, bytes] | None, config: RunnableConfig) -> InMemorySaver:
    saver = InMemorySaver()
    if frozen is None:
        return saver
    checkpoint, metadata, pending_writes = saver.serde.loads_typed(frozen)
    written = saver.put(config, checkpoint, metadata, checkpoint["channel_versions"])
    writes: dict[str, list[tuple[str, Any]]] = {}
    for task_id, channel, value in pending_writes:
        writes.setdefault(task_id, []).append((channel, value))
    for task_id, values in writes.items():
        saver.put_writes(written, values, task_id)
    return saver


def _config(thread: Thread) -> RunnableConfig:
    # Traces have the conversation under the name that its client gave it.
    return {
        "configurable": {"thread_id": thread.checkpoints, "checkpoint_ns": ""},
        "metadata": {"thread_id": thread.id},
    }
