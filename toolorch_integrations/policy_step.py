"""The policy's turn, written once for both faces: ask it within the budget, judge its reply, or end the run.

A face subclasses `PolicyStep` to say how its framework holds messages and requests; what happens, in which order and in
which words is decided here and in `run`.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from toolorch_integrations import progress
from toolorch_integrations.budget import Limit
from toolorch_integrations.endpoint_errors import explain
from toolorch_integrations.errors import GivenUpError
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.prompt import Message
from toolorch_integrations.run import Next, Run, Turn
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_integrations.steps import Steps

logger = logging.getLogger(__name__)

NO_ANSWER = "No answer could be given: the models that could give one are not available now. Please try again later."
"""What the user is told when the policy and its fallback have failed."""

Response = TypeVar("Response")
"""What a face's framework gives back for a model call."""
Outcome = TypeVar("Outcome")
"""What a face returns to its framework at the end of a step."""


class Reporter(Protocol):
    """Where a step says what capture cannot see by itself."""

    def claim(self, call_id: str) -> None:
        """Say that the orchestrator itself reports this call."""

    def call_ended(self, call: Call, arguments: Any, result: str, started: float) -> None:
        """Report a tool or specialist call, made or not."""

    def budget_ended(self) -> None:
        """Report that a limit ends the run."""

    def run_failed(self, error: str) -> None:
        """Report that nobody could answer."""


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """A step of the generator below: make this model call."""

    request: Any
    timeout: float | None
    """Seconds until it is given up; None without a deadline."""


@dataclass(frozen=True, slots=True)
class AskSpecialist:
    """A step of the generator below: ask this specialist about the whole conversation."""

    caller: SpecialistCaller
    conversation: list[Message]
    timeout: float | None
    """Seconds until it is given up; None without a deadline."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A policy's reply, as far as it must be known to judge it.

    Attributes:
        call: Its ledger entry; run, turn and seconds are filled in here.
        text: Its content.
        names: Names of the calls that could be read.
        problem: Why it is no step; None when it is one.
        answers: Whether it may be the last one of a run.
        settled: The framework has judged it already (structured output): it is taken as it is.
    """

    call: Call
    text: str
    names: Sequence[str]
    problem: str | None
    answers: bool
    settled: bool = False


