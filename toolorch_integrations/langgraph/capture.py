"""Exact capture of LangChain and LangGraph apps: a callback handler that tells a recorder what happens.

It sees every chat model and tool of an app, whether or not an orchestrator is among them. An orchestrator adds what
callbacks cannot see: prices, budget, preferences, the catalogue, and calls that were never made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent, GraphResumeEvent
from langgraph.errors import GraphInterrupt
from langgraph.types import Command

from toolorch_integrations.capture import CaptureSession, active_session
from toolorch_integrations.events import CallEnded, Deferred, TraceEnded, TraceStarted, TraceStatus
from toolorch_integrations.langgraph.lifecycle import hear_graph_events
from toolorch_integrations.langgraph.specialists import SPECIALIST_METADATA
from toolorch_integrations.langgraph.trace_events import (
    OpenTrace,
    PendingCall,
    answer_of,
    policy_called,
    policy_failed,
    request_in,
    size_of,
    tool_called,
)
from toolorch_integrations.ledger import Call, CallStatus
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.reporting import annotation, policy_price
from toolorch_integrations.run import Run

_GIVEN_UP = (GraphInterrupt, GeneratorExit, asyncio.CancelledError)
"""How a run ends that waits for a person, whose stream nobody reads on, or that was cancelled."""


class CaptureHandler(GraphCallbackHandler):
    """Captures the runs that it is a callback of: `agent.invoke(..., config={"callbacks": [handler]})`.

    Args:
        recorder: Where the events go. `with capture(...) as session` has one: `session.recorder`.
    """

    run_inline = True  # its methods only put references on a queue: no thread is worth that
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._traces: dict[UUID, OpenTrace] = {}
        self._pending: dict[UUID, PendingCall] = {}

    # --- the run tree ---

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: dict[str, Any] | Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Begin a trace with a root run; note where any other run belongs."""
        if parent_run_id is not None and parent_run_id in self._traces:
            self._adopt(run_id, self._traces[parent_run_id])
            return
        self._begin(run_id, name or "", metadata or {}, inputs)

    def on_chain_end(self, outputs: dict[str, Any] | Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End the trace with its root run."""
        trace = self._traces.pop(run_id, None)
        if trace is not None and trace.root == run_id:
            self._end(trace, trace.status or TraceStatus.ANSWERED, answer=answer_of(outputs), error=trace.error)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End the trace with its root run."""
        trace = self._traces.pop(run_id, None)
        if trace is not None and trace.root == run_id:
            self._failed(trace, error)

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Note that a graph waits: for a person, or at a breakpoint."""
        trace = self.trace_of(event.run_id)
        if trace is not None:
            trace.status = TraceStatus.INTERRUPTED

    def on_resume(self, event: GraphResumeEvent) -> None:
        """Note that a graph goes on which has waited in the same trace."""
        trace = self.trace_of(event.run_id)
        if trace is not None and trace.status is TraceStatus.INTERRUPTED:
            trace.status = None

    # --- model calls ---

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the prompt. A model that is called outside any chain makes a trace of its own."""
        metadata = metadata or {}
        if metadata.get("toolorch_role") == SPECIALIST_METADATA["toolorch_role"]:
            return
        trace = self._traces.get(parent_run_id) if parent_run_id is not None else None
        if trace is None:
            trace = self._begin(run_id, name or "", metadata, {"messages": messages[0]})
        trace.runs.add(run_id)
        options, price = kwargs.get("invocation_params") or {}, policy_price()
        is_policy = price is not None or not trace.orchestrated
        self._pending[run_id] = PendingCall(
            trace, time.time(), time.perf_counter(), messages[0], options, metadata, price, is_policy
        )

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Hand over the reply with its ids; decoding happens on the recorder's thread."""
        pending = self._pending.pop(run_id, None)
        if pending is None:
            return
        seconds = time.perf_counter() - pending.clock
        decode = partial(policy_called, pending, response, seconds)
        self.recorder.put(Deferred(pending.trace.id, decode, size_of(response)))
        self._end_lone_model(pending.trace, run_id, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Hand over a model call that failed."""
        pending = self._pending.pop(run_id, None)
        if pending is None:
            return
        seconds = time.perf_counter() - pending.clock
        text = f"{type(error).__name__}: {error}"
        self.recorder.put(Deferred(pending.trace.id, partial(policy_failed, pending, text, seconds)))
        if pending.trace.root == run_id:
            self._traces.pop(run_id, None)
            self._failed(pending.trace, error)

    # --- tool calls ---

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a tool call of any agent; what runs inside the tool belongs to the same trace."""
        trace = self._traces.get(parent_run_id) if parent_run_id is not None else None
        if trace is None:
            return
        self._adopt(run_id, trace)
        name = (serialized or {}).get("name", "")
        options = {"name": name, "call_id": tool_call_id or ""}
        self._pending[run_id] = PendingCall(trace, time.time(), time.perf_counter(), inputs or input_str, options, {})

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Hand over a tool call, unless an orchestrator reports it."""
        self._tool_ended(run_id, output, CallStatus.OK)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Hand over a tool call that raised; a tool that asks a person has not ended."""
        if isinstance(error, GraphInterrupt):
            self._pending.pop(run_id, None)
            self._traces.pop(run_id, None)
            return
        self._tool_ended(run_id, f"{type(error).__name__}: {error}", CallStatus.ERROR)

    # --- inside ---

    def _begin(self, run_id: UUID, name: str, metadata: Mapping[str, Any], inputs: Any) -> OpenTrace:
        trace = OpenTrace(run_id.hex, run_id)
        self._traces[run_id] = trace
        thread_id = str(metadata.get("thread_id") or "")
        started = time.time()
        resume = inputs is None or isinstance(inputs, Command)  # What LangGraph goes on with a thread by.

        def begun() -> TraceStarted:
            return TraceStarted(
                trace.id,
                framework="langgraph",
                app=name,
                thread_id=thread_id,
                request=request_in(inputs),
                started=started,
                resume=resume,
            )

        self.recorder.put(Deferred(trace.id, begun))
        return trace

    def _failed(self, trace: OpenTrace, error: BaseException) -> None:
        if isinstance(error, _GIVEN_UP):
            self._end(trace, TraceStatus.INTERRUPTED)
        else:
            self._end(trace, TraceStatus.ERROR, error=f"{type(error).__name__}: {error}")

    def _adopt(self, run_id: UUID, trace: OpenTrace) -> None:
        self._traces[run_id] = trace
        trace.runs.add(run_id)

    def _end(self, trace: OpenTrace, status: TraceStatus, *, answer: str = "", error: str = "") -> None:
        for run_id in trace.runs:  # those that were cancelled have not ended themselves
            self._traces.pop(run_id, None)
            self._pending.pop(run_id, None)
        self.recorder.put(TraceEnded(trace.id, status, answer=answer, error=error))

    def _end_lone_model(self, trace: OpenTrace, run_id: UUID, response: LLMResult) -> None:
        if trace.root == run_id:
            self._traces.pop(run_id, None)
            self._end(trace, TraceStatus.ANSWERED, answer=response.generations[0][0].text)

    def _tool_ended(self, run_id: UUID, output: Any, status: CallStatus) -> None:
        self._traces.pop(run_id, None)
        pending = self._pending.pop(run_id, None)
        if pending is None or pending.options["call_id"] in pending.trace.claimed:
            return
        seconds = time.perf_counter() - pending.clock
        self.recorder.put(Deferred(pending.trace.id, partial(tool_called, pending, output, status, seconds)))

    # --- what an orchestrator adds ---

    def trace_of(self, run_id: UUID | None) -> OpenTrace | None:
        """Return the trace that a run belongs to."""
        return self._traces.get(run_id) if run_id is not None else None


@dataclass(frozen=True, slots=True)
class RunReporter:
    """Where an orchestrator says what callbacks cannot see. One for each step."""

    targets: Sequence[tuple[CaptureHandler, OpenTrace]]

    def orchestrator_began(self) -> None:
        """Say that an orchestrator begins to work."""
        for _, trace in self.targets:
            trace.orchestrated = True

    def run_began(self, run: Run) -> None:
        """Report preferences, budget and catalogue, once a trace."""
        self.orchestrator_began()
        for handler, trace in self.targets:
            if trace.annotated:
                continue
            trace.annotated = True
            handler.recorder.put(annotation(trace.id, run))

    def claim(self, call_id: str) -> None:
        """Say that the orchestrator itself reports this call."""
        for _, trace in self.targets:
            trace.claimed.add(call_id)

    def call_ended(self, call: Call, arguments: Any, result: str, started: float) -> None:
        """Report a tool or specialist call, made or not."""
        for handler, trace in self.targets:
            handler.recorder.put(CallEnded(trace.id, call, arguments, result, started))

    def budget_ended(self) -> None:
        """Report that a limit ends the run."""
        for _, trace in self.targets:
            trace.status = TraceStatus.BUDGET

    def run_failed(self, error: str) -> None:
        """Report that nobody could answer."""
        for _, trace in self.targets:
            trace.status, trace.error = TraceStatus.ERROR, error


def reporter_of() -> RunReporter | None:
    """Return who captures the step that runs now; None when nobody does."""
    config = var_child_runnable_config.get()
    callbacks = config.get("callbacks") if config else None
    if not isinstance(callbacks, BaseCallbackManager):
        return None
    targets = [
        (handler, trace)
        for handler in callbacks.handlers
        if isinstance(handler, CaptureHandler) and (trace := handler.trace_of(callbacks.parent_run_id)) is not None
    ]
    return RunReporter(targets) if targets else None


# --- `with capture(...)`: see toolorch_integrations.capture ---

_handlers: dict[CaptureSession, CaptureHandler] = {}


class _Active:
    """What LangChain asks, as if it were a context variable, for the handler to add to a run."""

    def get(self) -> CaptureHandler | None:
        session = active_session()
        return _handlers.get(session) if session is not None else None


_active = _Active()
register_configure_hook(cast("ContextVar[Any]", _active), inheritable=True)
hear_graph_events(_active.get)


def attach(session: CaptureSession) -> Callable[[], None]:
    """Capture the runs of a session's context; return what ends that."""
    _handlers[session] = CaptureHandler(session.recorder)

    def detach() -> None:
        _handlers.pop(session, None)

    return detach
