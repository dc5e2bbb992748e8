"""What a framework adapter tells the recorder: one small dataclass for each thing that happens in a run.

Events are plain data in OpenAI's message format and carry no framework objects. An adapter that would have to decode
framework objects first puts a `Deferred`, which the recorder decodes on its writer thread. Everything that is put names
its trace: what is lost of a trace is counted in its metadata, and a trainer refuses it. Whoever puts an event leaves
the objects in it unchanged from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from toolorch_integrations.ledger import Call, CallStatus

Message: TypeAlias = dict[str, Any]
"""OpenAI format: role, content, tool_calls, tool_call_id, name, reasoning. Absent and None mean the same."""

TokenIds: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]

_BYTES_PER_NUMBER = 36
"""What an int or float in a Python list holds in memory, its slot included."""


class TraceStatus(StrEnum):
    """How a run stands or ended."""

    RUNNING = "running"
    ANSWERED = "answered"
    BUDGET = "budget"
    """It answered with what it had when its budget ended."""
    ERROR = "error"
    INTERRUPTED = "interrupted"
    """It waits for a person, or its process died; it may be resumed."""


@dataclass(slots=True)
class TraceStarted:
    """A run begins, or goes on after an interrupt."""

    trace_id: str
    """32 hex digits, as `uuid.uuid4().hex`; all events of the run carry it, also those of a resumed run."""
    framework: str = ""
    app: str = ""
    """Name of the graph or agent."""
    thread_id: str = ""
    """The framework's conversation id; what `resume` goes by."""
    request: str = ""
    started: float = field(default_factory=time.time)
    """Epoch seconds."""
    resume: bool = False
    """Go on with the newest interrupted trace of `thread_id`, `app` and `framework` (those that are given), whichever
    process wrote it; where there is none, begin a new trace. Later events still carry this event's `trace_id`: the
    recorder maps it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON-safe; tags go under "tags"."""

    def size(self) -> int:
        """Return roughly how many bytes the event holds in memory."""
        return 500 + len(self.request)


@dataclass(slots=True)
class TraceAnnotated:
    """What is known of a run beside its course. None leaves what the trace has; metadata is merged, losses add up."""

    trace_id: str
    preferences: Mapping[str, Any] | None = None
    """`Preferences.model_dump(mode="json")`."""
    budget: Mapping[str, Any] | None = None
    catalog: Mapping[str, Any] | None = None
    """Snapshot of the catalogue as the request saw it; the store keeps each distinct one once."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    """Events of the run that were lost, by reason; a trace has them in its metadata as "dropped"."""

    @property
    def is_note(self) -> bool:
        """Whether it says nothing but what was lost: no trace is begun for that."""
        return bool(self.lost) and self == TraceAnnotated(self.trace_id, lost=self.lost)

    def size(self) -> int:
        """Return roughly how many bytes the event holds in memory."""
        return 2000


@dataclass(slots=True)
class PolicyCalled:
    """A model call ended: the prompt as the server saw it, and what it sampled."""

    trace_id: str
    messages: Sequence[Message]
    """The prompt, as it was sent."""
    reply: Message | None = None
    """The assistant message; None when the call failed."""
    prompt_token_ids: TokenIds | None = None
    """The server's own ids of the whole prompt. None: the endpoint gives none, and the trace is inexact."""
    token_ids: TokenIds | None = None
    """Sampled ids, the end-of-turn token included where the server reports it."""
    logprobs: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None
    """One for each of `token_ids`, natural logarithm."""
    model: str = ""
    """Policy version: the model name that the server answered with."""
    response_id: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The request's sampling parameters: temperature, top_p, seed, tool_choice ..."""
    logprobs_mode: str = ""
    """vLLM's name for what the log-probabilities are of ("processed_logprobs", "raw_logprobs"); empty: not known."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Tool schemas as sent; the store keeps each distinct list once."""
    finish_reason: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """prompt_tokens and completion_tokens, as the endpoint reports them."""
    started: float = 0.0
    """Epoch seconds; 0 where it is not known."""
    seconds: float = 0.0
    dollars: float = 0.0
    agent: str = ""
    """Which subagent or namespace asked; empty for the run's own agent."""
    is_policy: bool = True
    """False for a model call that no orchestrator made, in a run that has one (a summariser of the app, say): kept,
    neither trained on nor charged. In runs without an orchestrator all model calls are the policy's."""
    status: CallStatus = CallStatus.OK
    error: str = ""
    raw_text: str = ""
    """The sampled text as the server gave it, where the message lacks part of it (dropped or broken tool calls)."""
    invalid_tool_calls: Sequence[Mapping[str, Any]] = ()
    """Tool calls in the sampled ids that could not be parsed."""

    def size(self) -> int:
        """Return roughly how many bytes the event holds in memory."""
        numbers = sum(len(n) for n in (self.prompt_token_ids, self.token_ids, self.logprobs) if n is not None)
        text = sum(len(m["content"]) for m in self.messages if isinstance(m.get("content"), str))
        return 1000 + _BYTES_PER_NUMBER * numbers + text + 300 * len(self.messages)


