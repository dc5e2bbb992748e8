"""Exact capture of LlamaIndex apps: handlers of its instrumentation that tell a recorder what happens.

They see every LLM and tool of an app, whether or not an orchestrator is among them. An orchestrator adds what they
cannot see: prices, budget, preferences, the catalogue, and calls that were never made.

Instrumentation is global to the process. What belongs together is told by its spans: each thing that happens has a
span, each span a parent, and a run is a tree of them. A trace begins with the first model call of a tree.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llama_index.core.agent.workflow import AgentSetup, ToolCall, ToolCallResult
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.tools import BaseTool
from llama_index.core.workflow import Workflow
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.span import active_span_id
from workflows.errors import WorkflowCancelledByUser

from toolorch_integrations.capture import CaptureSession, active_session
from toolorch_integrations.events import CallEnded, Deferred, TraceEnded, TraceStarted, TraceStatus
from toolorch_integrations.ledger import Call
from toolorch_integrations.llamaindex.decoding import (
    LlmCall,
    policy_called,
    policy_failed,
    size_of,
    text_in,
    tool_called,
)
from toolorch_integrations.llamaindex.instrumentation import (
    EventHandler,
    SpanHandler,
    add_handlers,
    agent_of,
    name_of,
    remove_handlers,
    request_in,
)
from toolorch_integrations.llamaindex.specialists import SPECIALIST_TAGS
from toolorch_integrations.overrides import overrides_for
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.reporting import annotation, policy_price
from toolorch_integrations.run import Run
from toolorch_integrations.trace_ids import new_trace_id
from toolorch_integrations.versions import conversation_name

_GIVEN_UP = (WorkflowCancelledByUser, asyncio.CancelledError, GeneratorExit)
"""How a run ends that was cancelled, or whose stream nobody reads on."""


@dataclass(eq=False)
class _Trace:
    """A tree of spans that is under way."""

    root: str
    app: str
    request: str
    id: str = field(default_factory=new_trace_id)
    started: float = field(default_factory=time.time)
    begun: bool = False
    agent: str = ""
    """The root agent's name."""
    claimed: set[str] = field(default_factory=set)
    open_calls: int = 0
    """Model calls, such as streams, that may outlive their span."""
    status: TraceStatus | None = None
    error: str = ""
    orchestrated: bool = False
    """An orchestrator has said what it was asked to do."""
    ending: TraceEnded | None = None
    """How it ended, while a stream of it is still read."""


@dataclass(slots=True)
class _Span:
    """A span that is open."""

    trace: _Trace
    agent: str = ""
    llm: Any = None
    call: ToolCall | None = None
    tool: bool = False
    arguments: Any = None
    started: float = 0.0