class PolicyStep(ABC, Generic[Response, Outcome]):
    """One pass of the policy: at least one policy call, or the end of the run.

    Args:
        run: The request.
        fallback: The specialist that answers when the policy cannot.
        write: Takes progress events.
        reporter: Where capture is told; None when nobody captures.
        turns_left: Turns that the framework has room for, this one included; None where it sets no limit.
    """

    pauses: tuple[type[Exception], ...] = ()
    """Exceptions that are no failure of the policy: the run waits for a person."""

    def __init__(
        self,
        run: Run,
        fallback: SpecialistCaller | None,
        write: Callable[[dict[str, Any]], None],
        reporter: Reporter | None,
        turns_left: int | None = None,
    ) -> None:
        self.run = run
        self.fallback = fallback
        self.write = write
        self.reporter = reporter
        self.turns_left = turns_left
        self.calls: list[Call] = []

    def steps(self) -> Steps[Outcome]:
        """Yield `AskPolicy` and `AskSpecialist`; return what the framework is given."""
        while True:
            turn = self.run.next_turn(
                final_reply=self.final_reply(),
                failed_turns=self.failed_turns(),
                results=self.results,
                turns_left=self.turns_left,
            )
            if turn.next is Next.ASK:
                response = yield from self._ask(turn)
                if response is not None:
                    return self.finish(response)
            elif turn.next is Next.FALLBACK:
                return self.finish((yield from self._fall_back("the policy brings nothing but errors")))
            else:
                return self.finish(self._end(turn))

    # --- what a face says ---

    @abstractmethod
    def final_reply(self) -> str | None:
        """Return the reply of a specialist that was called to answer the user, if the newest turn has one."""

    @abstractmethod
    def failed_turns(self) -> int:
        """Return how many turns at the end of the run brought nothing but errors."""

    @abstractmethod
    def results(self) -> list[tuple[str, str]]:
        """Return name and text of the run's tool results so far."""

    @abstractmethod
    def fallback_conversation(self) -> list[Message]:
        """Return what a specialist is asked that answers in the policy's place."""

    @abstractmethod
    def request(self, turn: Turn) -> Any:
        """Return the model request of a turn, which the driver performs."""

    @abstractmethod
    def read(self, response: Response) -> Reply | None:
        """Return the reply in a response; None when there is none to judge."""

    @abstractmethod
    def observe(self, response: Response, problem: str) -> None:
        """Add a reply that is no step, and the observation that says so, to the messages."""

    @abstractmethod
    def accept(self, response: Response) -> Response:
        """Return a reply that is a step, with observations of calls in it that cannot be made."""

    @abstractmethod
    def answer(self, text: str, status: str) -> Response:
        """Return a response that holds an answer which the policy did not give."""

    @abstractmethod
    def finish(self, response: Response) -> Outcome:
        """Return what the framework is given."""

    def fallback_answer(self, text: str) -> str:
        """Return the answer in the reply of a specialist that was asked in the policy's place."""
        return text

    # --- what happens ---

    def _ask(self, turn: Turn) -> Steps[Response | None]:
        """Ask the policy once; None means that its reply was no step and the observation of that was added."""
        request = self.request(turn)
        started = time.monotonic()
        try:
            response: Response = yield AskPolicy(request, self.run.account.seconds_left())
        except self.pauses:
            raise
        except Exception as error:
            return (yield from self._failed(turn, error, time.monotonic() - started))
        reply = self.read(response)
        if reply is None:
            return response
        reply.call.seconds = time.monotonic() - started
        self.calls.append(self.run.record_turn(turn, reply.call))
        self.write(progress.turn(reply.call, self.run.account.ledger, list(reply.names), reply.text.strip()))
        if reply.settled:
            return response
        if turn.last and (reply.problem or not reply.answers):
            return self._end(self.run.end(Limit.TURNS, self.results))
        if reply.problem is None:
            return self.accept(response)
        self.observe(response, reply.problem)
        return None

    def _failed(self, turn: Turn, error: Exception, seconds: float) -> Steps[Response]:
        given_up = isinstance(error, GivenUpError)
        status = CallStatus.TIMEOUT if given_up else CallStatus.ERROR
        call = Call(CallKind.POLICY, "policy", status, seconds=seconds, error=str(error)[:500])
        self.calls.append(self.run.record_turn(turn, call))
        if given_up:
            return self._end(self.run.end(Limit.SECONDS, self.results))
        explained = explain(error)
        after = self.run.after_failure(self.results)
        if after is None or not explained.retryable:
            raise explained from error
        logger.warning("The policy failed: %s", explained)
        if after.next is Next.BUDGET:
            return self._end(after)
        return (yield from self._fall_back(str(explained)))

    def _fall_back(self, reason: str) -> Steps[Response]:
        """Let the fallback specialist answer; the run has made sure that there is one."""
        assert self.fallback is not None
        self.write(progress.fallback(self.fallback.specialist.name, reason))
        started = time.time()
        try:
            reply = yield AskSpecialist(self.fallback, self.fallback_conversation(), self.run.account.seconds_left())
        except GivenUpError:
            return self._end(self.run.end(Limit.SECONDS, self.results))
        calls = self.run.record_calls(f"fallback-{self.run.account.ledger.turns}", reply.calls)
        self.calls += calls
        if self.reporter is not None:
            for call in calls:
                self.reporter.call_ended(call, {}, reply.text, started)
        if reply.ok:
            return self.answer(self.fallback_answer(reply.text), "answered")
        name = self.fallback.specialist.name
        logger.warning("The fallback %s failed too: %s", name, reply.text)
        if self.reporter is not None:
            self.reporter.run_failed(f"neither the policy nor {name} in its place gave an answer")
        return self.answer(NO_ANSWER, "error")

    def _end(self, turn: Turn) -> Response:
        if turn.limit is not None:
            self.write(progress.budget_ended(turn.limit.value, self.run.account.ledger))
            if self.reporter is not None:
                self.reporter.budget_ended()
        return self.answer(turn.text, turn.next.value)
