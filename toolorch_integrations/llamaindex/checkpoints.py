"""Checkpoints of a workflow's run: its context as it was whenever a step of one name began.

A context that was stored while a step ran takes that step again, from its beginning. LlamaIndex stores a context when
it is told to, and nothing tells in time that a step begins but the span of the step: it is entered before the step has
done anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llama_index.core.workflow import Context, JsonSerializer, Workflow
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import active_instrument_tags
from workflows.errors import ContextSerdeError

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.llamaindex.instrumentation import SpanHandler, add_handlers, remove_handlers
from toolorch_integrations.llamaindex.memory import kept


class CheckpointError(ToolorchError):
    """A run cannot be stored, or does not go on from what was stored; the message says why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run as one of its steps began.

    Attributes:
        reached: Epoch seconds.
        stored: The context, as JSON-safe values.
    """

    reached: float
    stored: dict[str, Any]

    def context_for(self, workflow: Workflow) -> Context[Any]:
        """Return a context with which a workflow goes on: `workflow.run(ctx=...)` begins with the step.

        Args:
            workflow: One like that of the run; not the same object, if it keeps accounts of its runs.

        Raises:
            CheckpointError: The workflow cannot read it.
        """
        try:
            return Context.from_dict(workflow, self.stored)
        except (ContextSerdeError, ValueError) as error:
            raise CheckpointError(f"{type(workflow).__name__} does not go on from a checkpoint: {error}") from error


class Checkpoints:
    """The checkpoints of one run.

    Args:
        step: Name of the step.

    Attributes:
        taken: In order.
        error: Why one could not be taken, if so; none is taken then.
    """

    def __init__(self, step: str) -> None:
        self.step = step
        self.taken: list[Checkpoint] = []
        self.error: CheckpointError | None = None
        self._context: Context[Any] | None = None

    @contextmanager
    def of(self, handler: Any) -> Iterator[None]:
        """Take the checkpoints of a run that has just been started, as long as the block lasts.

        Args:
            handler: What `workflow.run(...)` returned.
        """
        self._context = handler.ctx
        _watcher.follow(handler.run_id, self)
        try:
            yield
        finally:
            _watcher.leave(handler.run_id)

    def take(self) -> None:
        """Take one now."""
        if self._context is None or self.error is not None:
            return
        serializer = _Serializer()
        try:
            stored = self._context.to_dict(serializer)
            failed = serializer.failed
        except Exception as error:
            failed = error
        if failed is not None:
            self.taken = []
            self.error = CheckpointError(
                f"the workflow's context cannot be stored: {str(failed)[:300]}. What its steps keep in the store, and "
                "its tools return, must be JSON values or pydantic models, and its memory one that serialises"
            )
            return
        self.taken.append(Checkpoint(time.time(), stored))


class _Serializer(JsonSerializer):
    """Stores a chat memory in the class that can be stored, and notes what cannot: LlamaIndex leaves a memory out."""

    failed: Exception | None = None

    def serialize_value(self, value: Any) -> Any:
        return super().serialize_value(kept(value))

    def serialize(self, value: Any) -> str:
        try:
            return super().serialize(value)
        except Exception as error:
            self.failed = error
            raise


class _Watcher:
    """Hears of all steps of this process, and tells the runs that are followed."""

    def __init__(self) -> None:
        self._runs: dict[str, Checkpoints] = {}
        self._lock = threading.Lock()
        self._handler = SpanHandler(self)

    def follow(self, run_id: str, checkpoints: Checkpoints) -> None:
        """Tell a run's checkpoints of its steps."""
        with self._lock:
            if not self._runs:
                add_handlers(spans=self._handler)
            self._runs[run_id] = checkpoints

    def leave(self, run_id: str) -> None:
        """Tell them no more."""
        with self._lock:
            self._runs.pop(run_id, None)
            if not self._runs:
                remove_handlers(spans=self._handler)

    def event(self, event: BaseEvent) -> None:
        """Take no note of it."""

    def span_entered(self, span_id: str, bound: Any, instance: Any, parent: str | None) -> None:
        """Have a checkpoint taken where a step of a followed run begins."""
        checkpoints = self._runs.get(str(active_instrument_tags.get().get("llamaindex.run_id", "")))
        # A span's id is CLASS.FUNCTION-UUID.
        if checkpoints is not None and span_id.partition("-")[0].rpartition(".")[2] == checkpoints.step:
            checkpoints.take()

    def span_ended(self, span_id: str, result: Any, error: BaseException | None, instance: Any) -> None:
        """Take no note of it."""


_watcher = _Watcher()
