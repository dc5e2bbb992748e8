"""Calling a specialist: what it is asked, its retries and fallbacks, and what the call cost. Both faces use it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolorch_integrations import observation
from toolorch_integrations.completion import Completion, acomplete, complete
from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import CatalogError, EndpointError
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.prompt import Message, specialist_messages

Ask = Callable[[list[dict[str, Any]]], Completion]
AsyncAsk = Callable[[list[dict[str, Any]]], Awaitable[Completion]]


@dataclass(frozen=True, slots=True)
class SpecialistReply:
    """What a step that was handed over brought.

    Attributes:
        text: The reply, or the words that say that nobody answered.
        calls: Every call that was made for it, failed ones first; the last one decides whether it went well.
    """

    text: str
    calls: list[Call]

    @property
    def ok(self) -> bool:
        """Whether a specialist answered."""
        return self.calls[-1].status is CallStatus.OK

    def artifact(self, final: bool = False) -> dict[str, Any]:
        """Return the calls as JSON-safe values, for a framework's tool result."""
        return {"calls": [call.to_dict() for call in self.calls], "final": final and self.ok}


@dataclass(eq=False)
class SpecialistCaller:
    """A specialist with the means to ask it.

    Attributes:
        specialist: Who is asked.
        ask: How to ask through an object of a framework; None goes to the specialist's endpoint.
        aask: The same on an event loop.
        fallback: Who is asked when this one fails after its retries.

    Raises:
        CatalogError: There is neither an endpoint nor a way to ask.
    """

    specialist: Specialist
    ask: Ask | None = None
    aask: AsyncAsk | None = None
    fallback: SpecialistCaller | None = None

    def __post_init__(self) -> None:
        if self.specialist.endpoint is None and self.ask is None and self.aask is None:
            raise CatalogError(f"The specialist {self.specialist.name!r} has no `endpoint` and no model: give one.")

    def call(self, conversation: Sequence[Message], task: str | None = None) -> SpecialistReply:
        """Ask the specialist, then its fallbacks; never raises for a failing endpoint.

        Args:
            conversation: The run's messages so far.
            task: What the policy wrote, or None to hand over the request.
        """
        calls: list[Call] = []
        for caller in self._chain():
            messages = specialist_messages(caller.specialist, conversation, task)
            started = time.monotonic()
            try:
                completion = caller._complete(messages)
            except EndpointError as error:
                calls.append(caller._failed(error, started))
            else:
                return SpecialistReply(completion.text, [*calls, caller._called(completion)])
        return SpecialistReply(observation.failed(self.specialist.name, calls[0].error), calls)

    async def acall(self, conversation: Sequence[Message], task: str | None = None) -> SpecialistReply:
        """Do as `call`, on the running event loop."""
        calls: list[Call] = []
        for caller in self._chain():
            messages = specialist_messages(caller.specialist, conversation, task)
            started = time.monotonic()
            try:
                completion = await caller._acomplete(messages)
            except EndpointError as error:
                calls.append(caller._failed(error, started))
            else:
                return SpecialistReply(completion.text, [*calls, caller._called(completion)])
        return SpecialistReply(observation.failed(self.specialist.name, calls[0].error), calls)

    def limited_to(self, names: Container[str]) -> SpecialistCaller:
        """Return this caller with only those fallbacks, for a request that hides the others."""
        kept: SpecialistCaller | None = None
        for caller in reversed(self._chain()):
            if caller is self or caller.specialist.name in names:
                kept = replace(caller, fallback=kept)
        assert kept is not None
        return kept

    def _chain(self) -> list[SpecialistCaller]:
        chain: list[SpecialistCaller] = []
        caller: SpecialistCaller | None = self
        while caller is not None and caller not in chain:
            chain.append(caller)
            caller = caller.fallback
        return chain

    def _complete(self, messages: list[dict[str, Any]]) -> Completion:
        if self.ask is not None:
            return self.ask(messages)
        endpoint = self.specialist.endpoint
        if endpoint is None:
            raise EndpointError(f"{self.specialist.name} answers on an event loop only: use the async methods")
        return complete(endpoint, messages, self.specialist.retries)

    async def _acomplete(self, messages: list[dict[str, Any]]) -> Completion:
        if self.aask is not None:
            return await self.aask(messages)
        if self.specialist.endpoint is None:
            raise EndpointError(f"{self.specialist.name} does not answer on an event loop: use the sync methods")
        return await acomplete(self.specialist.endpoint, messages, self.specialist.retries)

    def _called(self, completion: Completion) -> Call:
        return Call(
            kind=CallKind.SPECIALIST,
            name=self.specialist.name,
            model=completion.model,
            input_tokens=completion.input_tokens,
            output_tokens=completion.output_tokens,
            dollars=self.specialist.price.dollars(completion.input_tokens, completion.output_tokens),
            seconds=completion.seconds,
            attempts=completion.attempts,
        )

    def _failed(self, error: EndpointError, started: float) -> Call:
        return Call(
            kind=CallKind.SPECIALIST,
            name=self.specialist.name,
            status=CallStatus.ERROR,
            seconds=time.monotonic() - started,
            attempts=error.attempts,
            error=str(error),
        )


def link_fallbacks(callers: Iterable[SpecialistCaller]) -> dict[str, SpecialistCaller]:
    """Return copies by name, each with the caller behind the `fallback` of its specialist.

    They are copies, since a caller may be given to several orchestrators whose fallbacks of one name differ.

    Raises:
        CatalogError: Two share a name, or a fallback names none of them.
    """
    linked: dict[str, SpecialistCaller] = {}
    for caller in callers:
        name = caller.specialist.name
        if name in linked:
            raise CatalogError(f"Two specialists are named {name!r}: rename one.")
        linked[name] = replace(caller)
    for name, caller in linked.items():
        fallback = caller.specialist.fallback
        if fallback is None:
            continue
        if fallback not in linked:
            raise CatalogError(f"fallback of {name!r} names {fallback!r}; the specialists are {sorted(linked)}.")
        caller.fallback = linked[fallback]
    return linked