@dataclass(slots=True)
class CallEnded:
    """A tool or specialist call ended. It hangs on the newest sampled message with its `call.call_id`."""

    trace_id: str
    call: Call
    arguments: Any = None
    """JSON-safe: a mapping, or the raw text where it is not JSON."""
    result: str = ""
    """What the policy sees; the store cuts it at a limit and keeps the length."""
    started: float = 0.0
    agent: str = ""

    def size(self) -> int:
        """Return roughly how many bytes the event holds in memory."""
        return 1000 + len(self.result)


@dataclass(slots=True)
class TraceEnded:
    """A run ended, or waits for a person (status `interrupted`)."""

    trace_id: str
    status: TraceStatus = TraceStatus.ANSWERED
    answer: str = ""
    error: str = ""
    ended: float = field(default_factory=time.time)

    def size(self) -> int:
        """Return roughly how many bytes the event holds in memory."""
        return 500 + len(self.answer)


Event: TypeAlias = TraceStarted | TraceAnnotated | PolicyCalled | CallEnded | TraceEnded


class EncodedEvents(Protocol):
    """Events in a form of their own, such as a request and its response as they went over the wire.

    The recorder calls `events` on its writer thread. With a spool their class is registered with `spool.register`.
    """

    @property
    def trace_id(self) -> str:
        """The trace that they belong to."""

    def size(self) -> int:
        """Return roughly how many bytes it holds in memory."""

    def events(self) -> Iterable[Event]:
        """Decode it."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Events that are made of a framework's objects later: on the writer thread, so that the app does not wait.

    It is an `EncodedEvents` that has no form for a spool: it is decoded before it is written there.
    """

    trace_id: str
    """The trace that they belong to: where `decode` fails or the queue is full, the loss is counted in it."""
    decode: Callable[[], Event | Iterable[Event] | None]
    """Called once."""
    held: int = 1000
    """Roughly how many bytes it keeps alive while it waits."""

    def size(self) -> int:
        """Return roughly how many bytes it holds in memory."""
        return self.held

    def events(self) -> Iterable[Event]:
        """Decode it."""
        found = self.decode()
        return () if found is None else (found,) if isinstance(found, Event) else found


SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "repetition_penalty",
    "logit_bias",
    "bad_words",
    "allowed_token_ids",
    "min_tokens",
    "structured_outputs",
    "thinking_token_budget",
)
"""Request parameters that decide what is sampled, by OpenAI's and vLLM's names."""


def sampling_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters among a request's options.

    OpenAI clients only pass parameters that OpenAI does not have (`top_k`, `repetition_penalty` ...) in `extra_body`,
    which is written over the others.
    """
    extra = options.get("extra_body")
    sent = {**options, **(extra if isinstance(extra, Mapping) else {})}
    return {key: sent[key] for key in SAMPLING if sent.get(key) is not None}
