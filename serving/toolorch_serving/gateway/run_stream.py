"""A run under way: its progress as it happens, how it ended, and its end when nobody reads any more."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from toolorch_integrations.capture import active_session
from toolorch_integrations.events import TraceEnded, TraceStatus
from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger
from toolorch_integrations.observation import refused
from toolorch_integrations.overrides import policy_overrides
from toolorch_integrations.progress import call_ended
from toolorch_integrations.trace_ids import trace_id as chosen_trace_id
from toolorch_integrations.versions import conversation
from toolorch_serving.gateway.errors import GatewayError
from toolorch_serving.gateway.faults import fault_of
from toolorch_serving.gateway.run_request import RunRequest
from toolorch_serving.gateway.threads import Confirmation, Thread, Threads, Waiting

QUEUE = 64
"""Events that wait for a reader; a run whose reader is slower stands still."""
CLOSING_SECONDS = 10.0
"""How long a cancelled run may take to let go of what it has in flight."""


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


Drive: TypeAlias = "Callable[[RunStream], Awaitable[Outcome]]"


class RunStream:
    """A run under way: its progress events, and as the last one how it ended.

    Events are those of `toolorch_integrations.progress`; the last has the type `ended`, with `status`, `answer`,
    `trace_id`, `thread_id`, `policy_version`, `ledger`, `confirmations` and, where it failed, `error`. The run begins
    with the first event that is asked for.

    Args:
        drive: Runs in the framework, and puts progress on the stream.
        threads: The conversations of the gateway.
        thread: The run's, taken already.
        request: What is asked.

    Attributes:
        trace_id: Known before the run begins; of a run that goes on, that of its beginning.
        thread_id: The conversation.
        ended: The last event, once there is one: also of a run that was closed before its end.
        calls: What this request has called: of a run that goes on, without what was called before.
        when_ended: Called once, before the last event is given: whoever has seen the end can count on it.
    """

    def __init__(self, drive: Drive, threads: Threads, thread: Thread, request: RunRequest) -> None:
        self._framework = drive
        self.thread = thread
        self.request = request
        self.run_id = uuid.uuid4().hex
        self.before: Waiting | None = thread.waiting
        self.trace_id = self.before.trace_id if self.before is not None else self.run_id
        self.thread_id = thread.id
        self.ended: dict[str, Any] | None = None
        self.calls: list[Call] = []
        self.when_ended: Callable[[], None] = lambda: None
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
            ended = self._finish(self._ended("error", "", Ledger(self.calls), error=fault))
            with contextlib.suppress(asyncio.CancelledError):
                await self._queue.put(ended)
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
        return await self._framework(self)

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
        return self._finish(self._ended(status.value, outcome.answer, outcome.ledger, outcome.confirmations))

    def _finish(self, event: dict[str, Any]) -> dict[str, Any]:
        self.ended = event
        self.when_ended()
        return event

    def _cancelled(self, reason: str) -> None:
        """Note how a cancelled run ended; the frameworks' own capture cannot know why."""
        self._finish(self._ended("cancelled", "", Ledger(self.calls)))
        session = active_session()
        if session is not None:
            session.recorder.put(TraceEnded(self.run_id, TraceStatus.INTERRUPTED, error=f"cancelled: {reason}"))

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


def _refusal(asked: Confirmation, ledger: Ledger) -> dict[str, Any]:
    call = Call(CallKind.TOOL, asked["tool"], CallStatus.REFUSED, call_id=asked["call_id"])
    return call_ended(call, ledger, refused(asked["tool"]))
