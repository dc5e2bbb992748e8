"""A run of an orchestrator, whichever framework it is made with: what is asked, what is streamed, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

import anyio
import orjson

from toolorch_integrations.budget import Budget
from toolorch_integrations.capture import active_session
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.events import TraceEnded, TraceStatus
from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger
from toolorch_integrations.observation import refused
from toolorch_integrations.overrides import policy_overrides
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.progress import ProgressType, call_ended
from toolorch_integrations.run import RunOptions
from toolorch_integrations.trace_ids import trace_id as chosen_trace_id
from toolorch_integrations.versions import conversation
from toolorch_integrations.view import CatalogFilter
from toolorch_serving.gateway.errors import GatewayError
from toolorch_serving.gateway.faults import fault_of
from toolorch_serving.gateway.threads import Confirmation, Thread, Threads, Waiting

PROGRESS = frozenset(get_args(ProgressType))
"""Types of progress events; an app's own events on the same stream are left alone."""
QUEUE = 64
"""Events that wait for a reader; a run whose reader is slower stands still."""
CLOSING_SECONDS = 10.0
"""How long a cancelled run may take to let go of what it has in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a client asks of an orchestrator.

    Attributes:
        messages: In OpenAI's format with plain text, the user's newest the last. In a conversation that the gateway
            knows, those before it are left out.
        thread_id: The conversation; empty begins one.
        owner: Name of the caller: nobody else goes on with the conversation.
        preferences: None takes the orchestrator's.
        budget: Its limits hold beside those that the orchestrator sets; of two the stricter.
        changes: What is hidden, renamed, re-priced or shortlisted.
        sampling: `temperature`, `max_tokens` and others, by the names of OpenAI's chat completions.
        decisions: By call id, for a run that has stopped for a person; it goes on with the options that it has.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    thread_id: str = ""
    owner: str = ""
    preferences: Preferences | None = None
    budget: Budget | None = None
    changes: CatalogFilter | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, bool] | None = None


class Runner(Protocol):
    """An orchestrator that the gateway serves.

    Attributes:
        name: By which clients ask for it.
        options: What its runs go by where a request says nothing.
    """

    name: str
    options: RunOptions

    def catalog(self) -> Sequence[AnyEntry]:
        """Return what it may call."""

    def run(self, request: RunRequest) -> RunStream:
        """Begin a run; to be called on the event loop.

        Raises:
            GatewayError: The request cannot be served; nothing has begun.
        """


@dataclass(slots=True)
class Outcome:
    """How a face's part of a run ended.

    Attributes:
        answer: The text; empty where it waits for a person.
        ledger: All calls of the run, those before an interrupt included.
        confirmations: What a person is asked.
        asked: What the face needs to hand the decisions over.
        origin: The conversation before the run.
        size: Bytes of the conversation.
    """

    answer: str
    ledger: Ledger
    confirmations: Sequence[Confirmation] = ()
    asked: Any = None
    origin: Any = None
    size: int = 0


class FaceRunner(ABC):
    """What the runners of both frameworks share.

    Args:
        name: By which clients ask for it.
        threads: The conversations of the gateway.
        catalog: What it may call.
        options: What its runs go by where a request says nothing.
    """

    def __init__(self, name: str, threads: Threads, catalog: Catalog, options: RunOptions) -> None:
        self.name = name
        self.options = options
        self._threads = threads
        self._catalog = catalog

    def catalog(self) -> Sequence[AnyEntry]:
        """Return what it may call."""
        return list(self._catalog)

    def run(self, request: RunRequest) -> RunStream:
        """Begin a run.

        Raises:
            GatewayError: The request cannot be served; nothing has begun.
        """
        if request.decisions is None:
            self._check(request)
        thread = self._threads.take(request.thread_id, request.owner, self.name, request.decisions)
        return RunStream(self, self._threads, thread, request)

    def context(self, request: RunRequest) -> dict[str, Any]:
        """Return the context of a run, as both frameworks take it."""
        budget = None if request.budget is None else stricter(self.options.budget, request.budget)
        given = {"preferences": request.preferences, "budget": budget, "catalog": request.changes}
        return {key: value for key, value in given.items() if value is not None}

    @abstractmethod
    async def drive(self, stream: RunStream) -> Outcome:
        """Run in the framework, and put progress on the stream.

        An exception leaves the conversation as it was before the run.
        """

    def _check(self, request: RunRequest) -> None:
        if not request.messages or request.messages[-1]["role"] != "user":
            raise GatewayError("messages must end with a message of the user, which says what to do.", param="messages")
        if not str(request.messages[-1]["content"]).strip():
            raise GatewayError("The user's last message is empty: say what to do.", param="messages")
        for index, message in enumerate(request.messages):
            try:
                str(message["content"]).encode()
            except UnicodeEncodeError as error:
                raise GatewayError(
                    f"messages.{index} is not Unicode text: {error}. Send whole characters.",
                    param=f"messages.{index}.content",
                ) from error
        for name, value in self.context(request).items():
            try:
                orjson.dumps(value.model_dump(mode="json"))
            except (TypeError, ValueError) as error:  # half characters, numbers of more than 64 bits
                field = "changes" if name == "catalog" else name
                raise GatewayError(f"{field} holds what cannot be stored: {error}.", param=field) from error
        if request.changes is not None:
            try:
                self._catalog.view(request.changes)
            except CatalogError as error:
                raise GatewayError(f"changes: {error}", param="changes") from error
        known = {entry.name for entry in self._catalog}
        unknown = sorted(set(request.preferences.tools) - known) if request.preferences is not None else []
        if unknown:
            raise GatewayError(
                f"preferences.tools names {unknown[0]!r}, which {self.name} does not have: {sorted(known)}.",
                param="preferences.tools",
            )


class RunStream:
    """A run under way: its progress events, and as the last one how it ended.

    Events are those of `toolorch_integrations.progress`; the last has the type `ended`, with `status`, `answer`,
    `trace_id`, `thread_id`, `policy_version`, `ledger`, `confirmations` and, where it failed, `error`. The run begins
    with the first event that is asked for.

    Attributes:
        trace_id: Known before the run begins; of a run that goes on, that of its beginning.
        thread_id: The conversation.
        ended: The last event, once there is one: also of a run that was closed before its end.
        calls: What this request has called: of a run that goes on, without what was called before.
    """

    def __init__(self, runner: FaceRunner, threads: Threads, thread: Thread, request: RunRequest) -> None:
        self.runner = runner
        self.thread = thread
        self.request = request
        self.run_id = uuid.uuid4().hex
        self.before: Waiting | None = thread.waiting
        self.trace_id = self.before.trace_id if self.before is not None else self.run_id
        self.thread_id = thread.id
        self.ended: dict[str, Any] | None = None
        self.calls: list[Call] = []
        self._threads = threads
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(QUEUE)
        self._task: asyncio.Task[None] | None = None
        self._limit = ""
        self._closed = False

    @property
    def dollars(self) -> float:
        """What this request has spent."""
        return sum(call.dollars for call in self.calls)

    @property
    def sampling(self) -> Mapping[str, Any]:
        """With which the policy is asked."""
        return self.request.sampling or (self.before.sampling if self.before is not None else {})

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages that are new to the conversation."""
        given = self.request.messages
        if not self.thread.begun:
            return given
        old = max((index for index, message in enumerate(given) if message["role"] == "assistant"), default=-1)
        return given[old + 1 :]

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._closed:
            raise StopAsyncIteration
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        if self._queue.empty() and self._task.done():
            raise StopAsyncIteration
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def put(self, event: dict[str, Any]) -> None:
        """Take a progress event of the framework; waits for the reader."""
        if event["type"] == "turn":
            self._note(CallKind.POLICY, "policy", "ok", event)
        elif event["type"] == "call_ended":
            self._note(CallKind(event["kind"]), event["name"], event["status"], event)
        elif event["type"] == "budget_ended":
            self._limit = event["limit"]
        await self._queue.put(event)

    async def aclose(self, reason: str = "the client disconnected") -> None:
        """End the run if it has not ended, and wait until nothing of it is in flight.

        Args:
            reason: For the trace.
        """
        self._closed = True
        if self._task is None:
            self._give_back(self.thread.size)
            return
        if not self._task.done():
            self._task.cancel(reason)
        with anyio.move_on_after(CLOSING_SECONDS, shield=True):
            await asyncio.wait([self._task])

    # --- the run's own task ---

    async def _work(self) -> None:
        size = self.thread.size
        try:
            with policy_overrides(**self.sampling), conversation(self.thread_id), chosen_trace_id(self.run_id):
                outcome = await self._drive()
            size = outcome.size
            await self._queue.put(self._end(outcome))
        except asyncio.CancelledError as error:
            if self.ended is None:
                self.thread.waiting = None
                self._cancelled(str(error) or "the gateway ended")
        except Exception as error:
            fault = fault_of(error)
            self.thread.waiting = None
            self.ended = self._ended("error", "", Ledger(self.calls), error=fault)
            with contextlib.suppress(asyncio.CancelledError):
                await self._queue.put(self.ended)
        finally:
            self._give_back(size)
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(None)

    async def _drive(self) -> Outcome:
        before, decisions = self.before, self.request.decisions
        if before is not None and decisions is not None:
            for asked in before.confirmations:
                if not decisions[asked["call_id"]]:
                    await self._queue.put(_refusal(asked, before.ledger))
        return await self.runner.drive(self)

    def _end(self, outcome: Outcome) -> dict[str, Any]:
        before = len(self.before.ledger) if self.before is not None else 0
        self.calls = outcome.ledger.calls[before:]
        waits = bool(outcome.confirmations)
        self.thread.begun = self.thread.begun or not waits
        self.thread.waiting = (
            Waiting(self.trace_id, outcome.confirmations, outcome.ledger, self.sampling, outcome.asked, outcome.origin)
            if waits
            else None
        )
        status = TraceStatus.INTERRUPTED if waits else TraceStatus.BUDGET if self._limit else TraceStatus.ANSWERED
        self.ended = self._ended(status.value, outcome.answer, outcome.ledger, outcome.confirmations)
        return self.ended

    def _cancelled(self, reason: str) -> None:
        """Note how a cancelled run ended; the frameworks' own capture cannot know why."""
        self.ended = self._ended("cancelled", "", Ledger(self.calls))
        session = active_session()
        if session is not None:
            session.recorder.put(TraceEnded(self.run_id, TraceStatus.ERROR, error=f"cancelled: {reason}"))

    def _ended(
        self,
        status: str,
        answer: str,
        ledger: Ledger,
        confirmations: Sequence[Confirmation] = (),
        error: GatewayError | None = None,
    ) -> dict[str, Any]:
        versions = [call.model for call in ledger.of(CallKind.POLICY) if call.model]
        event: dict[str, Any] = {
            "type": "ended",
            "status": status,
            "answer": answer,
            "trace_id": self.trace_id,
            "thread_id": self.thread_id,
            "policy_version": versions[-1] if versions else "",
            "ledger": ledger.summary(),
            "confirmations": [dict(item) for item in confirmations],
        }
        if error is not None:
            event["error"] = {**error.body["error"], "status": error.status}
        return event

    def _note(self, kind: CallKind, name: str, status: str, event: Mapping[str, Any]) -> None:
        call = Call(kind, name, CallStatus(status), dollars=event["dollars"], seconds=event["seconds"])
        self.calls.append(call)

    def _give_back(self, size: int) -> None:
        if self.thread.busy:
            self._threads.give_back(self.thread, size)


def stricter(own: Budget, given: Budget) -> Budget:
    """Return a request's budget within the limits that the orchestrator has set in so many words."""
    limits: dict[str, Any] = {}
    for name in Budget.model_fields:
        mine, asked = getattr(own, name), getattr(given, name)
        if name not in given.model_fields_set:
            limits[name] = mine
        elif name in own.model_fields_set and mine is not None:
            limits[name] = mine if asked is None else min(mine, asked)
        else:
            limits[name] = asked
    return Budget(**limits)


def _refusal(asked: Confirmation, ledger: Ledger) -> dict[str, Any]:
    call = Call(CallKind.TOOL, asked["tool"], CallStatus.REFUSED, call_id=asked["call_id"])
    return call_ended(call, ledger, refused(asked["tool"]))
