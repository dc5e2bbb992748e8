"""One request on its way through an orchestrator: what may happen next, and what has been spent.

A face (LangGraph, LlamaIndex) asks a `Run` before and after each policy call and each tool call, and does what it is
told in its framework's own way. So a budget, an error or a refusal means the same, in the same words, everywhere.

A run is rebuilt from its options, its id and its ledger, in any process: nothing else is kept between steps.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from toolorch_integrations import observation
from toolorch_integrations.budget import Account, Limit
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Specialist
from toolorch_integrations.errors import UnknownEntryError
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.prompt import Message, most_tokens, system_prompt
from toolorch_integrations.recent import Recent
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.view import CatalogView

MAX_FAILED_TURNS = 3
"""Turns in a row that may bring nothing but errors before a specialist answers in the policy's place."""


class Next(StrEnum):
    """What comes next in a run."""

    ASK = "ask"
    """Ask the policy."""
    ANSWER = "answer"
    """End with the text that a specialist gave as the final one."""
    BUDGET = "budget"
    """End with what there is: a limit is reached."""
    FALLBACK = "fallback"
    """Let the fallback specialist answer: the policy gets nowhere."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The next step of a run.

    Attributes:
        next: What to do.
        number: Number of the policy call, from 1.
        text: The answer, for `ANSWER` and `BUDGET`.
        last: The policy must answer now: tool calls are withheld.
        limit: The limit that ended the run, for `BUDGET`.
    """

    next: Next
    number: int
    text: str = ""
    last: bool = False
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """A tool or specialist call that may start.

    Attributes:
        entry: What is called, at this request's price.
        timeout: Seconds until it is given up.
    """

    entry: AnyEntry
    timeout: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """A call that is not made.

    Attributes:
        text: The observation that takes its place.
        call: Its record for the ledger.
    """

    text: str
    call: Call


