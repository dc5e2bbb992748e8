"""The calls of a turn before LlamaIndex makes them: a person's yes to destructive ones, and names it can look up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_index.core.agent.workflow.agent_context import AgentContext
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.tools import ToolSelection
from llama_index.core.workflow import Context, HumanResponseEvent

from toolorch_integrations.llamaindex.capture import reporter_of
from toolorch_integrations.llamaindex.confirmation import Decided, decide, destructive_calls, question
from toolorch_integrations.llamaindex.messages import tool_message
from toolorch_integrations.llamaindex.state import AgentState, save
from toolorch_integrations.llamaindex.tools import HANDOFF
from toolorch_integrations.run import Rejection, Run

if TYPE_CHECKING:
    from toolorch_integrations.llamaindex.agent import OrchestratorAgent


async def confirmed(
    agent: OrchestratorAgent, ctx: AgentContext, run: Run, state: AgentState, calls: Sequence[ToolCallBlock]
) -> list[ToolCallBlock] | str:
    """Ask a person about destructive calls; return the calls that are to be made, or why it must be asked again.

    LlamaIndex runs the step again when the answer is there: what was asked stands in the store by then. It may
    wait once in a step only, or one answer would count for two questions.
    """
    asked = destructive_calls(run, calls) if agent.confirm else []
    if not asked:
        return list(calls)
    assert isinstance(ctx, Context)
    pending = state["run"]["pending"]
    if pending is None:
        pending = {"attempt": 0, "problem": ""}
        state["run"] = {**state["run"], "pending": pending}
        await save(ctx, agent.name, state)
    answer = await ctx.wait_for_event(
        HumanResponseEvent,
        waiter_event=question(agent.name, asked, pending["problem"]),
        waiter_id=f"toolorch-{run.id}-{run.account.ledger.turns}-{pending['attempt']}",
        timeout=None,
    )
    decided = decide(run, asked, answer)
    if isinstance(decided, str):
        pending = {"attempt": pending["attempt"] + 1, "problem": decided}
        state["run"] = {**state["run"], "pending": pending}
        await save(ctx, agent.name, state)
        return decided
    agent.runs.resumed(run, state)
    _take(agent, run, state, asked, decided)
    await save(ctx, agent.name, state)
    return [call for call in calls if (call.tool_call_id or "") not in decided.answered]


async def selections(
    agent: OrchestratorAgent, ctx: AgentContext, run: Run, state: AgentState, calls: Sequence[ToolCallBlock]
) -> list[ToolSelection]:
    """Return calls as LlamaIndex wants them; its own handoff is only for those that are shown it."""
    selected: list[ToolSelection] = []
    for call in calls:
        assert isinstance(call.tool_kwargs, dict)
        name = call.tool_name
        if agent.runs.entry_name(run, call) == HANDOFF:
            name = HANDOFF
        elif name == HANDOFF:
            rejection = run.admit(call.tool_call_id or "", name, call.tool_kwargs, lambda _: 0.0)
            assert isinstance(rejection, Rejection)
            observed = tool_message(rejection.text, call.tool_call_id or "", name, error=True)
            state["scratchpad"] = [*state["scratchpad"], observed]
            state["ledger"] = [*state["ledger"], rejection.call.to_dict()]
            await save(ctx, agent.name, state)
            continue
        selected.append(ToolSelection(tool_id=call.tool_call_id or "", tool_name=name, tool_kwargs=call.tool_kwargs))
    return selected


def _take(
    agent: OrchestratorAgent, run: Run, state: AgentState, asked: Sequence[ToolCallBlock], decided: Decided
) -> None:
    """Put what a person decided into the state and the ledger, and tell capture."""
    refused = [run.record_refusal(c.tool_call_id or "", agent.runs.entry_name(run, c)) for c in decided.refused]
    reporter = reporter_of()
    if reporter is not None:
        texts = {str(m.additional_kwargs["tool_call_id"]): m.content or "" for m in decided.observations}
        for block, call in zip(decided.refused, refused, strict=True):
            reporter.call_ended(call, block.tool_kwargs, texts[call.call_id], time.time())
    state["scratchpad"] = [*state["scratchpad"], *decided.observations]
    state["ledger"] = [*state["ledger"], *(call.to_dict() for call in refused)]
    edits = {key: {"name": edit.name, "arguments": edit.arguments} for key, edit in decided.edits.items()}
    allowed = [call_id for call in asked if (call_id := call.tool_call_id or "") not in decided.answered]
    state["run"] = {**state["run"], "pending": None, "confirmed": allowed, "edits": edits}
