"""Runs of the gateway's clients, counted: what a key may spend, and what was spent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from toolorch_integrations.budget import Budget
from toolorch_serving.gateway.errors import LimitError, NotFoundError, UnavailableError
from toolorch_serving.gateway.keys import Caller
from toolorch_serving.gateway.limits import PERMIT, Permit
from toolorch_serving.gateway.runner import Runner, RunRequest, RunStream
from toolorch_serving.gateway.state import GatewayState


def runner_of(state: GatewayState, name: str, caller: Caller) -> Runner:
    """Return an orchestrator that a caller may ask.

    Raises:
        NotFoundError: There is none of that name.
        ForbiddenError: The key is not for it.
        UnavailableError: The gateway is about to end.
    """
    if state.draining:
        raise UnavailableError("This gateway is about to end: send the request again.", headers={"Retry-After": "1"})
    runner = state.runners.get(name)
    if runner is None:
        known = ", ".join(repr(other) for other in state.runners) or "none"
        raise NotFoundError(
            f"There is no orchestrator {name!r}; this gateway has {known}.", param="model", code="model_not_found"
        )
    caller.require_model(name)
    return runner


def permit_of(state: GatewayState, request: Request, caller: Caller) -> Permit:
    """Return the permit of a request: the one that came with it, or a new one."""
    permit: Permit | None = request.scope.get(PERMIT)
    if permit is None:
        permit = request.scope[PERMIT] = state.limits.admit(caller)
    return permit


def within_allowance(own: Budget, asked: Budget | None, permit: Permit) -> Budget | None:
    """Return a run's budget cut to what its key has left of the day, and reserve the dollars that it may spend.

    Args:
        own: Of the orchestrator.
        asked: Of the request.
        permit: Of the request; a run without any limit in dollars reserves nothing.

    Raises:
        LimitError: The key has nothing left.
    """
    left = permit.dollars_left()
    if left is None:
        return asked
    if left <= 0:
        raise LimitError("The key has used up its dollars of this day (UTC).", code="insufficient_quota")
    most = (own if asked is None else asked.within(own)).dollars
    dollars = left if most is None else min(left, most)
    if most is not None:
        permit.reserve(dollars)
    return Budget(dollars=dollars) if asked is None else asked.model_copy(update={"dollars": dollars})


@asynccontextmanager
async def counted(state: GatewayState, runner: Runner, request: RunRequest, permit: Permit) -> AsyncIterator[RunStream]:
    """Run, and count what was spent however it ends, before the client sees the end: its next request may be there."""
    stream = runner.run(request)

    def count() -> None:
        ended = stream.ended
        if ended is not None:
            permit.spent(stream.dollars)
            state.metrics.run_ended(runner.name, ended["status"], stream.calls, ended["policy_version"])

    stream.when_ended = count
    try:
        yield stream
    finally:
        await stream.aclose()
        permit.close()