class Run:
    """One request of one orchestrator.

    Args:
        catalog: All that the orchestrator may call.
        options: Preferences, budget and catalogue view of this request.
        request: The user's words.
        account: The run's money and time.
        run_id: Identifies the run in ledgers and traces.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.
        fallback: Name of the specialist that answers when the policy cannot; None takes the first that is shown.

    Raises:
        CatalogError: The options do not fit the catalogue.
    """

    def __init__(
        self,
        catalog: Catalog,
        options: RunOptions,
        *,
        request: str = "",
        account: Account | None = None,
        run_id: str = "",
        tool_timeout: float = 60.0,
        fallback: str | None = None,
    ) -> None:
        self.id = run_id or uuid.uuid4().hex
        self.options = options
        self.account = account or Account(options.budget)
        self._catalog = catalog
        self.view: CatalogView = catalog.view(options.catalog, request)
        self._tool_timeout = tool_timeout
        self._fallback = fallback
        self.framework_data: dict[str, Any] = {}
        """What a face prepares once a run, such as its framework's own messages."""

    @cached_property
    def schemas(self) -> list[dict[str, Any]]:
        """Tool schemas for the policy, in OpenAI's format."""
        return self.view.schemas()

    def system_prompt(self, app_prompt: str | None) -> str:
        """Return the policy's system message."""
        return system_prompt(app_prompt, self.options.preferences, self.options.budget, self.view)

    @property
    def fallback(self) -> Specialist | None:
        """The specialist that answers when the policy cannot."""
        specialists = [entry for entry in self.view.entries if isinstance(entry, Specialist)]
        named = [entry for entry in specialists if entry.name == self._fallback]
        return next(iter(named or specialists), None)

    def next_turn(
        self,
        *,
        final_reply: str | None,
        failed_turns: int,
        results: Callable[[], Sequence[tuple[str, str]]],
        turns_left: int | None = None,
    ) -> Turn:
        """Say what comes next.

        A policy call is never beside another call of its run, so no money is reserved for it.

        Args:
            final_reply: Reply of a specialist that the policy called with `final`, if the last turn brought one.
            failed_turns: Turns in a row that brought nothing but errors.
            results: Gives name and text of the run's tool results so far.
            turns_left: Policy calls that the framework has room for, this one included; None where it sets no limit.
        """
        number = self.account.ledger.turns + 1
        if final_reply is not None:
            return Turn(Next.ANSWER, number, text=final_reply)
        no_room = turns_left is not None and turns_left < 1
        limit = self.account.limit(CallKind.POLICY) or (Limit.TURNS if no_room else None)
        if limit is not None:
            return self.end(limit, results)
        if failed_turns >= MAX_FAILED_TURNS and self.fallback is not None:
            return Turn(Next.FALLBACK, number)
        return Turn(Next.ASK, number, last=self.account.last_turn() or turns_left == 1)

    def after_failure(self, results: Callable[[], Sequence[tuple[str, str]]]) -> Turn | None:
        """Say what comes after a policy call that failed for good; None when nobody can answer in its place."""
        if self.fallback is None:
            return None
        limit = self.account.limit(CallKind.SPECIALIST)
        return Turn(Next.FALLBACK, self.account.ledger.turns) if limit is None else self.end(limit, results)

    def end(self, limit: Limit, results: Callable[[], Sequence[tuple[str, str]]]) -> Turn:
        """Return the end of a run whose limit is reached: it answers with what it has."""
        text = observation.budget_answer(limit, list(results()))
        return Turn(Next.BUDGET, self.account.ledger.turns + 1, text=text, limit=limit)

    def record_turn(self, turn: Turn, call: Call) -> Call:
        """Record a policy call that has ended, well or not."""
        call.run_id, call.turn = self.id, turn.number
        call.call_id = call.call_id or f"turn-{turn.number}"
        self.account.settle("", call)
        return call

    def admit(
        self, call_id: str, name: str, arguments: Any, upper_bound: Callable[[AnyEntry], float]
    ) -> Admission | Rejection:
        """Decide on a tool or specialist call that the policy wants, and reserve money for it.

        Args:
            call_id: The call's `tool_call_id`.
            name: The name that the policy wrote.
            arguments: The arguments that it wrote.
            upper_bound: Gives the most that a call of an entry can cost, in dollars; see `Run.upper_bound`.
        """
        try:
            entry = self.view.resolve(name)
        except UnknownEntryError:
            text = observation.unknown(name, self.view.names)
            return Rejection(text, self._record(call_id, name, CallKind.TOOL, CallStatus.UNKNOWN))
        kind = CallKind(entry.kind)
        if not isinstance(arguments, Mapping):
            text = observation.malformed(name, "the arguments are not a JSON object")
            return Rejection(text, self._record(call_id, entry.name, kind, CallStatus.MALFORMED))
        limit = self.account.admit(call_id, upper_bound(entry), kind)
        if limit is not None:
            text = observation.over_budget(name, limit)
            return Rejection(text, self._record(call_id, entry.name, kind, CallStatus.BUDGET))
        return Admission(entry, self._timeout(entry))

    def upper_bound(self, entry: AnyEntry, conversation: Sequence[Message]) -> float:
        """Return the most that a call can cost at this request's prices, whichever of its fallbacks answers.

        Args:
            entry: What is called.
            conversation: The run's messages so far, the call with its arguments the last: a specialist's prompt is
                made from them.
        """
        if not isinstance(entry, Specialist):
            return entry.price.call
        tokens = most_tokens(conversation)
        shown = {other.name: other for other in self.view.entries if isinstance(other, Specialist)}
        bounds: dict[str, float] = {}
        name: str | None = entry.name
        while name is not None and name not in bounds and name in self._catalog:
            bounds[name] = shown[name].upper_bound(tokens) if name in shown else 0.0
            name = getattr(self._catalog[name], "fallback", None)
        return max(bounds.values())

    def needs_confirmation(self, name: str) -> bool:
        """Whether a person must say yes to a call of what the policy knows as `name`."""
        return name in self.view.names and self.view.resolve(name).needs_confirmation

    def shown_name(self, name: str) -> str:
        """Return the name by which the policy calls what is known as `name`."""
        return self.view.aliases.get(name, name)

    def entry_name(self, name: str) -> str:
        """Return the name of what a person calls by its catalogue name or by the one that the policy sees.

        Raises:
            UnknownEntryError: There is no such thing to call.
        """
        shown = any(entry.name == name for entry in self.view.entries)
        return name if shown else self.view.resolve(name).name

    def record_calls(self, call_id: str, calls: Sequence[Call]) -> list[Call]:
        """Record what came of an admitted call: several calls where a specialist's fallback was asked."""
        for index, call in enumerate(calls):
            call.run_id, call.turn = self.id, self.account.ledger.turns
            call.call_id = call_id if index == len(calls) - 1 else f"{call_id}:{index}"
            call.dollars = self._dollars(call)
            self.account.settle(call_id, call)
        return list(calls)

    def record_refusal(self, call_id: str, name: str) -> Call:
        """Record that a person refused a destructive call."""
        return self._record(call_id, name, CallKind.TOOL, CallStatus.REFUSED)

    def _record(self, call_id: str, name: str, kind: CallKind, status: CallStatus) -> Call:
        call = Call(kind, name, status, call_id=call_id, turn=self.account.ledger.turns, run_id=self.id)
        self.account.settle(call_id, call)
        return call

    def _dollars(self, call: Call) -> float:
        """Return what a call costs at this request's prices; an endpoint that gave no answer is not paid."""
        entry = next((entry for entry in self.view.entries if entry.name == call.name), None)
        if entry is None:
            return call.dollars
        if isinstance(entry, Specialist) and call.status is not CallStatus.OK:
            return 0.0
        return entry.price.dollars(call.input_tokens, call.output_tokens)

    def _timeout(self, entry: AnyEntry) -> float:
        own = entry.timeout
        if own is None and isinstance(entry, Specialist) and entry.endpoint is not None:
            own = entry.endpoint.timeout * (1 + entry.retries)
        limits = [own or self._tool_timeout, self.account.seconds_left()]
        return max(0.001, min(limit for limit in limits if limit is not None))


class Runs(Recent[str, Run]):
    """The runs that are under way in this process, by id; a face ends a run that has given its answer.

    A run that was let go, or that began in another process, is rebuilt from what the face has stored.
    """

    def __init__(self, limit: int = 4096) -> None:
        super().__init__(limit)
