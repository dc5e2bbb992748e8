"""What an orchestrator keeps in a context's store, and what a caller may put there.

All of it is JSON-safe or a LlamaIndex message, so that a context serialises and goes on in another process. Agents that
share a store have a part of it each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.agent.workflow.agent_context import AgentContext
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.workflow import Context
from typing_extensions import TypedDict

from toolorch_integrations.budget import Budget
from toolorch_integrations.ledger import Ledger
from toolorch_integrations.llamaindex.messages import text_of
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.run_options import RunOptions, given_options
from toolorch_integrations.run_state import RunState, new_run
from toolorch_integrations.view import CatalogFilter

STATE_KEY = "toolorch"
OPTIONS_KEY = "toolorch_options"
REQUEST_KEY = "toolorch_request"


class AgentRunState(RunState):
    """What a run of an agent needs besides to go on in another process."""

    open: bool
    """Whether the run has not given its answer yet."""
    workflow_run: str
    """LlamaIndex's id of the workflow run that the last step belonged to."""
    mark: str
    """Fingerprint of the messages that the run began with."""
    pending: dict[str, Any] | None
    """Destructive calls of the last reply wait for a person: how often they were asked, and what was wrong."""
    edits: dict[str, dict[str, Any]]
    """`name` and `arguments` that a person has put in the place of a call of this turn, by call id."""


class AgentState(TypedDict):
    """What one agent keeps."""

    run: AgentRunState
    scratchpad: list[ChatMessage]
    """Messages of the run so far; they go to the memory when it ends."""
    ledger: list[dict[str, Any]]
    """Calls of all runs with this context."""


async def load(ctx: AgentContext, agent: str) -> AgentState | None:
    """Return what an agent has stored, or None."""
    states: Mapping[str, AgentState] = await ctx.store.get(STATE_KEY, default={})
    return states.get(agent)


async def save(ctx: AgentContext, agent: str, state: AgentState) -> None:
    """Store what an agent keeps."""
    states: Mapping[str, AgentState] = await ctx.store.get(STATE_KEY, default={})
    await ctx.store.set(STATE_KEY, {**states, agent: state})


async def set_options(
    ctx: Context,
    *,
    preferences: Preferences | None = None,
    budget: Budget | None = None,
    catalog: CatalogFilter | None = None,
) -> None:
    """Set what the orchestrators of a context go by in all further runs with it, in an `AgentWorkflow` too.

    What is None, and what a budget or a filter leaves out, is left to each agent. For one run of an agent that runs
    alone there is `agent.run(..., context={"preferences": ...})`.
    """
    given = given_options({"preferences": preferences, "budget": budget, "catalog": catalog})
    await ctx.store.set(OPTIONS_KEY, given.model_dump(mode="json", exclude_unset=True))


async def set_request_options(ctx: Context, context: Any) -> None:
    """Keep the `context` of one run.

    Raises:
        pydantic.ValidationError: A value is not valid; the message names the field.
    """
    await ctx.store.set(REQUEST_KEY, given_options(context).model_dump(mode="json", exclude_unset=True))


async def options_of(ctx: AgentContext, own: RunOptions) -> RunOptions:
    """Return an agent's options with those of the context and of this run on top."""
    for key in (OPTIONS_KEY, REQUEST_KEY):
        own = own.with_context(await ctx.store.get(key, default=None))
    return own


def new_state(options: RunOptions, messages: Sequence[ChatMessage], before: AgentState | None) -> AgentState:
    """Return the state of a run that begins now; the ledger of earlier runs is kept."""
    run: AgentRunState = {
        **new_run(options),
        "open": True,
        "workflow_run": "",
        "mark": mark_of(messages),
        "pending": None,
        "edits": {},
    }
    return AgentState(run=run, scratchpad=[], ledger=list(before["ledger"]) if before else [])


def mark_of(messages: Sequence[ChatMessage]) -> str:
    """Return a fingerprint of what a run began with: a later request of the same conversation has another."""
    last = text_of(messages[-1]) if messages else ""
    return f"{len(messages)}:{hashlib.sha256(last.encode('utf-8', 'replace')).hexdigest()[:16]}"


async def ledger_of(ctx: Context, agent: str | None = None, *, all_runs: bool = False) -> Ledger:
    """Return what the orchestrators of a context have called.

    Args:
        ctx: The context of a run: `handler.ctx`, or the one that was given to it.
        agent: Only this agent's calls.
        all_runs: Include earlier runs with this context.
    """
    states: Mapping[str, AgentState] = await ctx.store.get(STATE_KEY, default={})
    calls = []
    for name, state in states.items():
        if agent is None or name == agent:
            calls += Ledger.from_dicts(state["ledger"], None if all_runs else state["run"]["id"]).calls
    return Ledger(calls)
