"""A tool or specialist call, written once for both faces: admitted, made, tried again, recorded, told to the policy.

A face subclasses `CallStep` to say how its framework makes a call and holds its result.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from toolorch_integrations import observation, progress
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.errors import GivenUpError
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.policy_step import Reporter
from toolorch_integrations.run import Admission, Rejection, Run
from toolorch_integrations.schema import argument_problem
from toolorch_integrations.steps import Steps

Raw = TypeVar("Raw")
"""What a face's framework gives back for a call."""
Outcome = TypeVar("Outcome")
"""What a face returns to its framework at the end of a step."""


@dataclass(frozen=True, slots=True)
class Execute:
    """A step of the generator below: make this call, giving up after `timeout` seconds."""

    request: Any
    timeout: float


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call.

    Attributes:
        text: What the policy sees; None when the framework's own result says nothing for this call.
        status: How it ended.
        calls: The calls that a specialist made for it, failed ones first; empty for tools.
    """

    text: str | None
    status: CallStatus = CallStatus.OK
    calls: Sequence[Call] = ()

    @property
    def ok(self) -> bool:
        """Whether it went well."""
        return self.status is CallStatus.OK


class CallStep(ABC, Generic[Raw, Outcome]):
    """One tool or specialist call.

    Args:
        run: The request that it belongs to.
        call_id: The call's `tool_call_id`.
        name: The name that the policy wrote.
        arguments: The arguments that it wrote.
        write: Takes progress events.
        reporter: Where capture is told; None when nobody captures.
    """

    pauses: tuple[type[Exception], ...] = ()
    """Exceptions that are no failure of the call: the tool asks a person."""

    def __init__(
        self,
        run: Run,
        call_id: str,
        name: str,
        arguments: Any,
        write: Callable[[dict[str, Any]], None],
        reporter: Reporter | None,
    ) -> None:
        self.run = run
        self.call_id = call_id
        self.name = name
        self.arguments = arguments
        self.write = write
        self.reporter = reporter
        self.started = time.time()
        self.confirmed = False
        """Whether a person has said yes to the call."""

    def steps(self) -> Steps[Outcome]:
        """Yield `Execute`; return what the framework is given."""
        self.run.account.resume(self.call_id)
        reason = self.refusal()
        if reason is not None:
            refused = self.run.record_refusal(self.call_id, self.name)
            return self._finish(Result(observation.refused(self.name, reason), CallStatus.REFUSED), [refused])
        admission = self.run.admit(self.call_id, self.name, self.arguments, self.upper_bound)
        if isinstance(admission, Rejection):
            return self._finish(Result(admission.text, admission.call.status), [admission.call])
        entry = admission.entry
        self.write(progress.call_started(entry.name, entry.kind, self.call_id, self.arguments))
        if self.reporter is not None:
            self.reporter.claim(self.call_id)
        for attempt, timeout in self._attempts(admission):
            try:
                raw: Raw = yield Execute(self.request(entry, timeout), timeout)
            except self.pauses:
                self.run.account.wait(self.call_id)
                raise
            except GeneratorExit:  # the run was cancelled
                self.run.account.settle(self.call_id)
                raise
            except GivenUpError:
                text, status = observation.timed_out(self.name, timeout), CallStatus.TIMEOUT
            except Exception as error:
                text, status = observation.failed(self.name, error), CallStatus.ERROR
            else:
                return self._called(entry, raw, attempt)
        call = self._call(entry, status, attempt, error=text)
        return self._finish(Result(text, status), self.run.record_calls(self.call_id, [call]))

    # --- what a face says ---

    def refusal(self) -> str | None:
        """Return why a person refused the call, or None when nobody did; set `confirmed` where one said yes."""
        return None

    @abstractmethod
    def upper_bound(self, entry: AnyEntry) -> float:
        """Return the most that a call of an entry can cost, in dollars."""

    @abstractmethod
    def request(self, entry: AnyEntry, timeout: float) -> Any:
        """Return an admitted call as the driver is to make it."""

    @abstractmethod
    def read(self, entry: AnyEntry, raw: Raw) -> Result:
        """Return what came of the call.

        It is `malformed`, with the framework's own words, where the framework says that the arguments do not fit.
        """

    @abstractmethod
    def finish(self, result: Result, raw: Raw | None, calls: Sequence[Call]) -> Outcome:
        """Return what the framework is given.

        Args:
            result: What the policy is to see.
            raw: What the framework's own call gave; None when it was not made, raised, or was given wrong arguments.
            calls: What the ledger gained.
        """

    # --- what happens ---

    def _attempts(self, admission: Admission) -> Iterator[tuple[int, float]]:
        """Give number and seconds of each attempt: as many as the entry allows, within the time that the run has."""
        entry = admission.entry
        yield 1, admission.timeout
        for number in range(2, 2 if entry.kind == "specialist" else entry.retries + 2):
            left = self.run.account.seconds_left()
            if left == 0:
                return
            yield number, admission.timeout if left is None else min(admission.timeout, left)

    def _called(self, entry: AnyEntry, raw: Raw, attempts: int) -> Outcome:
        result = self.read(entry, raw)
        if result.status is CallStatus.MALFORMED:
            problem = argument_problem(getattr(entry, "parameters", {}), self.arguments)
            text = observation.malformed(self.name, problem or result.text or "the arguments do not fit")
            call = self._call(entry, CallStatus.MALFORMED, attempts)
            return self._finish(Result(text, call.status), self.run.record_calls(self.call_id, [call]))
        calls = result.calls or [self._call(entry, result.status, attempts)]
        if result.text is not None:
            result = Result(observation.cut(result.text), calls[-1].status, result.calls)
        return self._finish(result, self.run.record_calls(self.call_id, calls), raw)

    def _finish(self, result: Result, calls: Sequence[Call], raw: Raw | None = None) -> Outcome:
        text = result.text or ""
        for call in calls:
            call.confirmed = self.confirmed
            self.write(progress.call_ended(call, self.run.account.ledger, text))
            if self.reporter is not None:
                self.reporter.call_ended(call, self.arguments, text, self.started)
        return self.finish(result, raw, calls)

    def _call(self, entry: AnyEntry, status: CallStatus, attempts: int, error: str = "") -> Call:
        seconds = time.time() - self.started
        return Call(CallKind(entry.kind), entry.name, status, seconds=seconds, attempts=attempts, error=error)


def specialist_calls(artifact: Any) -> list[Call]:
    """Return the calls in what `SpecialistReply.artifact` gave, or none for anything else."""
    if not isinstance(artifact, Mapping) or "calls" not in artifact:
        return []
    return [Call.from_dict(call) for call in artifact["calls"]]