class CaptureHandler:
    """Captures what happens in LlamaIndex while it is attached.

    Args:
        recorder: Where the events go. `with capture(...) as session` has one: `session.recorder`.
        begins: Says, at the beginning of a run, whether it is captured; None captures all.
    """

    def __init__(self, recorder: Recorder, begins: Callable[[], bool] | None = None) -> None:
        self.recorder = recorder
        self._begins = begins
        self._spans: dict[str, _Span] = {}
        self._llm_calls: dict[str, tuple[_Trace, LlmCall]] = {}
        self._events = EventHandler(self)
        self._span_handler = SpanHandler(self)

    def attach(self) -> None:
        """Begin to capture."""
        add_handlers(events=self._events, spans=self._span_handler)
        _attached.append(self)

    def detach(self) -> None:
        """End that; runs that are under way stay unfinished."""
        remove_handlers(events=self._events, spans=self._span_handler)
        if self in _attached:
            _attached.remove(self)

    # --- the tree of spans ---

    def span_entered(self, span_id: str, bound: inspect.BoundArguments, instance: Any, parent: str | None) -> None:
        """Note where a span belongs; one without a known parent may begin a trace."""
        above = self._spans.get(parent) if parent else None
        if above is None:
            if self._begins is not None and not self._begins():
                return
            above = _Span(_Trace(span_id, name_of(instance, span_id), request_in(bound), agent=agent_of(instance)))
        span = _Span(above.trace, above.agent)
        event = bound.arguments.get("ev")
        if isinstance(event, AgentSetup):
            span.agent = "" if event.current_agent_name == above.trace.agent else event.current_agent_name
        elif isinstance(event, ToolCall):
            span.call, span.started = event, time.time()
        elif isinstance(instance, BaseLLM):
            span.llm = instance
        elif isinstance(instance, BaseTool):
            # A tool below a workflow's call, or below another method of itself, is that call.
            span.tool = True
            if above.call is None and not above.tool:
                span.started = time.time()
                span.arguments = dict(bound.kwargs) or list(bound.args)
        self._spans[span_id] = span

    def span_ended(self, span_id: str, result: Any, error: BaseException | None, instance: Any) -> None:
        """Hand over the tool call that a span was; end the trace with its root."""
        span = self._spans.pop(span_id, None)
        failed = self._llm_calls.pop(span_id, None) if error is not None else None
        if failed is not None:
            self._failed(*failed, error=error)
        if span is None:
            return
        if span.call is not None:
            self._workflow_call_ended(span, span.call, result, error)
        elif span.tool and span.started:
            self._begin(span.trace)
            self._tool_ended(span, "", instance.metadata.get_name(), span.arguments, error or result)
        if span.trace.root == span_id:
            cancelled = isinstance(instance, Workflow) and result is None and error is None
            self._root_ended(span.trace, result, asyncio.CancelledError() if cancelled else error)

    def trace_of(self, span_id: str | None) -> _Trace | None:
        """Return the trace that a span belongs to."""
        span = self._spans.get(span_id) if span_id is not None else None
        return span.trace if span is not None else None

    def begin(self, trace: _Trace, run_id: str = "", resume: bool = False) -> None:
        """Begin a trace, or go on with the one in which a run was interrupted."""
        self._begin(trace, run_id, resume)

    def _begin(self, trace: _Trace, run_id: str = "", resume: bool = False) -> None:
        if trace.begun:
            return
        trace.begun = True
        self.recorder.put(
            TraceStarted(
                trace.id,
                framework="llamaindex",
                app=trace.app,
                thread_id=conversation_name() or run_id,
                request=trace.request,
                started=trace.started,
                resume=resume,
            )
        )

    def _root_ended(self, trace: _Trace, result: Any, error: BaseException | None) -> None:
        if not trace.begun:
            return
        if error is None:
            status = trace.status or TraceStatus.ANSWERED
            answer = "" if inspect.isgenerator(result) else text_in(result)
            ending = TraceEnded(trace.id, status, answer=answer, error=trace.error)
        elif isinstance(error, _GIVEN_UP):
            ending = TraceEnded(trace.id, TraceStatus.INTERRUPTED)
        else:
            ending = TraceEnded(trace.id, TraceStatus.ERROR, error=f"{type(error).__name__}: {error}")
        if trace.open_calls:
            trace.ending = ending
        else:
            self.recorder.put(ending)

    # --- model calls ---

    def event(self, event: BaseEvent) -> None:
        """Take an event of the instrumentation."""
        if isinstance(event, LLMChatStartEvent):
            self._called(event, event.messages)
        elif isinstance(event, LLMCompletionStartEvent):
            self._called(event, event.prompt)
        elif isinstance(event, (LLMChatInProgressEvent, LLMCompletionInProgressEvent)):
            found = self._llm_calls.get(event.span_id or "")
            if found is not None and not isinstance(event.response.raw, dict):
                found[1].chunks.append(event.response.raw)
        elif isinstance(event, (LLMChatEndEvent, LLMCompletionEndEvent)):
            found = self._llm_calls.pop(event.span_id or "", None)
            if found is not None:
                self._ended(*found, response=event.response)
        elif isinstance(event, ExceptionEvent):
            found = self._llm_calls.pop(event.span_id or "", None)
            if found is not None:
                self._failed(*found, error=event.exception)

    def _called(self, event: LLMChatStartEvent | LLMCompletionStartEvent, messages: Any) -> None:
        span = self._spans.get(event.span_id or "")
        if span is None or event.tags.get("toolorch_role") == SPECIALIST_TAGS["toolorch_role"]:
            return
        self._begin(span.trace)
        span.trace.open_calls += 1
        price = policy_price()
        call = LlmCall(
            span.trace.id,
            time.time(),
            time.perf_counter(),
            messages,
            {**event.additional_kwargs, **overrides_for(getattr(span.llm, "api_base", None))},
            span.llm,
            span.agent,
            price,
            is_policy=price is not None or not span.trace.orchestrated,
        )
        self._llm_calls[event.span_id or ""] = span.trace, call

    def _ended(self, trace: _Trace, call: LlmCall, response: Any) -> None:
        """Hand over the reply with its ids; decoding happens on the recorder's thread."""
        seconds = time.perf_counter() - call.clock
        self.recorder.put(Deferred(trace.id, partial(policy_called, call, response, seconds), size_of(response)))
        self._closed(trace, lambda: text_in(response))

    def _failed(self, trace: _Trace, call: LlmCall, error: BaseException | None) -> None:
        seconds = time.perf_counter() - call.clock
        text = f"{type(error).__name__}: {error}"
        self.recorder.put(Deferred(trace.id, partial(policy_failed, call, text, seconds)))
        if trace.ending is not None and trace.ending.status is TraceStatus.ANSWERED:
            given_up = isinstance(error, _GIVEN_UP)
            trace.ending.status = TraceStatus.INTERRUPTED if given_up else TraceStatus.ERROR
            trace.ending.error = "" if given_up else text
        self._closed(trace, str)

    def _closed(self, trace: _Trace, answer: Callable[[], str]) -> None:
        trace.open_calls -= 1
        if trace.ending is not None and not trace.open_calls:
            trace.ending.answer = trace.ending.answer or answer()
            trace.ending.ended = time.time()
            self.recorder.put(trace.ending)

    # --- tool calls ---

    def _workflow_call_ended(self, span: _Span, call: ToolCall, result: Any, error: BaseException | None) -> None:
        if call.tool_id in span.trace.claimed or (error is None and not isinstance(result, ToolCallResult)):
            return  # an orchestrator reports it, or the tool asks a person and has not ended
        output = error or result.tool_output
        self._begin(span.trace)
        self._tool_ended(span, call.tool_id, call.tool_name, call.tool_kwargs, output)

    def _tool_ended(self, span: _Span, call_id: str, name: str, arguments: Any, output: Any) -> None:
        trace_id, started, seconds = span.trace.id, span.started, time.time() - span.started
        decode = partial(tool_called, trace_id, call_id, name, arguments, output, started, seconds)
        self.recorder.put(Deferred(trace_id, decode))


