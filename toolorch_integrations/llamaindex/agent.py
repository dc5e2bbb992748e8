"""`OrchestratorAgent`: usable wherever a `FunctionAgent` is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from llama_index.core.agent.workflow import AgentOutput, BaseWorkflowAgent, ToolCallResult
from llama_index.core.agent.workflow.agent_context import AgentContext
from llama_index.core.agent.workflow.workflow_events import AgentWorkflowStartEvent
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.objects import ObjectRetriever
from llama_index.core.tools import AsyncBaseTool
from llama_index.core.workflow import Context
from pydantic import Field, PrivateAttr

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Price, Specialist
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.llamaindex.asking import ask_llm
from toolorch_integrations.llamaindex.capture import reporter_of
from toolorch_integrations.llamaindex.events import OrchestratorProgress
from toolorch_integrations.llamaindex.iterations import make_room, take_again, turns_left
from toolorch_integrations.llamaindex.memory import keep
from toolorch_integrations.llamaindex.messages import calls_of, observer_message, readable_calls, tool_message
from toolorch_integrations.llamaindex.policy_turn import PolicyTurn
from toolorch_integrations.llamaindex.runs import AgentRuns
from toolorch_integrations.llamaindex.specialists import SpecialistTool
from toolorch_integrations.llamaindex.standin import StandInRetriever
from toolorch_integrations.llamaindex.state import AgentState, load, save, set_request_options
from toolorch_integrations.llamaindex.tool_call import RECORD
from toolorch_integrations.llamaindex.tools import HANDOFF, AnyTool, as_tools
from toolorch_integrations.llamaindex.turn_calls import confirmed, selections
from toolorch_integrations.policy_step import AskSpecialist
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.reporting import asks_policy
from toolorch_integrations.run import Run
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.select_functions import SelectTools
from toolorch_integrations.steps import adrive, awithin
from toolorch_integrations.view import CatalogFilter


class OrchestratorAgent(BaseWorkflowAgent):
    """An agent that at each step calls tools, hands the step to a specialist, or answers, within a budget.

    It runs alone and as a member of an `AgentWorkflow`. LlamaIndex's limit of steps (`max_iterations`) ends its runs as
    a budget of turns does: on the last step that fits the policy answers, with tools withheld. A run's own preferences,
    budget and catalogue view are given by `agent.run(..., context={"preferences": ...})`, or for all runs with a
    context by `set_options`.

    Args:
        tools: The app's own tools: functions, LlamaIndex tools, LangChain tools.
        llm: The policy; `PolicyLLM` keeps what exact capture needs.
        specialists: Models that a step can be handed to.
        catalog: Prices, descriptions and rules for the tools by name, and further specialists.
        preferences: What callers care about.
        budget: Limits of a run.
        changes: What is hidden, renamed, re-priced or shortlisted.
        fallback: Name of the specialist that answers when the policy cannot; None takes the first.
        tool_timeout: Seconds until a tool is given up whose catalogue entry sets no timeout.
        price: What the policy's tokens cost, where its LLM does not say.
        rendering: `chat`, the growing chat, or `select`, what NVIDIA's Orchestrator-8B expects: a specialist works at
            each step, and its `capabilities` say on what (`enhance_reasoning`, `answer`, `search`).
        select: The app's search and interpreter, for `select`, which has no place for other `tools`.
        confirm: Ask a person before destructive calls. False leaves that to the app.
        state_prompt: How `initial_state` is put before the user's message; by default the message stays as it is.
        fields: All that a `FunctionAgent` takes besides: `name`, `description`, `system_prompt`, `can_handoff_to`,
            `initial_state`, `output_cls`, `streaming`, `timeout` ...

    Raises:
        CatalogError: Tools, specialists and catalogue do not fit together, a tool is named `handoff`, or the rendering
            has no place for an option.

    Example:
        >>> agent = OrchestratorAgent(tools=[search], llm=policy, specialists=[coder, mathematician],
        ...     preferences=Preferences(cost=0.6), budget=Budget(dollars=0.05, turns=12))  # doctest: +SKIP
        >>> str(await agent.run(user_msg="Prove it."))  # doctest: +SKIP
    """

    confirm: bool = Field(True, description="Whether a person is asked before destructive calls.")
    price: Price = Field(default_factory=Price, description="What the policy's tokens cost.")
    _runs: AgentRuns = PrivateAttr()

    def __init__(
        self,
        tools: Sequence[AnyTool] | None = None,
        llm: LLM | None = None,
        *,
        specialists: Sequence[Specialist | SpecialistTool] = (),
        catalog: Catalog | None = None,
        preferences: Preferences | None = None,
        budget: Budget | None = None,
        changes: CatalogFilter | None = None,
        fallback: str | None = None,
        tool_timeout: float = 60.0,
        price: Price | None = None,
        rendering: Literal["chat", "select"] = "chat",
        select: SelectTools | None = None,
        confirm: bool = True,
        state_prompt: Any = "{msg}",
        tool_retriever: ObjectRetriever[Any] | None = None,
        **fields: Any,
    ) -> None:
        runs = AgentRuns(
            as_tools(tools or ()),
            specialists,
            catalog or Catalog(),
            RunOptions(
                preferences=preferences or Preferences(), budget=budget or Budget(), catalog=changes or CatalogFilter()
            ),
            fallback=fallback,
            tool_timeout=tool_timeout,
            rendering=rendering,
            select=select,
        )
        options = runs.rendering.agent_options({**fields, "tool_retriever": tool_retriever})
        own_price = price if price is not None else getattr(llm, "price", None)
        super().__init__(
            tools=list(runs.tools),
            llm=llm,
            state_prompt=state_prompt,
            confirm=confirm,
            price=own_price or Price(),
            **{**options, "tool_retriever": StandInRetriever(self, tool_retriever)},
        )
        self._runs = runs

    @property
    def runs(self) -> AgentRuns:
        """The runs of this agent."""
        return self._runs

    # --- hooks of LlamaIndex ---

    async def take_step(
        self, ctx: AgentContext, llm_input: list[ChatMessage], tools: Sequence[AsyncBaseTool], memory: BaseMemory
    ) -> AgentOutput:
        """Ask the policy within the budget, or end the run; ask a person about destructive calls."""
        await keep(ctx, memory)
        app_prompt, messages = self._without_system_prompt(llm_input)
        state, run = await self._runs.enter(ctx, self.name, messages, tools)
        messages = await self._runs.messages_of(run, state, messages, memory)
        raw: Any = None
        while True:
            if state["run"]["pending"] is None:
                raw = await self._ask(ctx, run, state, app_prompt, messages)
            reply = _last_reply(state["scratchpad"])
            output = AgentOutput(response=reply, raw=raw, current_agent_name=self.name)
            calls = readable_calls(reply)
            if not calls:
                return output
            wanted = await confirmed(self, ctx, run, state, calls)
            if isinstance(wanted, str):  # the person's answer could not be used: LlamaIndex is to take the step again
                await take_again(ctx)
                output.retry_messages = [observer_message(wanted)]
                return output
            output.tool_calls = await selections(self, ctx, run, state, wanted)
            if output.tool_calls:
                return output

    async def handle_tool_call_results(self, ctx: Context, results: list[ToolCallResult], memory: BaseMemory) -> None:
        """Take the results of a turn, in the order in which the policy asked for them."""
        state = await load(ctx, self.name)
        assert state is not None
        run = await self._runs.known(ctx, state)
        order = [call["id"] for call in calls_of(_last_reply(state["scratchpad"]))]
        ordered = sorted(results, key=lambda r: order.index(r.tool_id) if r.tool_id in order else len(order))
        for result in ordered:
            record = result.tool_output.raw_input.get(RECORD)
            if not isinstance(record, Mapping):  # the handoff, which LlamaIndex itself calls
                record = _handoff_record(run, result)
            run.account.catch_up(Call.from_dict(call) for call in record["calls"])
            state["ledger"] = [*state["ledger"], *record["calls"]]
            observed = tool_message(
                result.tool_output.content,
                result.tool_id,
                result.tool_name,
                error=record["error"],
                final=record["final"],
                context=record.get("context"),
            )
            if result.tool_output.blocks:
                observed.blocks = result.tool_output.blocks
            state["scratchpad"] = [*state["scratchpad"], observed]
        direct = next((r for r in ordered if r.return_direct and r.tool_name != HANDOFF), None)
        if direct is not None and not direct.tool_output.is_error:
            answer = ChatMessage(role=MessageRole.ASSISTANT, content=direct.tool_output.content)
            state["scratchpad"] = [*state["scratchpad"], answer]
            self._runs.end(state)
        await save(ctx, self.name, state)

    async def finalize(self, ctx: Context, output: AgentOutput, memory: BaseMemory) -> AgentOutput:
        """Put the run's messages into the memory."""
        state = await load(ctx, self.name)
        if state is not None:
            await memory.aput_messages(state["scratchpad"])
            state["scratchpad"] = []
            state["run"] = {**state["run"], "open": bool(output.tool_calls)}
            await save(ctx, self.name, state)
            if not state["run"]["open"]:
                self._runs.end(state)
        return output

    async def get_tools(self, input_str: str | None = None) -> Sequence[AsyncBaseTool]:
        """Return the tools, and the one that stands in for what the policy calls `input_str`."""
        assert self.tool_retriever is not None
        return [*self._runs.tools, *self._ensure_tools_are_async(await self.tool_retriever.aretrieve(input_str or ""))]

    async def _init_context(self, ctx: Context, ev: AgentWorkflowStartEvent) -> None:
        """Begin a run: read its context, and let the budget of turns be its limit where the caller sets no other."""
        self._runs.rendering.agent_options({"early_stopping_method": ev.get("early_stopping_method", default=None)})
        await set_request_options(ctx, ev.get("context", default=None))
        await super()._init_context(ctx, ev)
        if not ev.get("max_iterations", default=None):
            await make_room(ctx, (await self._runs.options(ctx)).budget.turns)

    # --- the policy's turn ---

    async def _ask(
        self, ctx: AgentContext, run: Run, state: AgentState, app_prompt: str | None, messages: list[ChatMessage]
    ) -> Any:
        """Take the policy's turn and store it; return the endpoint's raw answer."""
        turn = PolicyTurn(
            run,
            [*messages, *state["scratchpad"]],
            app_prompt,
            self._runs.rendering,
            self._runs.fallback(run),
            self.price,
            self.writer(ctx),
            reporter_of(),
            await turns_left(ctx, self._runs.rendering.answer_steps),
        )

        async def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskSpecialist):
                return await awithin(wanted.timeout, wanted.caller.acall(wanted.conversation))
            with asks_policy(self.price):
                return await awithin(wanted.timeout, ask_llm(self, ctx, wanted.request))

        outcome = await adrive(turn.steps(), perform)
        state["scratchpad"] = [*state["scratchpad"], *outcome.added]
        state["ledger"] = [*state["ledger"], *(call.to_dict() for call in turn.calls)]
        now = time.time()
        state["run"] = {**state["run"], "paused": run.account.paused, "updated": now, "confirmed": [], "edits": {}}
        await save(ctx, self.name, state)
        return outcome.response.raw

    # --- inside ---

    def writer(self, ctx: AgentContext) -> Callable[[dict[str, Any]], None]:
        """Return what writes progress to the event stream."""
        name = self.name

        def write(progress: dict[str, Any]) -> None:
            ctx.write_event_to_stream(OrchestratorProgress(type=progress["type"], agent=name, progress=progress))

        return write

    def _without_system_prompt(self, llm_input: list[ChatMessage]) -> tuple[str | None, list[ChatMessage]]:
        """Take the agent's own system prompt off, which the policy's system message holds."""
        first = llm_input[0] if llm_input else None
        if self.system_prompt and first is not None and first.role == MessageRole.SYSTEM:
            return self.system_prompt, llm_input[1:]
        return self.system_prompt, llm_input


def _last_reply(scratchpad: Sequence[ChatMessage]) -> ChatMessage:
    return next(message for message in reversed(scratchpad) if message.role == MessageRole.ASSISTANT)


def _handoff_record(run: Run, result: ToolCallResult) -> dict[str, Any]:
    status = CallStatus.ERROR if result.tool_output.is_error else CallStatus.OK
    calls = run.record_calls(result.tool_id, [Call(CallKind.TOOL, result.tool_name, status)])
    return {"error": result.tool_output.is_error, "calls": [call.to_dict() for call in calls], "final": False}
