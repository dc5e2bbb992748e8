"""POST /api/chat/orchestrator/stream: a run as Server-Sent Events, for pages that show it step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import ServerSentEvent

from toolorch_integrations.budget import Budget
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter
from toolorch_serving.gateway.accounting import counted, permit_of, runner_of, within_allowance
from toolorch_serving.gateway.completion_bodies import Tokens
from toolorch_serving.gateway.errors import ErrorBody, GatewayError, NotFoundError
from toolorch_serving.gateway.faults import event_fault
from toolorch_serving.gateway.keys import Caller, caller
from toolorch_serving.gateway.runner import Runner, RunRequest, RunStream
from toolorch_serving.gateway.sse import RunResponse, event
from toolorch_serving.gateway.state import GatewayState

Names = Annotated[list[str], Field(max_length=1000)]


class ChatRequest(BaseModel):
    """Body of POST /api/chat/orchestrator/stream.

    Attributes:
        query: What to do; empty only with `decisions`.
        max_rounds: Turns of the policy; the same as the budget's `turns`.
        temperature: Of the policy's sampling.
        max_tokens: Of each of the policy's replies.
        orchestrator: Who is asked; may be left out where there is only one, or one of that name.
        preferences: What the caller cares about.
        budget: Limits of the run.
        thread_id: A conversation that an earlier `start` named.
        decisions: By call id, true or false for each of the confirmations that the conversation waits for.
        allowed: Tools and specialists that may be used; None: all.
        forbidden: Those that must not be used.
        preferred: Those that are used if at all possible.
    """

    model_config = ConfigDict(extra="forbid")

    query: str = ""
    max_rounds: Annotated[int, Field(ge=1, le=1000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Tokens | None = None
    orchestrator: str | None = None
    preferences: Preferences | None = None
    budget: Budget | None = None
    thread_id: str = ""
    decisions: dict[str, bool] | None = None
    allowed: Names | None = None
    forbidden: Names | None = None
    preferred: Names | None = None

    def run_request(self, runner: Runner, owner: str, budget: Budget | None) -> RunRequest:
        """Return what the orchestrator is asked.

        Raises:
            GatewayError: A name is not the catalogue's.
        """
        known = [entry.name for entry in runner.catalog()]
        for field in ("allowed", "forbidden", "preferred"):
            unknown = [name for name in getattr(self, field) or () if name not in known]
            if unknown:
                raise GatewayError(
                    f"{field} names {unknown[0]!r}, which {runner.name} does not have: {sorted(known)}.", param=field
                )
        changes = CatalogFilter(
            allow=None if self.allowed is None else frozenset(self.allowed), deny=frozenset(self.forbidden or ())
        )
        preferences = self.preferences
        if self.preferred:
            own = preferences or runner.options.preferences
            preferences = own.model_copy(update={"tools": {**own.tools, **dict.fromkeys(self.preferred, 1.0)}})
        sampling = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return RunRequest(
            messages=[{"role": "user", "content": self.query}],
            thread_id=self.thread_id,
            owner=owner,
            preferences=preferences,
            budget=budget,
            changes=None if changes == CatalogFilter() else changes,
            sampling={name: value for name, value in sampling.items() if value is not None},
            decisions=self.decisions,
        )

    def limits(self) -> Budget | None:
        """Return the budget, with `max_rounds` as its turns."""
        if self.max_rounds is None:
            return self.budget
        own = self.budget.model_dump(exclude_unset=True) if self.budget is not None else {}
        return Budget(**{**own, "turns": self.max_rounds})


def chat_routes(state: GatewayState) -> APIRouter:
    """Return the route of the chat service."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/api/chat/orchestrator/stream",
        response_class=Response,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "The run, event by event"},
            400: {"model": ErrorBody},
        },
    )
    async def chat(body: ChatRequest, request: Request, who: Annotated[Caller, Depends(caller("chat"))]) -> Response:
        """Ask an orchestrator and watch it work: start, round_start, tool_call, tool_result, final_answer, complete."""
        runner = runner_of(state, _chosen(state, body.orchestrator), who)
        permit = permit_of(state, request, who)
        wanted = body.run_request(runner, who.owner, within_allowance(runner.options.budget, body.limits(), permit))
        run = counted(state, runner, wanted, permit)
        stream = await run.__aenter__()  # what cannot be served is refused before the first byte

        async def events() -> AsyncIterator[ServerSentEvent]:
            async for name, data in _events(stream, body):
                yield event(data, name)

        return RunResponse(state, run, events())

    return router


def _chosen(state: GatewayState, name: str | None) -> str:
    if name is not None:
        return name
    if "orchestrator" in state.runners or not state.runners:
        return "orchestrator"
    if len(state.runners) > 1:
        raise NotFoundError(
            f"There are several orchestrators: say which of {sorted(state.runners)}.", param="orchestrator"
        )
    return next(iter(state.runners))


async def _events(stream: RunStream, body: ChatRequest) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield (
        "start",
        {
            "query": body.query,
            "max_rounds": body.max_rounds,
            "thread_id": stream.thread_id,
            "trace_id": stream.trace_id,
        },
    )
    async for item in stream:
        if item["type"] == "ended":
            for named in _end(item):
                yield named
            return
        shown = _shown(item)
        if shown is not None:
            yield shown
        fault = event_fault(item)
        if fault is not None:
            yield "error", fault


def _shown(item: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    match item["type"]:
        case "turn":
            return "round_start", {"round": item["turn"], **_of(item, "text", "dollars", "seconds")}
        case "call_started":
            return "tool_call", {"tool": item["name"], **_of(item, "arguments", "call_id", "kind")}
        case "call_ended":
            fields = _of(item, "result", "call_id", "status", "kind", "dollars", "seconds", "total")
            return "tool_result", {"tool": item["name"], **fields}
        case _:
            return None


def _end(ended: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    if "error" in ended:
        events.append(("error", _of(ended["error"], "message", "code", "param")))
    elif not ended["confirmations"]:
        events.append(("final_answer", {"content": ended["answer"]}))
    ledger = ended["ledger"]
    summary = {
        "status": ended["status"],
        "rounds": ledger["turns"],
        **_of(ledger, "calls", "dollars", "seconds", "input_tokens", "output_tokens"),
        **_of(ended, "trace_id", "thread_id", "policy_version", "confirmations"),
    }
    return [*events, ("complete", {"summary": summary})]


def _of(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: item[name] for name in names}