@dataclass(frozen=True, slots=True)
class RunReporter:
    """Where an orchestrator says what instrumentation cannot see. One for each step."""

    targets: Sequence[tuple[CaptureHandler, _Trace]]

    def run_began(self, run: Run, *, resumed: bool) -> None:
        """Report preferences, budget and catalogue."""
        for handler, trace in self.targets:
            trace.orchestrated = True
            handler.begin(trace, run.id, resumed)
            handler.recorder.put(annotation(trace.id, run))

    def claim(self, call_id: str) -> None:
        """Say that the orchestrator itself reports this call."""
        for _, trace in self.targets:
            trace.claimed.add(call_id)

    def call_ended(self, call: Call, arguments: Any, result: str, started: float) -> None:
        """Report a tool or specialist call, made or not."""
        for handler, trace in self.targets:
            trace.claimed.add(call.call_id)
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
    if not _attached:
        return None
    span_id = active_span_id.get()
    targets = [(handler, trace) for handler in _attached if (trace := handler.trace_of(span_id)) is not None]
    return RunReporter(targets) if targets else None


# --- `with capture(...)`: see toolorch_integrations.capture ---

_attached: list[CaptureHandler] = []


def attach(session: CaptureSession) -> Callable[[], None]:
    """Capture the runs of a session's context; return what ends that."""
    handler = CaptureHandler(session.recorder, lambda: active_session() is session)
    handler.attach()
    return handler.detach
